"""A Python environment (venv) that is made once, found complete at every later start, and remade when it broke.

Used by the launcher for ``.venv`` and ``.venv-test``, and by the process runtime for ``.venv-agent``. The launcher asks
at every start, so this module reads two small files and imports only what that takes. Standard library only.

A stamp inside the environment is written last. Without one, or for another interpreter, the environment is remade from
nothing. The directory itself carries the flock of its maker; pip inherits that lock, so that an orphaned pip keeps the
next maker waiting instead of meeting it in the files.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

STAMP = "nanoclaw-stamp"
# What a caller's settings may not do: lead Python or pip to another place than the environment.
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
PROGRESS = ("Collecting ", "Downloading ", "Building ", "Installing ", "Successfully installed", "WARNING: Retrying")


class EnvironmentProblem(Exception):
    """The environment cannot be made: one line for the problem, one for what the person can do."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem} {fix}")
        self.problem = problem
        self.fix = fix


def requirements(pyproject: str, extras: Iterable[str] = ()) -> list[str]:
    """The project's dependencies and those of ``extras``, as pyproject.toml lists them, one quoted line each.

    Read without tomllib, whose import would cost every start 5-10 ms. Raises EnvironmentProblem without such lists.
    """
    try:
        with open(pyproject, encoding="utf-8") as file:
            text = file.read()
        found: list[str] = []
        for name in ("dependencies", *extras):
            listed = text.split(f"\n{name} = [", 1)[1].split("]\n", 1)[0]
            found += [line.strip().rstrip(",").strip('"') for line in listed.splitlines() if line.strip()]
    except (OSError, IndexError) as error:
        raise EnvironmentProblem(f"{pyproject} cannot be read ({error}).", "Restore it: git checkout it.") from None
    return found


def python_of(directory: str) -> str:
    """The path of the Python in the environment ``directory``."""
    return os.path.join(directory, "bin", "python")


def is_current(directory: str, requirements: list[str]) -> bool:
    """Whether the environment is complete, for these requirements and the interpreter that it now leads to."""
    return _read_stamp(directory) == [_interpreter(directory), *requirements]


def ensure(directory: str, requirements: list[str], announce: Callable[[str], object], base: str | None = None) -> str:
    """Make the environment ``directory`` hold ``requirements``, and return the path of its Python.

    ``announce`` gets lines of progress, for a person; none where nothing is to do. ``base`` is the Python to make it
    with, by default the one that runs. Safe to be called by several processes at once: the others wait.
    Raises EnvironmentProblem.
    """
    if not is_current(directory, requirements):
        maker = _Maker(directory, announce, base or getattr(sys, "_base_executable", "") or sys.executable)
        try:
            maker.make(requirements)
        except OSError as error:
            problem = f"{directory} cannot be made: {error.strerror or error}."
            raise EnvironmentProblem(problem, "Make its place writable, and start again.") from None
    return python_of(directory)


def _interpreter(directory: str) -> str:
    """The interpreter that the environment leads to; "" where it leads nowhere."""
    path = os.path.realpath(python_of(directory))
    return path if os.path.exists(path) else ""


def _read_stamp(directory: str) -> list[str]:
    """The interpreter and the requirements of the last complete installation."""
    try:
        with open(os.path.join(directory, STAMP), encoding="utf-8") as file:
            return file.read().splitlines()
    except (OSError, ValueError):
        return []


class _Maker:
    """One process's turn at an environment, under its lock."""

    def __init__(self, directory: str, announce: Callable[[str], object], base: str) -> None:
        self.directory = directory
        self.announce = announce
        self.base = base
        self.lock = -1

    def make(self, requirements: list[str]) -> None:
        import fcntl

        os.makedirs(self.directory, exist_ok=True)
        self.lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.announce(f"Waiting for another start that prepares {os.path.basename(self.directory)} ...")
                fcntl.flock(self.lock, fcntl.LOCK_EX)
            if not is_current(self.directory, requirements):
                self._renew(requirements)
        finally:
            os.close(self.lock)

    def _renew(self, requirements: list[str]) -> None:
        stamp = os.path.join(self.directory, STAMP)
        keep = _read_stamp(self.directory)[:1] == [_interpreter(self.directory)]  # only the requirements are others
        if os.path.exists(stamp):
            os.unlink(stamp)
        if not keep:
            self.announce(f"Preparing {self.directory} (once; later starts find it) ...")
            self._create()
        if requirements:
            self._install(requirements)
        os.sync()  # the stamp vouches for all files, also after a loss of power
        with open(stamp, "w", encoding="utf-8") as file:
            file.write("\n".join([_interpreter(self.directory), *requirements]))

    def _create(self) -> None:
        """Make an empty environment: with a pip of its own, or (Debian without python3-venv) without."""
        command = [self.base, "-m", "venv", "--clear", self.directory]
        if self._run(command)[0] != 0:
            status, lines = self._run([*command, "--without-pip"])
            if status != 0:
                raise EnvironmentProblem(f"{self.directory} cannot be made: {_cause(lines)}", _venv_fix(self.base))

    def _install(self, requirements: list[str]) -> None:
        """By the environment's own pip, else by one of the machine (pip 22.3 or newer)."""
        python = python_of(self.directory)
        pips = ([python, "-m", "pip"], [self.base, "-m", "pip", "--python", python], ["pip3", "--python", python])
        pip = next((pip for pip in pips if self._run([*pip, "--version"])[0] == 0), None)
        if pip is None:
            raise EnvironmentProblem(f"{self.base} has neither ensurepip nor pip.", _venv_fix(self.base))
        status, lines = self._run([*pip, "install", "--progress-bar", "off", *requirements], self.announce)
        if status != 0:
            problem = f"Installing {', '.join(requirements)} failed: {_cause(lines)}"
            raise EnvironmentProblem(problem, "Cure that, and start again.")

    def _run(self, argv: list[str], announce: Callable[[str], object] | None = None) -> tuple[int, list[str]]:
        """The exit status and the output's lines; 127 where the program does not start."""
        import subprocess

        environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        environment.update(PIP_USER="0", PIP_NO_INPUT="1", PIP_DISABLE_PIP_VERSION_CHECK="1", PYTHONUTF8="1")
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(self.lock,),
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            return 127, [f"{argv[0]}: {error.strerror}"]
        lines: list[str] = []
        with process:
            assert process.stdout is not None
            for line in map(str.strip, process.stdout):
                if line:
                    lines.append(line)
                if announce and line.startswith(PROGRESS):
                    announce(line)
        return process.returncode, lines


def _cause(lines: list[str]) -> str:
    """The one line of a failed command's output that says why: pip's own word for it, else the last."""
    if any("connection broken by" in line for line in lines):
        return "the package index cannot be reached (network, proxy, PIP_INDEX_URL)."
    errors = [line[len("ERROR:") :].strip() for line in lines if line.startswith("ERROR:")]
    return (errors or lines or ["no reason given."])[-1]


def _venv_fix(base: str) -> str:
    import shutil

    if shutil.which("apt-get"):
        return "Run: sudo apt-get install python3-venv"
    return f"Install venv and pip for {base}, and start again."
