"""The .env file: the credential, and where model calls go. Its values are secrets: no message of this module shows one.

Lines are ``KEY=VALUE``, as a shell would read them: ``export`` in front, quotes around the value and comments are fine.
Limits: no variables inside values, no value over several lines.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from nanoclaw.config.strict import Expected, FileProblems, read_text
from nanoclaw.models import Credential, Environment, Problem

_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
_VALUE = re.compile(
    r"""\s*
        (?: "(?P<double>(?:\\["\\]|[^"\\])*)" | '(?P<single>[^']*)' | (?P<plain>(?:[^"'\s\#].*?)?) )
        (?: \s+\#.* | \s* )""",
    re.VERBOSE,
)


def _secret(value: str) -> str:
    """What can stand in an HTTP header: printable ASCII without spaces."""
    if not re.fullmatch(r"[!-~]+", value):
        raise Expected("one word of letters, digits and signs")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username is not None or not re.fullmatch(r"[!-~]+", value):
        raise Expected("a URL like https://api.anthropic.com")
    return value.rstrip("/")


KNOWN_KEYS: dict[str, Callable[[str], str]] = {
    "ANTHROPIC_API_KEY": _secret,
    "CLAUDE_CODE_OAUTH_TOKEN": _secret,
    "ANTHROPIC_BASE_URL": _url,
}


def load_environment(path: Path) -> Environment:
    """.env; a missing file is an empty one. Raises FileProblems."""
    try:
        source = read_text(path)
    except FileNotFoundError:
        return Environment()
    values: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in enumerate(source.split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key, value = _read_line(line.strip(), lines)
            lines[key] = number
            values[key] = KNOWN_KEYS[key](value)
        except Expected as error:
            problems.append(Problem(str(path), number, f"{key}: expected {error.expected}"))
        except _BadLine as error:
            problems.append(Problem(str(path), number, str(error)))
    if "ANTHROPIC_API_KEY" in lines and "CLAUDE_CODE_OAUTH_TOKEN" in lines:
        first, second = sorted(("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN"), key=lines.__getitem__)
        text = f"{second}: {first} is set on line {lines[first]} already; keep one of the two"
        problems.append(Problem(str(path), lines[second], text))
    if problems:
        raise FileProblems(problems)
    return _environment(values)


def _environment(values: dict[str, str]) -> Environment:
    environment = Environment()
    if "ANTHROPIC_API_KEY" in values:
        environment = replace(environment, credential=Credential("api_key", values["ANTHROPIC_API_KEY"]))
    if "CLAUDE_CODE_OAUTH_TOKEN" in values:
        environment = replace(environment, credential=Credential("oauth_token", values["CLAUDE_CODE_OAUTH_TOKEN"]))
    if "ANTHROPIC_BASE_URL" in values:
        environment = replace(environment, base_url=values["ANTHROPIC_BASE_URL"])
    return environment


class _BadLine(Exception):
    """A line that cannot be used; the message does not repeat it, for it may be the secret itself."""


def _read_line(line: str, lines: dict[str, int]) -> tuple[str, str]:
    """Key and value of one line; ``lines`` are the keys seen so far."""
    match = _LINE.fullmatch(line)
    if not match:
        raise _BadLine("expected KEY=VALUE")
    key, rest = match.groups()
    if key not in KNOWN_KEYS:
        nearest = difflib.get_close_matches(key.upper(), KNOWN_KEYS, 1)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(KNOWN_KEYS)}"
        raise _BadLine(f"unknown key {key!r}; {advice}")
    if key in lines:
        raise _BadLine(f"{key}: already set on line {lines[key]}; keep one of the two")
    value = _VALUE.fullmatch(rest)
    if not value:
        raise _BadLine(f"{key}: expected a value in matching quotes, or without any")
    if value["double"] is not None:
        return key, re.sub(r"\\(.)", r"\1", value["double"])
    text = value["single"] if value["single"] is not None else value["plain"]
    if not text:
        raise _BadLine(f"{key}: expected a value, found none; remove the line if you do not use it")
    return key, text
