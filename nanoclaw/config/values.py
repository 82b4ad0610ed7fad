"""Checks of single values: each takes what the file holds and returns what the program keeps, or raises Expected."""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import zoneinfo
from collections.abc import Callable, Mapping
from pathlib import Path

from nanoclaw.config.strict import Expected
from nanoclaw.errors import UserError
from nanoclaw.paths import chat_directory_name

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_DURATION = 3650 * 86400.0
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def text(value: object) -> str:
    """One line of text that is not empty."""
    if not isinstance(value, str) or not value.strip() or CONTROL.search(value):
        raise Expected("text on one line, in quotes")
    return value


def any_text(value: object) -> str:
    """Text, also empty or of several lines."""
    if not isinstance(value, str):
        raise Expected("text, in quotes")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of :func:`text`."""
    try:
        if isinstance(value, list):
            return tuple(text(item) for item in value)
    except Expected:
        pass
    raise Expected('a list of texts like ["a", "b"]')


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Expected("true or false")
    return value


def whole_number(minimum: int) -> Callable[[object], int]:
    """A check for whole numbers from ``minimum`` on."""

    def check(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise Expected(f"a whole number ≥ {minimum}")
        return value

    return check


def one_of(*choices: str) -> Callable[[object], str]:
    """A check for one of a few words."""

    def check(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            raise Expected(f"one of {', '.join(choices)}", _did_you_mean(value, choices))
        return value

    return check


def duration(value: object) -> float:
    """Seconds, from a number of seconds or from text like "90s", "30m", "1h", "7d"."""
    seconds = math.nan
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= _MAX_DURATION else math.nan
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _SECONDS[match[2]]
    if not 0 < seconds <= _MAX_DURATION:
        raise Expected('a duration (seconds, or "90s", "30m", "1h", "7d"; more than 0, at most 3650d)')
    return seconds


def timezone(value: object) -> str:
    """The name of an IANA time zone that this machine knows."""
    if isinstance(value, str) and known_timezone(value):
        return value
    names = zoneinfo.available_timezones()
    if not names:
        raise Expected("an IANA time zone", "; this machine knows none: install the package tzdata")
    raise Expected('an IANA time zone like "Europe/Berlin"', _did_you_mean(value, names))


def known_timezone(name: str) -> bool:
    """Whether zoneinfo has the zone. False also for what is no zone's name."""
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


def system_timezone(environ: Mapping[str, str] = os.environ, etc: Path = Path("/etc")) -> str:
    """The machine's IANA zone: $TZ, else where ``etc``/localtime points, else ``etc``/timezone, else UTC."""
    candidates = [environ.get("TZ", "").removeprefix(":")]
    candidates.append(os.path.realpath(etc / "localtime"))
    with contextlib.suppress(OSError, ValueError):
        candidates.append((etc / "timezone").read_text(encoding="utf-8").strip())
    for candidate in candidates:
        name = re.sub(r"^.*/zoneinfo/(posix/|right/)?", "", candidate)
        if name and not name.startswith("/") and known_timezone(name):
            return name
    return "UTC"


def jid(value: object) -> str:
    """A chat's address."""
    try:
        if isinstance(value, str) and re.search("[:@]", value) and not re.search(r"\s", value) and text(value):
            chat_directory_name(value)
            return value
    except (Expected, UserError):
        pass
    raise Expected('a chat\'s address like "local:main" or "tg:12345"')


def image(value: object) -> str:
    """The name of a container image, safe as an argument of the engine's command."""
    if not isinstance(value, str) or not _IMAGE.fullmatch(value):
        raise Expected('the name of an image like "nanoclaw-agent:latest"')
    return value


def _did_you_mean(value: object, names: object) -> str:
    candidates = sorted(names) if isinstance(names, (set, tuple)) else []
    nearest = difflib.get_close_matches(value, candidates, 1) if isinstance(value, str) else []
    return f'; did you mean "{nearest[0]}"?' if nearest else ""
