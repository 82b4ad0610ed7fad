"""A figure, its verdict, and the table of all: one line a figure, how it was measured below."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Figure:
    """``ours`` and ``baseline`` in ``unit``. ``met`` is judged here, by the function that knows the target.

    ``typescript``: what the TypeScript edition showed (FACTS of its measurement: same kind of machine and stand-in
    model). ``how``: what exactly was measured, for a sceptic.
    """

    what: str
    ours: float
    unit: str
    baseline: float | None
    typescript: str
    target: str
    met: bool
    how: str

    @property
    def ratio(self) -> float | None:
        return self.ours / self.baseline if self.baseline else None


def median_ms(seconds: Sequence[float]) -> float:
    return statistics.median(seconds) * 1000


def spread(seconds: Sequence[float]) -> str:
    """Smallest, 90th percentile and largest, in ms, with the count."""
    ordered = sorted(value * 1000 for value in seconds)
    high = ordered[min(len(ordered) - 1, round(0.9 * (len(ordered) - 1)))]
    return f"n={len(ordered)}, min {short(ordered[0])}, p90 {short(high)}, max {short(ordered[-1])} ms"


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = 3 if abs(value) < 1 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"


def table(figures: Sequence[Figure]) -> str:
    """All figures as aligned columns, then one line a figure on how it was measured."""
    head = ("figure", "ours", "baseline", "ratio", "TypeScript ed.", "target", "")
    rows = [head, *(_row(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    right = (1, 2, 3)
    lines = [
        "  ".join(
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "  ".join("-" * width for width in widths[:-1]) + "  -------")
    lines += ["", *(f"{figure.what}: {figure.how}" for figure in figures)]
    return "\n".join(lines)


def _row(figure: Figure) -> tuple[str, ...]:
    ratio = figure.ratio
    return (
        figure.what,
        f"{short(figure.ours)} {figure.unit}",
        "" if figure.baseline is None else f"{short(figure.baseline)} {figure.unit}",
        "" if ratio is None else f"{ratio:.2f}",
        figure.typescript,
        figure.target,
        "met" if figure.met else "not met",
    )


def calm(at_most: float = 10.0) -> None:
    """Wait until the machine was four fifths idle for 0.3 s, but not longer than ``at_most`` s: what others do on it
    is not to be measured. Where the kernel does not tell, return at once."""
    deadline = time.monotonic() + at_most
    while os.path.exists("/proc/stat") and time.monotonic() < deadline:
        before = _ticks()
        time.sleep(0.3)
        idle, total = (after - earlier for after, earlier in zip(_ticks(), before, strict=True))
        if idle >= 0.8 * total:
            return


def _ticks() -> tuple[int, int]:
    """Idle and all ticks of all cores so far."""
    with open("/proc/stat") as file:
        ticks = [int(value) for value in file.readline().split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)


def say(text: str) -> None:
    """Progress, to stderr: stdout holds the table alone."""
    print(text, file=sys.stderr, flush=True)


def until(look: Callable[[], T | None], seconds: float, what: str, pause: float = 0.0005) -> T:
    """The first value of ``look()`` that is not None. Looks every ``pause`` s; that is the error of what is timed
    with it."""
    deadline = time.monotonic() + seconds
    while (value := look()) is None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
    return value
