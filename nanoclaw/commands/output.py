"""What a command answers: a value for programs and a text for people; ``cli.main`` prints one of the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Result:
    """``value`` is what ``--json`` prints; ``text`` what a person reads, "" for nothing; ``code`` the exit code."""

    value: Any
    text: str = ""
    code: int = 0


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """Columns as wide as their widest cell, with a head; "" where there are no rows."""
    if not rows:
        return ""
    cells = [list(head), *([("" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    )
