"""A home's directories and identity: made at the first start, by whichever command comes first."""

from __future__ import annotations

import os
import uuid

from nanoclaw.config.templates import CONFIG_TEMPLATE, GROUP_TEMPLATE
from nanoclaw.files.atomic import read_json, write_bytes, write_json
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
