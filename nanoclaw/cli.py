"""The command line: what can be called, with which options, and where it is done. Only here are errors for people
printed. A command is imported when it is called."""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from nanoclaw import __version__
from nanoclaw.errors import UserError

PROGRAM = "python3 nanoclaw.py"
EXIT_CODES = "Exit codes: 0 done, 1 not done (one line on stderr says why and what to do), 2 wrong usage."


class _Commands:
    """Adds commands to one level of the command line. A command is done by ``module:function`` of nanoclaw.commands,
    which takes the home and the arguments and returns a Result (or an exit code, where it prints itself)."""

    def __init__(self, parent: argparse.ArgumentParser, prefix: str = "") -> None:
        self._level = parent.add_subparsers(metavar="COMMAND", required=True)
        self._prefix = prefix

    def add(self, name: str, call: str, text: str, *examples: str, prints: bool = False) -> argparse.ArgumentParser:
        full = f"{self._prefix}{name}"
        lines = [f"  {PROGRAM} {full} {example}".rstrip() for example in examples or ("",)]
        command = self._level.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog="Examples:\n" + "\n".join(lines) + f"\n\n{EXIT_CODES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(call=call)
        if not prints:
            command.add_argument("--json", action="store_true", help="print JSON")
        return command

    def group(self, name: str, text: str) -> _Commands:
        parser = self._level.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        return _Commands(parser, f"{self._prefix}{name} ")


def parser() -> argparse.ArgumentParser:
    """All commands."""
    top = argparse.ArgumentParser(prog="nanoclaw.py", description="NanoClaw: a personal assistant host.")
    top.add_argument("--version", action="version", version=f"nanoclaw {__version__}")
    commands = _Commands(top)
    _begin(commands)
    _talk(commands)
    _look(commands)
    _change(commands)
    return top


def _begin(commands: _Commands) -> None:
    one = commands.add("setup", "setup:run", "make settings, credential and first chat", "", "--yes --name Andy")
    one.add_argument("--yes", action="store_true", help="ask nothing: options, environment variables, defaults")
    one.add_argument("--force", action="store_true", help="also replace files that are there")
    one.add_argument("--name", help="what the assistant is called")
    one.add_argument("--timezone", metavar="ZONE", help="IANA time zone, like Europe/Berlin")
    one.add_argument("--chat", choices=["local", "telegram"], help="the first chat: this terminal, or Telegram")

    one = commands.add(
        "demo", "demo:command", "show a conversation with a real agent and the offline model", prints=True
    )
    one.add_argument("--runtime", choices=["docker", "podman", "process"], help="use this runtime, do not look for one")

    one = commands.add("run", "run:command", "be the host", "", "--once", prints=True)
    one.add_argument("--once", action="store_true", help="work off what is pending, then end (for cron)")

    one = commands.add("build", "build:command", "build the agents' container image", prints=True)
    one.add_argument("--base", metavar="IMAGE", help="the image to build on [$BASE_IMAGE, a local one, the public one]")
    one.add_argument("--no-cache", action="store_true")
    one.add_argument("--browser", action="store_true", help="with a browser for the agents")

    commands.add("doctor", "doctor:command", "say what is wrong, and how to cure it")


def _talk(commands: _Commands) -> None:
    one = commands.add("chat", "chat:command", "talk to a group's agent", "", '"What is on today?"', prints=True)
    one.add_argument("--group", metavar="F", help="the group's folder [main]")
    one.add_argument("message", nargs="?", help="one message: print the answer and end")

    one = commands.add(
        "send", "send:run", "say something in a group's chat, as the assistant", '--group main "Backup done"'
    )
    one.add_argument("--group", metavar="F", required=True, help="the group's folder")
    one.add_argument("text", metavar="TEXT", help="what to say; - reads it from standard input")

    text = "stop what a group's agent does, and cancel what waits for it"
    one = commands.add("stop", "control:stop", text, "family", "--all")
    which = one.add_mutually_exclusive_group(required=True)
    which.add_argument("folder", metavar="F", nargs="?", help="the group's folder")
    which.add_argument("--all", action="store_true", help="all groups")
    one = commands.add("new", "control:new", "let the next message begin a fresh conversation", "main")
    one.add_argument("folder", metavar="F")
    one = commands.add("compact", "control:compact", "have an agent's conversation compacted", "main")
    one.add_argument("folder", metavar="F")


