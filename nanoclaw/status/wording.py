"""A status in words: for a chat, and what the terminal's table has in common with it. Pure."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from nanoclaw.status.gathering import GroupStatus, Status

CHAT_LINES = 15
SILENT_SECONDS = 15.0
"""A runner that touched its heartbeat no later than this ago is alive (it does so every 5 s)."""


def text(status: Status, zone: str, folder: str | None = None) -> str:
    """For a chat, ≤ 15 lines: of ``folder`` only what is its own, None (main): all groups that are not quiet. ``zone``:
    IANA name, for the times."""
    lines = head(status, zone, details=folder is None)
    groups = [one for one in status.groups if (one.folder == folder if folder else not one.is_quiet)]
    lines += [f"{one.folder}: {words(one, status.time, zone)}" for one in groups]
    if not groups:
        lines.append(f"All is quiet: {_count(len(status.groups), 'group')}, nothing runs, nothing waits.")
    lines += status.problems if folder is None else ()
    if len(lines) > CHAT_LINES:
        lines[CHAT_LINES - 1 :] = [f"… and {len(lines) - CHAT_LINES + 1} more: python3 nanoclaw.py status"]
    return "\n".join(lines)


def head(status: Status, zone: str, details: bool = True) -> list[str]:
    """What holds for all groups, one line each; ``details``: also those that only the owner should read."""
    host = status.host or {}
    lines = ["No host is running: what comes in waits."]
    if status.host is not None:
        who = f" (pid {host.get('pid', '?')}, {host.get('mode', '?')})" if details else ""
        lines = [f"The host has been running since {_at(_unix(host.get('started')), status.time, zone)}{who}."]
    if held := status.held:
        until = f", until {_at(_unix(held['until']), status.time, zone)}" if held.get("until") else ""
        detail = f" ({held['detail']})" if details and held.get("detail") else ""
        since = _at(_unix(held.get("since")), status.time, zone)
        cause = str(held.get("cause", "?")).replace("_", " ")
        lines.append(f"Nothing has started since {since}{until}: {cause}{detail}.")
    if status.disk_full and (status.held or {}).get("cause") != "disk":
        lines.append("The disk is full: nothing starts, and nothing new can be kept, until there is room.")
    for name, state in status.channels.items() if details else ():
        if state.get("state") != "connected":
            lines.append(f"Channel {name}: {state.get('state', '?')}. {state.get('detail', '')}".rstrip())
    return lines


def words(group: GroupStatus, now: float, zone: str) -> str:
    """What a group does, in a line."""
    parts = [group.problem] if group.problem else []
    if run := group.run:
        silent = run.age if run.heartbeat_age is None else run.heartbeat_age
        if run.state in ("working", "idle") and silent > SILENT_SECONDS:
            parts.append(f"no sign of life for {span(silent)}")
        else:
            parts.append(f"{run.state} for {span(run.age)}")
        if run.output_age is not None:
            parts.append(f"last output {span(run.output_age)} ago")
    if group.waiting:
        since = f" since {_at(group.since, now, zone)}" if group.since else ""
        parts.append(f"{group.waiting} waiting{since}{' (kept: the next message tries again)' if group.kept else ''}")
    if group.retry_at is not None and group.retry_at > now:
        parts.append(f"tried again at {_at(group.retry_at, now, zone)}")
    if group.said and group.waiting:
        parts.append(f"held back: {group.said}".replace("_", " "))
    counts = ((group.replies, "on the way out"), (group.failed, "not delivered"))
    parts += [f"{count} {what}" for count, what in counts if count]
    parts += [_count(group.errands, "errand")] if group.errands else []
    return ", ".join(parts) or "quiet"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def span(seconds: float) -> str:
    """A duration in its largest unit that fits."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _unix(when: object) -> float | None:
    try:
        return datetime.fromisoformat(str(when)).timestamp()
    except ValueError:
        return None


def _at(when: float | None, now: float, zone: str) -> str:
    """The local time, with the date where it is not today's."""
    if when is None:
        return "?"
    moment, today = (datetime.fromtimestamp(time, ZoneInfo(zone)) for time in (when, now))
    return moment.strftime("%H:%M" if moment.date() == today.date() else "%Y-%m-%d %H:%M")
