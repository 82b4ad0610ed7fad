"""The agent's image: from what it is made, whether it is there, and which base image can be had on this machine.

Standard library only, for doctor. `commands/build.py` makes the image.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path
from typing import Literal

from nanoclaw.errors import UserError
from nanoclaw.paths import PROJECT
from nanoclaw.runs import processes

SOURCES = ("Dockerfile", "requirements.txt")  # under container/: what is baked into the image
LOCAL_BASE = "nanoclaw-base:bookworm"
_SLIM = re.compile(r"python:3\.(\d+)(?:\.\d+)?-slim(?:-\w+)?")
_OLDEST_PYTHON = 10  # 3.10: what the SDK asks for

ImageState = Literal["absent", "stale", "current"]  # stale: its sources have changed since


def sources_digest(project: Path) -> str:
    """The digest (hex) of what is baked into the image: the value of its label ``nanoclaw.sources``."""
    digest = hashlib.sha256()
    for name in SOURCES:
        content = (project / "container" / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:32]


def image_state(docker: str, image: str, project: Path, deadline: float = 15.0) -> ImageState:
    """Whether ``image`` is there and made from the present sources; ``docker`` is the client's path.

    UserError where the engine does not answer within ``deadline`` s.
    """
    shown = _ask(docker, ["image", "inspect", image], deadline)
    if shown.code != 0:
        return "absent"
    # The engines' formats differ; the digest stands in the label in all of them.
    return "current" if sources_digest(project) in shown.stdout else "stale"


def find_base(docker: str, wanted: str | None) -> str:
    """A base image that can be used now: ``wanted`` (--base), $BASE_IMAGE, a local one, the public one.

    The first two are taken as they are said: absent ones are pulled. UserError where none can be had.
    """
    named = wanted or os.environ.get("BASE_IMAGE")
    base = named or (LOCAL_BASE if _is_local(docker, LOCAL_BASE) else _local_slim(docker)) or public_base()
    # Pulling shows its progress on the terminal.
    if _is_local(docker, base) or subprocess.run([docker, "pull", base], stdin=subprocess.DEVNULL).returncode == 0:
        return base
    raise UserError(
        f"The base image {base} is neither on this machine nor can it be pulled.",
        f"Run container/make-base-image (it makes {LOCAL_BASE} with debootstrap), or name another one with --base.",
    )


def public_base() -> str:
    """The base image that the Dockerfile names as its default."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)", (PROJECT / "container" / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def _is_local(docker: str, image: str) -> bool:
    return _ask(docker, ["image", "inspect", image]).code == 0


def _local_slim(docker: str) -> str:
    """The newest python:3.x-slim* on this machine that is new enough for the SDK, "" where there is none."""
    listed = _ask(docker, ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).stdout.split()
    found = [_SLIM.fullmatch(name.removeprefix("docker.io/library/")) for name in listed]
    return max(((int(m[1]), m[0]) for m in found if m and int(m[1]) >= _OLDEST_PYTHON), default=(0, ""))[1]


def _ask(docker: str, arguments: list[str], deadline: float = 15.0) -> processes.Finished:
    answer = processes.run([docker, *arguments], deadline)
    if answer.code is None:
        raise UserError(f"The engine does not answer: docker {' '.join(arguments)}", "Restart it and try again.")
    return answer
