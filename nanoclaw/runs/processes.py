"""The one module that starts processes. Children get their own session, so that a Ctrl-C at the terminal does not
reach them."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

OUTPUT_BYTES = 1_000_000
_ADVICE = re.compile(r"\s*(Run|See) '[^']*--help'")


@dataclass(frozen=True)
class Finished:
    """How a short command ended; ``code`` is None when it did not end in time (it was killed then)."""

    code: int | None
    stdout: str
    stderr: str

    @property
    def words(self) -> str:
        """The last 1,000 characters of all that it said, on one line, its advice to read the help apart: the cause does
        not always stand in the last line."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        said = " ".join(line.strip() for line in lines if line.strip() and not _ADVICE.match(line))
        return said[-1000:] or f"exit code {self.code}"


def run(argv: Sequence[str], timeout: float, pass_fds: Sequence[int] = ()) -> Finished:
    """Run a short command to its end, at most ``timeout`` s; raises FileNotFoundError, PermissionError for the
    program."""
    process = Popen(argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True, pass_fds=pass_fds)
    try:
        out, err = process.communicate(timeout=timeout)
        code: int | None = process.returncode
    except TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its children, too, hold the pipes
        out, err = process.communicate()
        code = None
    text = [data[-OUTPUT_BYTES:].decode("utf-8", "replace") for data in (out, err)]
    return Finished(code, text[0], text[1])


def run_to_files(argv: Sequence[str], stdout: Path, stderr: Path, timeout: float) -> None:
    """Run a command with its output into files (mode 600); it is killed after ``timeout`` s."""
    with stdout.open("wb") as out, stderr.open("wb") as err:
        stdout.chmod(0o600)
        stderr.chmod(0o600)
        process = Popen(argv, stdin=DEVNULL, stdout=out, stderr=err, start_new_session=True)
        try:
            process.wait(timeout)
        except TimeoutExpired:
            process.kill()
            process.wait()


def spawn(argv: Sequence[str], env: Mapping[str, str], cwd: Path, stdout: Path, stderr: Path) -> Popen[bytes]:
    """Start a process that outlives us, with its output appended to files."""
    with stdout.open("ab") as out, stderr.open("ab") as err:
        return Popen(argv, env=env, cwd=cwd, stdin=DEVNULL, stdout=out, stderr=err, start_new_session=True)
