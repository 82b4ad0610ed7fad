"""Where everything lies, and the one gate from an outside name to a path."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

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


def jid_of_directory(name: str) -> str:
    """The inverse of :func:`chat_directory_name`."""
    return unquote(name)


@dataclass(frozen=True)
class Home:
    """All paths of one home. ``root`` holds state/, groups/ and .env; ``user_config`` the allowlists."""

    root: Path
    user_config: Path

    @classmethod
    def from_environment(cls) -> Home:
        """$NANOCLAW_HOME or the project; $NANOCLAW_CONFIG_DIR or ~/.config/nanoclaw."""
        root = Path(os.environ.get("NANOCLAW_HOME") or PROJECT).expanduser().absolute()
        user_config = os.environ.get("NANOCLAW_CONFIG_DIR") or "~/.config/nanoclaw"
        return cls(root, Path(user_config).expanduser().absolute())

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def env_file(self) -> Path:
        return self.root / ".env"

    @property
    def config_file(self) -> Path:
        return self.state / "config.toml"

    @property
    def group_files(self) -> Path:
        return self.state / "groups"

    @property
    def mount_allowlist(self) -> Path:
        return self.user_config / "mount-allowlist.json"

    @property
    def inbox(self) -> Path:
        return self.state / "inbox"

    @property
    def messages(self) -> Path:
        return self.state / "messages"

    @property
    def cursors(self) -> Path:
        return self.state / "cursors"

    @property
    def sessions(self) -> Path:
        return self.state / "sessions"

    @property
    def runs(self) -> Path:
        return self.state / "runs"

    @property
    def outbox(self) -> Path:
        return self.state / "outbox"

    @property
    def ipc(self) -> Path:
        return self.state / "ipc"

    @property
    def gateway(self) -> Path:
        return self.state / "gateway"

    @property
    def local(self) -> Path:
        return self.state / "local"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def groups(self) -> Path:
        return self.root / "groups"

    def group_file(self, folder: str) -> Path:
        return self.group_files / f"{check_folder(folder)}.toml"

    def group_folder(self, folder: str) -> Path:
        return self.groups / check_folder(folder)

    def chat(self, jid: str) -> Path:
        return self.messages / chat_directory_name(jid)
