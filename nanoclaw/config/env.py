"""The .env file: the credential, and where model calls go. Its values are secrets: no message of this module shows one.

Lines are ``KEY=VALUE``, as a shell would read them: ``export`` in front, quotes around the value and comments are fine.
Limits: a value is one word, without variables, escapes or quotes in it.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Literal

from nanoclaw.config import values
from nanoclaw.config.strict import FileProblems, read_text
from nanoclaw.models import Credential, Environment, Problem

CREDENTIALS: dict[str, Literal["api_key", "oauth_token"]] = {
    "ANTHROPIC_API_KEY": "api_key",
    "CLAUDE_CODE_OAUTH_TOKEN": "oauth_token",
}
BASE_URL = "ANTHROPIC_BASE_URL"
CHANNEL_SECRETS = ("TELEGRAM_BOT_TOKEN",)
KNOWN_KEYS = (*CREDENTIALS, BASE_URL, *CHANNEL_SECRETS)
_LINE = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
# What can stand in an HTTP header: printable ASCII without spaces (and without quotes).
_VALUE = re.compile(r"""\s*(["']?)([!#-&(-~]*)\1(\s+\#.*|\s*)""", re.VERBOSE)


class _BadLine(Exception):
    """A line that cannot be used; the message does not repeat it, for it may be the secret itself."""


def load_environment(path: Path) -> Environment:
    """.env; a missing file is an empty one. Raises FileProblems."""
    found: dict[str, str] = {}
    lines: dict[str, int] = {}
    problems: list[Problem] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key, value = _read_line(line.strip())
            if other := next((known for known in lines if known == key or {known, key} == CREDENTIALS.keys()), None):
                raise _BadLine(f"{key}: {other} is set on line {lines[other]} already; keep one of the two")
            found[key], lines[key] = value, number
        except _BadLine as error:
            problems.append(Problem(str(path), number, str(error)))
    if problems:
        raise FileProblems(problems)
    credential = next((Credential(CREDENTIALS[key], found[key]) for key in CREDENTIALS if key in found), None)
    secrets = {key: found[key] for key in CHANNEL_SECRETS if key in found}
    return Environment(credential, found.get(BASE_URL, Environment.base_url), secrets)


def _read_line(line: str) -> tuple[str, str]:
    match = _LINE.fullmatch(line)
    if not match:
        raise _BadLine("expected KEY=VALUE")
    key, rest = match.groups()
    if key not in KNOWN_KEYS:
        nearest = difflib.get_close_matches(key.upper(), KNOWN_KEYS, 1)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(KNOWN_KEYS)}"
        raise _BadLine(f"unknown key {key!r}; {advice}")
    value = _VALUE.fullmatch(rest)
    if not value:
        raise _BadLine(f"{key}: expected one word of letters, digits and signs, in matching quotes or without any")
    if not value[2]:
        raise _BadLine(f"{key}: expected a value, found none; remove the line if you do not use it")
    if key == BASE_URL and not values.is_base_url(value[2]):
        raise _BadLine(f"{key}: expected a URL like https://api.anthropic.com")
    return key, value[2].rstrip("/") if key == BASE_URL else value[2]
