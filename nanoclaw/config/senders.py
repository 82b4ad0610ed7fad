"""The sender allowlist: who may wake an agent in a chat, decided outside of all that an agent can write.

The file is in the TypeScript edition's format. Read strictly: a file that is wrong anywhere is refused as a whole, and
its caller decides what then holds (``CLOSED`` where nothing better is known), so that a slip of the pen restricts more,
never less.
Limits: a sender's id is what the platform says it is; e-mail addresses, for one, can be forged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from nanoclaw.config import values
from nanoclaw.config.strict import Expected, Keys, Required, TableOf, read_json_document
from nanoclaw.models import Config, Message

Mode = Literal["trigger", "drop"]


@dataclass(frozen=True)
class Rule:
    """``allow``: sender ids, None for everybody. ``mode``: what becomes of the others' messages: "trigger", stored but
    they cannot wake the agent; "drop", not stored."""

    allow: frozenset[str] | None = None
    mode: Mode = "trigger"


@dataclass(frozen=True)
class Senders:
    """sender-allowlist.json (SPEC 2.2). ``chats`` by jid; ``default`` holds for the others. ``closed``: the file cannot
    be used and never could. ``log_denied``: a denied message is to be logged."""

    default: Rule = Rule()
    chats: Mapping[str, Rule] = field(default_factory=dict)
    log_denied: bool = True
    closed: bool = False

    def narrowed(self) -> Senders:
        """What holds while the file is broken: whom it kept out stays out, and whom it let in as one of everybody may
        be the one it was to keep out now. Nobody who was named is shut out, nothing is dropped that was not."""
        chats = {jid: replace(rule, allow=rule.allow or frozenset()) for jid, rule in self.chats.items()}
        default = replace(self.default, allow=self.default.allow or frozenset())
        return replace(self, default=default, chats=chats, closed=True)

    def why_denied(self, message: Message, config: Config) -> tuple[str, Mode] | None:
        """None if the sender may wake the agent, else the reason and what becomes of the message. Owners and the
        assistant itself always may."""
        rule = self.chats.get(message.jid, self.default)
        if rule.allow is None or message.sender in rule.allow:
            return None
        if is_owner(message, config) or (message.is_bot and message.run is not None):
            return None
        if self.closed and not rule.allow:
            return "the sender allowlist is broken: only owners may wake the agent until it is mended", rule.mode
        return f"sender {message.sender} is not in the allowlist for {message.jid}", rule.mode


EVERYBODY = Senders()
"""What holds where there is no file."""

CLOSED = Senders(Rule(frozenset()), closed=True)
"""What holds where there is a file, but never a good one."""


def is_owner(message: Message, config: Config) -> bool:
    """Was it written by the owner's own hand, on the local channel, or by a sender of ``owners``? Those are ids as the
    platform gives them, or with the channel's prefix in front ("tg:555")."""
    if message.from_me or message.jid.startswith("local:") or message.sender in config.owners:
        return True
    prefix, colon, _ = message.jid.partition(":")
    return bool(colon) and f"{prefix}:{message.sender}" in config.owners


def _allow(value: object) -> frozenset[str] | None:
    if value == "*":
        return None
    try:
        ids = values.texts(value)
    except Expected:
        ids = ("*",)
    if "*" in ids:
        raise Expected('"*" (everybody) or a list of sender ids like ["555", "777"]')
    return frozenset(ids)


_RULE_KEYS: Keys = {"allow": Required(_allow), "mode": Required(values.one_of(*get_args(Mode)))}
_KEYS: Keys = {
    "default": Required(_RULE_KEYS),
    "chats": TableOf(values.jid, _RULE_KEYS),
    "logDenied": values.boolean,
}


def load_senders(path: Path) -> Senders:
    """The sender allowlist, EVERYBODY where there is no file. Raises FileProblems."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return EVERYBODY
    except OSError:
        pass  # there may be one that cannot be read: read_document says so
    found = read_json_document(path, _KEYS)
    chats = {jid: Rule(**rule) for jid, rule in found.get("chats", {}).items()}
    return Senders(Rule(**found["default"]), chats, found.get("logDenied", True))
