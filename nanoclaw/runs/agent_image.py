"""The agent's image: whether it is there, and made from the present sources.

Standard library only, for doctor. `commands/build.py` makes it; `image.py` finds what to make it from.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from nanoclaw.errors import UserError
from nanoclaw.runs import processes

SOURCES = ("Dockerfile", "requirements.txt")  # under container/: what is baked into the image

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
    shown = ask(docker, ["image", "inspect", image], deadline)
    if shown.code != 0:
        return "absent"
    # The engines' formats differ; the digest stands in the label in all of them.
    return "current" if sources_digest(project) in shown.stdout else "stale"


def ask(docker: str, arguments: list[str], deadline: float = 15.0) -> processes.Finished:
    """What the engine's client answers; UserError where it hangs."""
    answer = processes.run([docker, *arguments], deadline)
    if answer.code is None:
        raise UserError(f"The engine does not answer: docker {' '.join(arguments)}", "Restart it and try again.")
    return answer
