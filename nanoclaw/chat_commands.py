"""What a chat can tell the host itself: /stop, /new, /compact, /status (SPEC 11). Obeyed before the message is stored,
by things that a repetition does not double, so that a crash in between repeats the command and never loses it. A
command is no message for the agent.

In the main chat a folder may follow (``/stop family``, ``/stop all``). Allowed: owners everywhere, anyone in main.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from nanoclaw import router, status
from nanoclaw.ipc.handlers import Office
from nanoclaw.models import Config, Group, Message
from nanoclaw.notices import Notices
from nanoclaw.stopping import ALL, ask_to_stop

_COMMAND = re.compile(r"/(stop|new|compact|status)(?![\w/@])[\s!.]*(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Command:
    """``name`` without the slash; ``folder``: whom it is about, ``stopping.ALL`` for everybody. ``unknown``: a
    word that may have meant a group, and names none."""

    name: str
    folder: str
    unknown: str = ""


def parse(message: Message, group: Group, config: Config, groups: Mapping[str, Group]) -> Command | None:
    """The command in a message, None where it is none. Somebody in a hurry is understood: whatever follows /stop, it
    stops. The other commands stand alone, or with a group's folder or name in main."""
    if message.is_bot:
        return None
    found = _COMMAND.fullmatch(router.without_trigger(message.text, group, config).strip())
    if found is None:
        return None
    name, rest = found[1].lower(), found[2].strip()
    if group.is_main and rest:
        meant = rest.casefold()
        if name == "stop" and meant == "all":
            return Command(name, ALL)
        for other in groups.values():
            if meant in (other.folder.casefold(), other.name.casefold()):
                return Command(name, other.folder)
        return Command(name, group.folder, unknown=rest if len(rest.split()) == 1 else "") if name == "stop" else None
    return Command(name, group.folder) if name == "stop" or not rest else None


class ChatCommands:
    """``obey`` is called by the reception, on channels' threads."""

    def __init__(self, office: Office, notices: Notices, is_busy: Callable[[str], bool]) -> None:
        self._office = office
        self._notices = notices
        self._is_busy = is_busy

    def obey(self, group: Group, message: Message) -> str | None:
        """Carry out what a message commands, if anything; returns the command's name then. OSError: hand the message
        in again."""
        settings = self._office.settings
        command = parse(message, group, settings.config, settings.groups)
        if command is None or self._office.transcripts.contains(message.jid, message.id):
            return command.name if command else None
        denied = settings.senders.why_denied(message, settings.config)
        if denied is not None:
            return None
        about = f"{group.folder}-{hashlib.sha256(f'{message.jid} {message.id}'.encode()).hexdigest()[:16]}"
        if not group.is_main and not router.is_owner(message, settings.config):
            self._answer(group, about, f"Only my owners may use /{command.name} here.")
        elif command.name == "stop":
            chat = settings.groups[command.folder].jid if command.folder != ALL else None
            through = self._office.transcripts.last(chat).seq if chat is not None else None
            ask_to_stop(self._office.home, command.folder, message.sender_name or message.sender, through)
            if command.unknown:
                names = ", ".join(settings.groups)
                self._answer(group, about, f"There is no group {command.unknown!r}: I stop this one. Groups: {names}.")
            if command.folder != group.folder:
                whom = "all groups" if command.folder == ALL else command.folder
                self._answer(group, about, f"Stopping {whom}.")
        elif command.name == "status":
            found = status.gather(self._office.home)
            about_one = None if group.is_main and command.folder == group.folder else command.folder
            self._answer(group, about, status.text(found, settings.config.timezone, about_one))
        elif command.name == "new":
            self._answer(group, about, self._new(command.folder))
        else:
            self._answer(group, about, self._compact(command.folder, about))
        return command.name

    def _new(self, folder: str) -> str:
        busy = self._is_busy(folder)
        self._office.sessions.clear(folder, self._office.living(folder))
        self._office.close(folder)
        begins = "A fresh conversation begins with the next message"
        return f"{begins}, when the agent has finished its turn." if busy else f"{begins}."

    def _compact(self, folder: str, about: str) -> str:
        if self._office.sessions.get(folder) is None and self._office.living(folder) is None:
            return "There is no conversation to compact."
        self._office.errands.put(f"compact-{about}", folder, "/compact", "compact", kind="compact")
        self._office.changed(folder)
        return "I compact the conversation; that takes a moment."

    def _answer(self, group: Group, about: str, text: str) -> None:
        self._notices.say(group.folder, group.jid, "command", text, about)