def _look(commands: _Commands) -> None:
    one = commands.add("status", "status:command", "show what runs, what waits, and why", "", "--group main", "--watch")
    one.add_argument("--group", metavar="F", help="of this group only")
    one.add_argument("--watch", action="store_true", help="again each second, until Ctrl-C")

    one = commands.add("messages", "messages:run", "show what was said in a group's chat", "", "--group family -n 50")
    one.add_argument("--group", metavar="F", help="the group's folder [main]")
    one.add_argument("-n", type=_count, default=20, metavar="N", help="the last so many [20]")

    runs = commands.group("runs", "look at the runs of the agents, and repeat one")
    one = runs.add("list", "runs:list_runs", "list runs, the newest last", "", "--group main -n 5")
    one.add_argument("--group", metavar="F", help="of this group only")
    one.add_argument("-n", type=_count, default=20, metavar="N", help="the last so many [20]")
    one = runs.add("show", "runs:show", "show all that is known of a run", "main-20261122-093001-123")
    one.add_argument("run", metavar="RUN")
    one = runs.add("again", "runs:again", "start a new run with a run's prompts", "main-20261122-093001-123")
    one.add_argument("run", metavar="RUN")

    sessions = commands.group("sessions", "look at the agents' conversations, and end one")
    sessions.add("list", "sessions:list_sessions", "list the session of each group")
    one = sessions.add("clear", "sessions:clear", "let the next message begin a fresh conversation", "main")
    one.add_argument("folder", metavar="F")

    cursor = commands.group("cursor", "look at how far a chat was handed to its agent, and move it")
    one = cursor.add("show", "cursor:show", "show how far each chat was handed to its agent", "", "main")
    one.add_argument("folder", metavar="F", nargs="?")
    text = "move a cursor: what follows it is handed to the agent (again)"
    one = cursor.add("reset", "cursor:reset", text, "main", "main --to 41", "main --to end")
    one.add_argument("folder", metavar="F")
    one.add_argument("--to", metavar="SEQ", help="behind this message, or `end`; [behind the assistant's last answer]")

    outbox = commands.group("outbox", "look at replies that are not delivered, and decide about one")
    outbox.add("list", "outbox:list_replies", "list the replies that wait, and those that could not be sent")
    for name, text in (
        ("show", "show all that is known of a reply"),
        ("retry", "send a reply that could not be sent again"),
        ("drop", "delete a reply: it is never sent"),
    ):
        one = outbox.add(name, f"outbox:{name}", text, "main-20261122-093001-123-1")
        one.add_argument("reply", metavar="ID", help="as `outbox list` shows it")
        if name == "retry":
            one.add_argument("--from-start", action="store_true", help="also the parts that surely went")


def _change(commands: _Commands) -> None:
    groups = commands.group("groups", "look at groups and change them (files state/groups/F.toml)")
    one = groups.add("list", "groups:list_groups", "list the registered groups", "", "--known")
    one.add_argument("--known", action="store_true", help="and the chats that wrote, but are not registered")
    one = groups.add("add", "groups:add", "register a chat", 'family --jid tg:-100123 --name "Family" --trigger @Andy')
    one.add_argument("folder", metavar="F", help="the group's folder, a name you choose")
    one.add_argument("--jid", required=True, help="the chat's address, like tg:12345 or local:family")
    one.add_argument("--name", help="shown to people [the folder]")
    one.add_argument("--trigger", help="the word that wakes the agent [@ and the assistant's name]")
    one.add_argument("--no-trigger", action="store_true", help="every message wakes the agent")
    one.add_argument("--main", action="store_true", help="the one trusted group")
    one = groups.add("show", "groups:show", "show a group's settings, files and state", "main")
    one.add_argument("folder", metavar="F")
    examples = ("family trigger=@Bob", "family container.timeout=1h requires_trigger=false", "family trigger=")
    one = groups.add("set", "groups:set_keys", "change keys of a group; KEY= removes one", *examples)
    one.add_argument("folder", metavar="F")
    one.add_argument("changes", metavar="KEY=VALUE", nargs="+")
    one = groups.add("remove", "groups:remove", "answer a chat no longer; all its files stay", "family")
    one.add_argument("folder", metavar="F")

    edit = commands.group("edit", "edit a file of settings: locked, checked before it is saved")
    edit.add("config", "edit:config", "edit state/config.toml in $EDITOR")
    one = edit.add("group", "edit:group", "edit state/groups/F.toml in $EDITOR", "main")
    one.add_argument("folder", metavar="F")

    errors = commands.group("ipc", "look at requests that were refused").group("errors", "files that were refused")
    errors.add("list", "ipc_errors:list_errors", "list what was refused, with the reasons")
    for name, text in (
        ("show", "show a refused file and the reason"),
        ("retry", "put a refused file back where it was dropped"),
        ("drop", "delete a refused file"),
    ):
        one = errors.add(name, f"ipc_errors:{name}", text, "inbox-main-1790000000-x.json")
        one.add_argument("name", metavar="NAME", help="as `ipc errors list` shows it")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("expected a number ≥ 1")
    return number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = parser().parse_args(argv)
    logging.getLogger("nanoclaw").addHandler(logging.NullHandler())  # a command says what is wrong itself, once
    try:
        module, _, function = arguments.call.partition(":")
        call = getattr(importlib.import_module(f"nanoclaw.commands.{module}"), function)
        from nanoclaw.paths import Home

        return _print(call(Home.from_environment(), arguments), bool(getattr(arguments, "json", False)))
    except UserError as error:
        print(f"nanoclaw: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1
    except OSError as error:
        if arguments.call.startswith(("run:", "demo:")) or error.strerror is None:
            raise  # a host's own: a bug, to be seen whole
        print(f"nanoclaw: {error.filename or 'a file'}: {error.strerror}. Mend that and try again.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _print(answer: Any, as_json: bool) -> int:
    if isinstance(answer, int):
        return answer
    if as_json:
        print(json.dumps(answer.value, indent=2, ensure_ascii=False, default=str))
    elif answer.text:
        print(answer.text)
    return int(answer.code)
