"""Checks of single values: each takes what the file holds and returns what the program keeps, or raises Expected."""

from __future__ import annotations

import contextlib
import os
import re
import zoneinfo
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from nanoclaw.config.strict import Expected
from nanoclaw.errors import UserError
from nanoclaw.paths import chat_directory_name

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_MAX_DURATION = 3650 * 86400.0
_SIZE = re.compile(r"(\d+) ?(kB|MB|GB)")
_BYTES = {"kB": 10**3, "MB": 10**6, "GB": 10**9}
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,254}")


def text(value: object) -> str:
    """One line of text that is not empty."""
    if not isinstance(value, str) or not value.strip() or CONTROL.search(value):
        raise Expected("text on one line, in quotes")
    return value


def texts(value: object) -> tuple[str, ...]:
    """A list of :func:`text`."""
    if isinstance(value, list):
        with contextlib.suppress(Expected):
            return tuple(text(item) for item in value)
    raise Expected('a list of texts like ["a", "b"]')


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Expected("true or false")
    return value


def positive(value: object) -> int:
    """A whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Expected("a whole number ≥ 1")
    return value


def one_of(*choices: str) -> Callable[[object], object]:
    """A check for one of a few words."""

    def check(value: object) -> object:
        if value not in choices:
            raise Expected(f"one of {', '.join(choices)}")
        return value

    return check


def duration(value: object) -> float:
    """Seconds, from a number of seconds or from text like "90s", "30m", "1h", "7d"."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        value = float(match[1]) * _SECONDS[match[2]]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= _MAX_DURATION:
        raise Expected('a duration (seconds, or "90s", "30m", "1h", "7d"; more than 0, at most 3650d)')
    return float(value)


def duration_or_never(value: object) -> float:
    """:func:`duration`, or 0 for never."""
    return 0.0 if value == 0 and not isinstance(value, bool) else duration(value)


def size(value: object) -> int:
    """Bytes, from a whole number or from text like "500kB", "20MB", "1GB" (powers of 1,000)."""
    if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
        value = int(match[1]) * _BYTES[match[2]]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Expected('a size (bytes, or "500kB", "20MB", "1GB")')
    return value


def timezone(value: object) -> str:
    if not isinstance(value, str) or not _is_timezone(value):
        raise Expected('an IANA time zone that this machine knows (package tzdata), like "Europe/Berlin"')
    return value


def _is_timezone(name: str) -> bool:
    with contextlib.suppress(zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        zoneinfo.ZoneInfo(name)
        return True
    return False


def system_timezone(environ: Mapping[str, str] = os.environ, etc: Path = Path("/etc")) -> str:
    """The machine's IANA zone: $TZ, else where ``etc``/localtime points, else ``etc``/timezone, else UTC."""
    candidates = [environ.get("TZ", "").removeprefix(":"), os.path.realpath(etc / "localtime")]
    with contextlib.suppress(OSError, ValueError):
        candidates.append((etc / "timezone").read_text(encoding="utf-8").strip())
    names = (re.sub(r"^.*/zoneinfo/(posix/|right/)?", "", candidate) for candidate in candidates)
    return next((name for name in names if name and _is_timezone(name)), "UTC")


def jid(value: object) -> str:
    """A chat's address."""
    with contextlib.suppress(Expected, UserError):
        if re.fullmatch(r"\S*[:@]\S*", text(value)):
            chat_directory_name(text(value))
            return text(value)
    raise Expected('a chat\'s address like "local:main" or "tg:12345"')


def is_base_url(url: str) -> bool:
    """Whether ``url`` is http(s) with a host and without query, fragment or user."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return usable and not (parts.query or parts.fragment or parts.username is not None)


def url(value: object) -> str:
    """A base URL, without a slash at its end."""
    if not isinstance(value, str) or not is_base_url(value):
        raise Expected('a URL like "https://api.example.org"')
    return value.rstrip("/")


def image(value: object) -> str:
    """The name of a container image, safe as an argument of the engine's command."""
    if not isinstance(value, str) or not _IMAGE.fullmatch(value):
        raise Expected('the name of an image like "nanoclaw-agent:latest"')
    return value
