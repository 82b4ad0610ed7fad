"""Whether a file is another one than before, by what one stat tells. Apart from ``watch``, which is slow to load."""

from __future__ import annotations

import os
from pathlib import Path

Stamp = tuple[int, int, int] | None


def stamp_of(path: Path) -> Stamp:
    """What is different when a file's content is: inode, mtime (ns) and size; None where there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns, status.st_size)
