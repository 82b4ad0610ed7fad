"""What the agent's image is made from: which base image can be had on this machine. `commands/build.py` makes it."""

from __future__ import annotations

import os
import re
import subprocess

from nanoclaw.errors import UserError
from nanoclaw.paths import PROJECT
from nanoclaw.runs.agent_image import SOURCES as SOURCES
from nanoclaw.runs.agent_image import ask
from nanoclaw.runs.agent_image import image_state as image_state
from nanoclaw.runs.agent_image import sources_digest as sources_digest

LOCAL_BASE = "nanoclaw-base:bookworm"
_SLIM = re.compile(r"python:3\.(\d+)(?:\.\d+)?-slim(?:-\w+)?")
_OLDEST_PYTHON = 10  # 3.10: what the SDK asks for


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
    return ask(docker, ["image", "inspect", image]).code == 0


def _local_slim(docker: str) -> str:
    """The newest python:3.x-slim* on this machine that is new enough for the SDK, "" where there is none."""
    listed = ask(docker, ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]).stdout.split()
    found = [_SLIM.fullmatch(name.removeprefix("docker.io/library/")) for name in listed]
    return max(((int(m[1]), m[0]) for m in found if m and int(m[1]) >= _OLDEST_PYTHON), default=(0, ""))[1]
