"""Who may ask for what (ARCHITECTURE 14): one table, one function that returns the refusal or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Asker:
    """Whose directory a request lay in. ``run``: the agent's run, None for a script on the host. ``is_main`` holds only
    if the group is main now, and was when the run began."""

    folder: str
    jid: str
    is_main: bool
    run: str | None = None


Who = Literal["anyone", "main", "script", "main script"]

# For a request about the asker's own group, and about another one (or the whole house).
PERMITTED: dict[str, tuple[Who, Who]] = {
    **dict.fromkeys(("message", "file", "list_groups", "list_tasks"), ("anyone", "main")),
    **dict.fromkeys(("schedule_task", "update_task", "pause_task", "resume_task", "cancel_task"), ("anyone", "main")),
    **dict.fromkeys(("register_group", "refresh_groups"), ("main", "main")),
    **dict.fromkeys(("reset_cursor", "clear_session", "compact", "run_again"), ("script", "main script")),
    **dict.fromkeys(("retry_reply", "drop_reply"), ("script", "main script")),
}


def why_refused(kind: str, own: bool, asker: Asker) -> str | None:
    """None: permitted. What the table does not know is refused."""
    who = PERMITTED[kind][0 if own else 1] if kind in PERMITTED else None
    if who is None:
        return f"{kind} is not a request that anybody may make"
    if who in ("script", "main script") and asker.run is not None:
        return f"{kind} is for the owner's commands and scripts, not for agents"
    if who in ("main", "main script") and not asker.is_main:
        return f"{kind}: only the main group may act for other chats and groups; {asker.folder} is not the main group"
    return None
