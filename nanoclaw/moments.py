"""The time as records and messages state it."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """UTC, ISO 8601, to the millisecond."""
    return utc(datetime.now(UTC).timestamp())


def utc(seconds: float) -> str:
    """A Unix time (s) in the same form."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
