"""``edit``: a person's editor on a draft of a settings file, which is checked before it takes the file's place."""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from nanoclaw.commands.output import Result
from nanoclaw.config.settings import load_config
from nanoclaw.config.strict import FileProblems
from nanoclaw.errors import UserError
from nanoclaw.files.locks import editing
from nanoclaw.paths import Home
from nanoclaw.stores import registry
from nanoclaw.stores.home import make_home


def config(home: Home, arguments: argparse.Namespace) -> Result:
    """state/config.toml."""
    make_home(home)
    return _edit(home, home.config_file, lambda content: load_config(home.config_file, content))


def group(home: Home, arguments: argparse.Namespace) -> Result:
    """state/groups/<folder>.toml, which must be there, and may be broken."""
    path = home.group_file(arguments.folder)
    if not path.exists():
        registry.find(home, arguments.folder)
    return _edit(home, path, lambda content: registry.check(home, arguments.folder, content))


def _edit(home: Home, path: Path, check: Callable[[bytes], object]) -> Result:
    """Edit ``path`` under its lock; that of all groups, too, for the moment of checking and saving. UserError:
    nothing was saved; where something was written, the draft is kept."""
    with editing(path, wait=0.0):
        before = path.read_bytes()
        draft = Path(tempfile.mkdtemp(prefix="nanoclaw-edit-"), path.name)
        draft.write_bytes(before)
        while True:
            _run_editor(draft, before)
            with editing(home.group_files):
                after = draft.read_bytes() if draft.exists() else before
                if after == before:
                    shutil.rmtree(draft.parent)
                    return Result({"path": str(path), "changed": False}, f"{path}: nothing changed")
                problems = _problems(check, after)
                if not problems:
                    if not path.exists() or path.read_bytes() != before:
                        raise _kept(f"{path} was changed by somebody else meanwhile; nothing was saved.", draft)
                    try:
                        registry.save(path, after)
                    except OSError as error:
                        raise _kept(f"{path}: {error.strerror}; nothing was saved.", draft) from None
                    shutil.rmtree(draft.parent)
                    return Result({"path": str(path), "changed": True}, f"{path}: saved")
            print("\n".join([*problems, "Go on editing? [Y/n] "]), end="", file=sys.stderr, flush=True)
            try:
                answer = sys.stdin.readline()
            except KeyboardInterrupt:
                answer = ""
            if not answer or answer.strip().lower() in ("n", "no"):
                raise _kept("Nothing was saved.", draft)


def _problems(check: Callable[[bytes], object], content: bytes) -> list[str]:
    try:
        check(content)
        return []
    except FileProblems as error:
        return [str(problem) for problem in error.problems]


def _kept(problem: str, draft: Path) -> UserError:
    return UserError(problem, f"What you wrote is in {draft}")


def _run_editor(draft: Path, before: bytes) -> None:
    """$VISUAL, $EDITOR or vi in the foreground. Ctrl-C is the editor's, not ours, while it runs."""
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    previous = signal.signal(signal.SIGINT, lambda number, frame: None)
    try:
        code = subprocess.run([*shlex.split(editor), str(draft)], check=False).returncode
        problem = f"{editor} ended with exit code {code}; nothing was saved." if code else ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        problem = f"The editor {editor!r} of $VISUAL or $EDITOR cannot be started: {reason}."
    finally:
        signal.signal(signal.SIGINT, previous)
    if problem and draft.exists() and draft.read_bytes() != before:
        raise _kept(problem, draft)
    if problem:
        shutil.rmtree(draft.parent)
        raise UserError(problem)
