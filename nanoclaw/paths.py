"""Where everything lies, and the one gate from an outside name to a path."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import quote

from nanoclaw.errors import UserError

PROJECT = Path(__file__).resolve().parent.parent
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
RESERVED_FOLDERS = frozenset({"global", "errors"})


def check_folder(name: str) -> str:
    """Return ``name`` if it may be a group's folder (SPEC 1), else raise UserError that names it."""
    if not FOLDER.fullmatch(name) or name.lower() in RESERVED_FOLDERS:
        raise UserError(
            f"{name!r} cannot be a group's folder.",
            "Use letters, digits, - and _ (at most 64, a letter or digit first), not 'global' or 'errors'.",
        )
    return name


def chat_directory_name(jid: str) -> str:
    """A JID as one directory name, reversibly: percent-encoding, as in URLs."""
    if not jid or jid.startswith(".") or len(jid.encode()) > 200:
        raise UserError(f"{jid!r} cannot be a chat's address.", "A JID looks like local:main or tg:12345.")
    return quote(jid, safe="@+=,")


class Home:
    """All paths of one home. ``root`` holds state/, groups/ and .env; ``user_config`` the allowlists."""

    def __init__(self, root: Path, user_config: Path) -> None:
        self.root = root
        self.user_config = user_config
        self.mount_allowlist = user_config / "mount-allowlist.json"
        self.sender_allowlist = user_config / "sender-allowlist.json"
        self.env_file = root / ".env"
        self.groups = root / "groups"
        self.state = state = root / "state"
        self.config_file = state / "config.toml"
        self.group_files = state / "groups"
        self.inbox = state / "inbox"
        self.messages = state / "messages"
        self.cursors = state / "cursors"
        self.sessions = state / "sessions"
        self.runs = state / "runs"
        self.outbox = state / "outbox"
        self.ipc = state / "ipc"
        self.gateway = state / "gateway"
        self.local = state / "local"
        self.logs = state / "logs"

    @classmethod
    def from_environment(cls) -> Home:
        """$NANOCLAW_HOME or the project; $NANOCLAW_CONFIG_DIR or ~/.config/nanoclaw."""
        root = Path(os.environ.get("NANOCLAW_HOME") or PROJECT).expanduser().absolute()
        user_config = os.environ.get("NANOCLAW_CONFIG_DIR") or "~/.config/nanoclaw"
        return cls(root, Path(user_config).expanduser().absolute())

    def group_file(self, folder: str) -> Path:
        return self.group_files / f"{check_folder(folder)}.toml"

    def group_folder(self, folder: str) -> Path:
        return self.groups / check_folder(folder)

    def chat(self, jid: str) -> Path:
        return self.messages / chat_directory_name(jid)
