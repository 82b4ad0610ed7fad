"""``status``: what the house does now, on one page, beside a host and without one."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, replace

from nanoclaw.commands.asking import printable
from nanoclaw.commands.output import Result, table
from nanoclaw.config.settings import load_config
from nanoclaw.config.strict import FileProblems
from nanoclaw.config.values import system_timezone
from nanoclaw.paths import Home
from nanoclaw.status import gather
from nanoclaw.status.gathering import Status
from nanoclaw.status.wording import head, words
from nanoclaw.stores import registry

WATCH_SECONDS = 1.0
CLEAR = "\x1b[H\x1b[2J"


def command(home: Home, arguments: argparse.Namespace) -> Result | int:
    """The value: a ``Status`` (nanoclaw/status/gathering.py); with ``--group`` of that group only. ``--watch``: again
    each second, until Ctrl-C; with ``--json`` one object a line."""
    if not arguments.watch:
        return _look(home, arguments.group)
    while True:
        found = _look(home, arguments.group)
        if arguments.json:
            shown = json.dumps(found.value, ensure_ascii=False)
        else:
            shown = f"{CLEAR if sys.stdout.isatty() else ''}{found.text}\n"
        print(shown, flush=True)
        time.sleep(WATCH_SECONDS)


def _look(home: Home, folder: str | None) -> Result:
    status = gather(home, time.time())
    if folder is not None:
        mine = [one for one in status.groups if one.folder == folder]
        if not mine:
            registry.find(home, folder)  # says which there are, or what is wrong with its file
        status = replace(status, groups=mine)
    return Result(asdict(status), printable(_words(status, _zone(home), folder)))


def _zone(home: Home) -> str:
    try:
        return load_config(home.config_file).timezone
    except FileProblems:
        return system_timezone()


def _words(status: Status, zone: str, folder: str | None) -> str:
    lines = head(status, zone)
    if folder is not None:
        lines += [f"{one.folder}: {words(one, status.time, zone)}" for one in status.groups]
    else:
        busy = [one for one in status.groups if not one.is_quiet]
        rows = [(one.folder, words(one, status.time, zone), one.run.id if one.run else "") for one in busy]
        said = f"Quiet: {len(status.groups) - len(busy)} of {len(status.groups)} groups."
        lines += ["", *filter(None, [table(rows, ("GROUP", "STATE", "RUN"))]), said]
    if status.problems:
        lines += ["", *status.problems, "More: python3 nanoclaw.py doctor"]
    return "\n".join(lines)
