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

SOURCES = ("Dockerfile", "requirements.txt")  # under container/: what is baked into the image
LOCAL_BASE = "nanoclaw-base:bookworm"
DEADLINE = 15.0  # s for one answer of the engine
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


def public_base() -> str:
    """The base image that the Dockerfile names as its default."""
    found = re.search(r"^ARG BASE_IMAGE=(\S+)", (PROJECT / "container" / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def image_state(docker: str, image: str, project: Path) -> ImageState:
    """Whether ``image`` is there and made from the present sources; ``docker`` is the client's path.

    UserError where the engine does not answer.
    """
    shown = _ask(docker, "image", "inspect", image)
    if shown.returncode != 0:
        return "absent"
    # The engines' formats differ; the digest stands in the label in all of them.
    return "current" if sources_digest(project) in shown.stdout else "stale"


def find_base(docker: str, wanted: str | None) -> str:
    """A base image that can be used now: ``wanted`` (--base), $BASE_IMAGE, a local one, the public one.

    The first two are taken as they are said: absent ones are pulled. UserError where none can be had.
    """
    if named := wanted or os.environ.get("BASE_IMAGE"):
        if _is_local(docker, named) or _pull(docker, named):
            return named
        raise UserError(
            f"The base image {named} is neither on this machine nor can it be pulled.",
            "Name another one with --base, or make one with container/make-base-image.",
        )
    if _is_local(docker, LOCAL_BASE):
        return LOCAL_BASE
    if slim := _local_slim(docker):
        return slim
    public = public_base()
    if _pull(docker, public):
        return public
    raise UserError(
        f"There is no base image: {public} cannot be pulled, and none is on this machine.",
        f"Run container/make-base-image (it makes {LOCAL_BASE} with debootstrap), or name one with --base.",
    )


def _is_local(docker: str, image: str) -> bool:
    return _ask(docker, "image", "inspect", image).returncode == 0


def _local_slim(docker: str) -> str | None:
    """The newest python:3.x-slim* on this machine that is new enough for the SDK."""
    listed = _ask(docker, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    names = [name.removeprefix("docker.io/library/") for name in listed]
    slims = [(int(m[1]), name) for name in names if (m := _SLIM.fullmatch(name)) and int(m[1]) >= _OLDEST_PYTHON]
    return max(slims)[1] if slims else None


def _pull(docker: str, image: str) -> bool:
    """Pull ``image``; its progress goes to the terminal."""
    return subprocess.run([docker, "pull", image], stdin=subprocess.DEVNULL).returncode == 0


def _ask(docker: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [docker, *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=DEADLINE)
    except subprocess.TimeoutExpired:
        raise UserError(f"The engine does not answer: {' '.join(command)}", "Restart it and try again.") from None
