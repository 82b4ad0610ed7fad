"""``setup``: make the files that a person would else write by hand, asking only for what cannot be known.

Each answer is on disk before the next question, so that a second ``setup`` goes on where one was broken off. What is
there is kept unless ``--force``. The walk to the first Telegram chat is setup_telegram.py.
"""

from __future__ import annotations

import argparse
import getpass
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanoclaw.commands import setup_telegram
from nanoclaw.commands.output import Result
from nanoclaw.config import values
from nanoclaw.config.env import CREDENTIALS, load_environment
from nanoclaw.config.settings import load_config
from nanoclaw.config.strict import Expected, FileProblems
from nanoclaw.config.templates import CONFIG_TEMPLATE
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import write_bytes, write_json
from nanoclaw.files.locks import editing
from nanoclaw.models import Config
from nanoclaw.paths import Home
from nanoclaw.runs.layout import container_user
from nanoclaw.stores import registry
from nanoclaw.stores.home import make_home

OAUTH_PREFIX = "sk-ant-oat"
SECRET = re.compile(r"[!#-&(-~]+")
MOUNTS: dict[str, Any] = {"allowedRoots": []}
SENDERS: dict[str, Any] = {"default": {"allow": "*", "mode": "trigger"}, "chats": {}}


class Setup:
    """One conversation with the person. ``yes``: nothing is asked, the defaults are the answers."""

    def __init__(self, home: Home, yes: bool, force: bool, to_stderr: bool) -> None:
        self.home = home
        self.yes = yes
        self.force = force
        self.written: list[str] = []
        self.kept: list[str] = []
        self.next: list[str] = []
        self._out = sys.stderr if to_stderr else sys.stdout

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def ask(self, question: str, default: str, check: Callable[[object], object] = str) -> str:
        """An answer that passes ``check``; an empty line is the default. UserError: the end of the input."""
        while not self.yes:
            answer = self._line(f"{question} [{default}] ") or default
            try:
                check(answer)
                return answer
            except Expected as error:
                self.say(f"  expected {error}")
        return default

    def confirm(self, question: str, yes: bool = True) -> bool:
        return self.ask(question, "y/N" if not yes else "Y/n").lower() in (("y/n", "y", "yes") if yes else ("y", "yes"))

    def secret(self, question: str) -> str:
        """A secret in one word, "" for none. It is not shown."""
        while not self.yes:
            answer = self._line(f"{question} ", hidden=True)
            if not answer or SECRET.fullmatch(answer):
                return answer
            self.say("  expected one word of letters, digits and signs")
        return ""

    def _line(self, prompt: str, hidden: bool = False) -> str:
        """What the person types. UserError: the end of the input."""
        try:
            if hidden and sys.stdin.isatty():
                return getpass.getpass(prompt).strip()
            print(prompt, end="", file=self._out, flush=True)
            if line := sys.stdin.readline():
                return line.strip()
        except EOFError:
            pass
        raise UserError("Setup is not finished.", "What was answered is saved; the next `setup` goes on from there.")

    def secret_of_environment(self, key: str) -> str:
        """``$key``, if it is set and the person wants it."""
        secret = os.environ.get(key, "").strip()
        return secret if SECRET.fullmatch(secret) and self.confirm(f"Use ${key} of the environment?") else ""

    def keeps(self, path: Path) -> bool:
        """Is the file there to stay? Then say so."""
        if not os.path.lexists(path) or self.force:
            return False
        self.note_kept(path)
        return True

    def note_kept(self, path: Path, how: str = "--force replaces it") -> None:
        if self.name(path) not in self.kept:
            self.kept.append(self.name(path))
        self.say(f"kept {self.name(path)} ({how})")

    def note_written(self, path: Path) -> None:
        if self.name(path) not in self.written:
            self.written.append(self.name(path))
            self.say(f"wrote {self.name(path)}")

    def name(self, path: Path) -> str:
        return str(path.relative_to(self.home.root) if path.is_relative_to(self.home.root) else path)

    def put_secret(self, key: str, secret: str, instead_of: str = "") -> None:
        """Set a key of .env (mode 0600); other lines stay, but for those of the key ``instead_of``."""
        path = self.home.env_file
        with editing(self.home.state / "env"):
            old = path.read_text(encoding="utf-8") if path.exists() else ""
            other = re.compile(rf"\s*(export\s+)?({key}{f'|{instead_of}' if instead_of else ''})\s*=")
            lines = [line for line in old.splitlines() if not other.match(line)]
            write_bytes(path, "\n".join([*lines, f"{key}={secret}", ""]).encode())
        self.note_written(path)

    def set_config(self, key: str, value: Any) -> None:
        """Set a key of config.toml or of its [channels], in the place of the template's comment where that is there.
        All else stays. UserError: the file would not be right."""
        import tomlkit

        path = self.home.config_file
        with editing(path):
            old = path.read_text(encoding="utf-8-sig")
            line = f"{key} = {tomlkit.item(value).as_string()}"
            new, count = re.subn(rf"(?m)^# {key} = .*$", lambda match: line, old, count=1)
            document = tomlkit.parse(old)
            if not count or key in document or key in document.get("channels", {}):
                table: Any = document.setdefault("channels", tomlkit.table()) if key == "telegram" else document
                table[key] = value
                new = tomlkit.dumps(document)
            try:
                load_config(path, new.encode())
            except FileProblems as error:
                raise UserError(f"{path}: {error.problems[0].text}.", "Nothing was saved.") from None
            registry.save(path, new.encode())
        self.note_written(path)


