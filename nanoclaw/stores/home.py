"""A home's directories and identity, made at the first start by whichever command comes first; and who is its host."""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from typing import Any

from nanoclaw.config.templates import CONFIG_TEMPLATE, GROUP_TEMPLATE
from nanoclaw.files.atomic import read_json, write_bytes, write_json
from nanoclaw.moments import utc_now
from nanoclaw.paths import Home


def make_home(home: Home) -> str:
    """Make what a home needs (the first start), and return its uuid. Nothing that is there is changed."""
    fresh = not home.group_files.exists()
    for path in (
        *(home.state, home.group_files, home.inbox, home.messages, home.cursors, home.sessions, home.runs),
        *(home.outbox, home.ipc / "errors", home.gateway, home.local, home.logs),
    ):
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    (home.groups / "global").mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # to be watched for allowlists; a user without a home directory has none
        home.user_config.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.path.lexists(home.config_file):
        write_bytes(home.config_file, CONFIG_TEMPLATE.encode())
    if fresh:
        write_bytes(home.group_file("main"), GROUP_TEMPLATE.encode())
    identity = home.state / "home.json"
    value = read_json(identity)
    if value is None:
        value = {"id": str(uuid.uuid4())}
        write_json(identity, value)
    return str(value["id"])


def write_host_file(home: Home, mode: str) -> None:
    """Who is the host, for messages to people; the flock decides."""
    note_host(home, pid=os.getpid(), mode=mode, started=utc_now())


def note_host(home: Home, **fields: Any) -> None:
    """Change fields of state/host.json. The caller is the host. Raises OSError."""
    write_json(home.state / "host.json", {**read_host_file(home), **fields})


def read_host_file(home: Home) -> dict[str, Any]:
    """What the last host said of itself; empty where there is nothing."""
    try:
        return dict(json.loads((home.state / "host.json").read_bytes()))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