def run(home: Home, arguments: argparse.Namespace) -> Result:
    """Every file that is not there yet, then the first chat. Exit code 0; 1 when it was broken off."""
    setup = Setup(home, arguments.yes, arguments.force, arguments.json)
    if not arguments.force:
        load_config(home.config_file)
    load_environment(home.env_file)
    home.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    _config(setup, arguments.name, arguments.timezone)
    _credential(setup)
    _allowlists(setup)
    _first_chat(setup, arguments.chat)
    make_home(home)
    setup.next += ["python3 nanoclaw.py build", "python3 nanoclaw.py chat", "python3 nanoclaw.py run"]
    value = {"exit": 0, "written": setup.written, "kept": setup.kept, "next": setup.next}
    return Result(value, "\n".join(["", "Next:", *(f"  {line}" for line in setup.next)]))


def _config(setup: Setup, name: str | None, zone: str | None) -> None:
    path = setup.home.config_file
    if setup.keeps(path):
        return
    for given, check, option in ((name, values.text, "--name"), (zone, values.timezone, "--timezone")):
        try:
            check(given) if given is not None else None
        except Expected as error:
            raise UserError(f"{option} {given!r}: expected {error}.") from None
    name = name or setup.ask("What is the assistant called?", Config.assistant_name, values.text)
    zone = zone or setup.ask("Which time zone?", values.system_timezone(), values.timezone)
    with editing(path):
        write_bytes(path, CONFIG_TEMPLATE.encode())
    setup.set_config("assistant_name", name)
    setup.set_config("timezone", zone)


def _credential(setup: Setup) -> None:
    known = load_environment(setup.home.env_file).credential
    if known and not setup.force:
        setup.note_kept(setup.home.env_file, "it holds a credential; --force replaces it")
        return
    secret = next((found for key in CREDENTIALS if (found := setup.secret_of_environment(key))), "")
    if not secret and not setup.yes:
        setup.say("An API key of Anthropic, or a long-lived token that `claude setup-token` makes; empty: later.")
        secret = setup.secret("API key or token:")
    if not secret:
        setup.say("no credential: write ANTHROPIC_API_KEY=… into .env, or run setup again")
        return
    keys = list(CREDENTIALS)
    oauth = secret.startswith(OAUTH_PREFIX)
    setup.put_secret(keys[oauth], secret, instead_of=keys[not oauth])


def _allowlists(setup: Setup) -> None:
    directory = setup.home.user_config
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    for path, skeleton in ((setup.home.mount_allowlist, MOUNTS), (setup.home.sender_allowlist, SENDERS)):
        if not setup.keeps(path):
            write_json(path, skeleton)
            setup.note_written(path)


def _first_chat(setup: Setup, chat: str | None) -> None:
    main = next((group for group in registry.load_all(setup.home)[0] if group.is_main), None)
    folder = main.folder if main else "main"
    path = setup.home.group_file(folder)
    if chat is None and (setup.force or not path.exists()):
        choice = values.one_of("local", "telegram")
        chat = setup.ask("The first chat: local (this terminal) or telegram?", "local", choice)
    found = setup_telegram.walk(setup) if chat == "telegram" else None
    jid, name = found or ("local:main", "Main")
    if setup.keeps(path):
        if found and main and main.jid != jid:
            setup.next.append(f"python3 nanoclaw.py groups set {folder} jid={jid}  # makes that chat the main one")
    else:
        if main:
            registry.change(setup.home, folder, {"jid": jid, "name": name, "is_main": "true"})
        else:
            if os.path.lexists(path):  # --force, and it is broken
                registry.remove(setup.home, folder)
            registry.register(setup.home, folder, {"jid": jid, "name": name, "is_main": True})
        setup.note_written(path)
    assistant = load_config(setup.home.config_file).assistant_name
    if registry.make_folder(setup.home, folder, assistant, True, container_user(setup.home)):
        setup.note_written(setup.home.group_folder(folder) / "CLAUDE.md")
