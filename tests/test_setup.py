"""setup: what it writes, keeps and asks, and the walk to Telegram against a small Bot API on loopback."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from nanoclaw.cli import main
from nanoclaw.config.env import load_environment
from nanoclaw.config.mounts import MountAllowlist, load_allowlist
from nanoclaw.config.senders import EVERYBODY, load_senders
from nanoclaw.config.settings import load_config, load_group
from nanoclaw.config.templates import CONFIG_TEMPLATE
from nanoclaw.files.home_lock import HomeLock
from nanoclaw.models import Config, Credential, Group
from nanoclaw.paths import PROJECT, Home
from tests.support.home import CLI
from tests.support.waiting import wait_for

Capture = pytest.CaptureFixture[str]
KEY = "sk-ant-api03-0123456789"
OAUTH = "sk-ant-oat01-0123456789"
TOKEN = "123:AAsecretOfTheBot"
MAIN = Group("main", "local:main", "Main", None, False, True)


@pytest.fixture
def fresh(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home of which nothing is there."""
    for directory in (home.state, home.groups, home.user_config):
        directory.rmdir()
    for key in ("ANTHROPIC_API_KEY", "CLAUDE_CODE_OAUTH_TOKEN", "TELEGRAM_BOT_TOKEN", "TELEGRAM_API_URL"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return home


def setup(monkeypatch: pytest.MonkeyPatch, capsys: Capture, *options: str, answers: str = "") -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(answers))
    code = main(["setup", *options])
    out, err = capsys.readouterr()
    return code, out, err


def contents(home: Home) -> dict[str, bytes]:
    """All files of the home and of the person's configuration."""
    paths = [*home.root.rglob("*"), *home.user_config.rglob("*")]
    return {str(path): path.read_bytes() for path in paths if path.is_file() and not path.name.endswith(".lock")}


class BotApi:
    """getMe and getUpdates. ``updates`` stand until an offset behind them is asked for, as Telegram's do."""

    def __init__(self) -> None:
        self.updates: list[dict[str, Any]] = []
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.conflict = False
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                _, bot, method = self.path.split("/")
                api.calls.append((method, asked))
                status, body = api.answer(bot.removeprefix("bot"), method, asked)
                data = json.dumps({"ok": status == 200, **body}).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, token: str, method: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if token != TOKEN:
            return 401, {"description": "Unauthorized"}
        if method == "getMe":
            return 200, {"result": {"id": 123, "is_bot": True, "username": "andy_bot"}}
        if self.conflict:
            return 409, {"description": "Conflict: terminated by other getUpdates request"}
        self.updates = [update for update in self.updates if update["update_id"] >= asked.get("offset", 0)]
        return 200, {"result": self.updates}

    def write(self, sender: int, name: str, kind: str = "private") -> None:
        message = {
            "chat": {"id": sender, "type": kind},
            "from": {"id": sender, "is_bot": False, "first_name": name},
            "text": "hi",
        }
        self.updates.append({"update_id": 70 + len(self.updates), "message": message})

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def api(fresh: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[BotApi]:
    made = BotApi()
    monkeypatch.setenv("TELEGRAM_API_URL", made.url)
    yield made
    made.close()


def test_without_questions(fresh: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    code, out, err = setup(monkeypatch, capsys, "--yes", "--name", "Zoe", "--timezone", "Asia/Tokyo")
    assert (code, err) == (0, "") and KEY not in out and "build" in out
    assert load_config(fresh.config_file) == Config(assistant_name="Zoe", timezone="Asia/Tokyo")
    changed = set(CONFIG_TEMPLATE.splitlines()) ^ set(fresh.config_file.read_text().splitlines())
    assert {line.removeprefix("# ").split(" = ")[0] for line in changed} == {"assistant_name", "timezone"}
    assert load_environment(fresh.env_file).credential == Credential("api_key", KEY)
    assert fresh.env_file.stat().st_mode & 0o777 == 0o600
    assert load_group(fresh.group_file("main")) == MAIN
    memory = (fresh.groups / "main" / "CLAUDE.md").read_text()
    assert memory.startswith("# Zoe\n") and "main chat" in memory
    assert load_allowlist(fresh.mount_allowlist) == MountAllowlist()
    assert load_senders(fresh.sender_allowlist) == EVERYBODY
    assert (fresh.state / "home.json").exists()


def test_the_second_time_all_is_kept_and_said(fresh: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", OAUTH)
    assert setup(monkeypatch, capsys, "--yes")[0] == 0
    before = contents(fresh)
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", OAUTH + "2")
    code, out, _ = setup(monkeypatch, capsys, "--name", "Eve")
    assert code == 0, "nothing is left to ask"
    assert contents(fresh) == before
    for name in (
        "state/config.toml",
        ".env",
        "state/groups/main.toml",
        "mount-allowlist.json",
        "sender-allowlist.json",
    ):
        assert re.search(rf"(?m)^kept \S*{re.escape(name)} \(.*--force", out), name
    assert "wrote" not in out
    code, out, err = setup(monkeypatch, capsys, "--yes", "--force", "--name", "Eve", "--json")
    value = json.loads(out)
    assert code == value["exit"] == 0 and value["kept"] == [] and "state/config.toml" in value["written"]
    assert "wrote state/config.toml" in err
    assert load_config(fresh.config_file).assistant_name == "Eve"
    assert load_environment(fresh.env_file).credential == Credential("oauth_token", OAUTH + "2")


def test_what_a_person_wrote_into_env_stays(fresh: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    fresh.root.mkdir(exist_ok=True)
    fresh.env_file.write_text("# mine\nANTHROPIC_BASE_URL=http://127.0.0.1:9\nexport ANTHROPIC_API_KEY='old'\n")
    monkeypatch.setenv("CLAUDE_CODE_OAUTH_TOKEN", OAUTH)
    assert setup(monkeypatch, capsys, "--yes", "--force")[0] == 0
    text = f"# mine\nANTHROPIC_BASE_URL=http://127.0.0.1:9\nCLAUDE_CODE_OAUTH_TOKEN={OAUTH}\n"
    assert fresh.env_file.read_text() == text and fresh.env_file.stat().st_mode & 0o777 == 0o600


def test_questions_are_asked_until_the_answers_are_right(
    fresh: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    answers = f"\nMiddle/Earth\nUTC\nmy key\n{OAUTH}\nirc\nlocal\n"
    code, out, _ = setup(monkeypatch, capsys, answers=answers)
    assert code == 0 and "expected an IANA time zone" in out and "one of local, telegram" in out
    assert load_config(fresh.config_file) == Config(timezone="UTC")
    assert load_environment(fresh.env_file).credential == Credential("oauth_token", OAUTH)
    assert load_group(fresh.group_file("main")) == MAIN


def test_broken_off_anywhere_it_goes_on(fresh: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    for answers in ("", "Zoe\n", "Zoe\nUTC\n", f"{KEY}\n"):
        code, _, err = setup(monkeypatch, capsys, answers=answers)
        assert code == 1 and "not finished" in err and len(err.splitlines()) == 1
    code, out, _ = setup(monkeypatch, capsys, answers="local\n")
    assert code == 0, "what was answered is not asked again"
    assert load_config(fresh.config_file).assistant_name == "Zoe" and "kept .env" in out
    assert load_group(fresh.group_file("main")) == MAIN


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("state/config.toml", "assistant_name = \n", "config.toml:1"),
        (".env", "nonsense\n", ".env:1"),
        ("state/groups/main.toml", "jid = 7\n", "main.toml"),
    ],
)
def test_a_broken_file_is_kept(
    fresh: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str, text: str, reason: str
) -> None:
    path = fresh.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    _, out, err = setup(monkeypatch, capsys, "--yes")
    assert reason in out + err and path.read_text() == text


@pytest.mark.parametrize("option", [("--name", " "), ("--timezone", "Middle/Earth")])
def test_a_wrong_option_writes_nothing(
    fresh: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture, option: tuple[str, str]
) -> None:
    code, _, err = setup(monkeypatch, capsys, "--yes", *option)
    assert code == 1 and option[0] in err and not fresh.config_file.exists()


def test_the_first_private_chat_becomes_main(
    fresh: Home, api: BotApi, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    api.write(-5, "Group", kind="group")
    api.write(666, "Mal\x1b[2Jlory")
    api.write(7, 'Ann "A"')
    answers = f"Zoe\nUTC\n\ntelegram\nwrong:token\n{TOKEN}\nn\ny\n"
    code, out, err = setup(monkeypatch, capsys, answers=answers)
    assert code == 0, err
    assert "does not know this token" in out and "@BotFather" in out and "/setprivacy" in out and "@andy_bot" in out
    assert "Mal[2Jlory (tg:666)" in out and "(tg:-5)" not in out
    assert TOKEN not in out + err and "wrong:token" not in out + err
    assert load_environment(fresh.env_file).secrets == {"TELEGRAM_BOT_TOKEN": TOKEN}
    config = load_config(fresh.config_file)
    assert config.channels == {"telegram": {"api_url": api.url}} and config.owners == ("7",)
    assert load_group(fresh.group_file("main")) == Group("main", "tg:7", 'Ann "A"', None, False, True)
    assert len(api.updates) == 3, "the host still gets what was written"
    before = contents(fresh)
    code, out, _ = setup(monkeypatch, capsys, "--chat", "telegram", answers="\nn\ny\n")
    assert code == 0 and contents(fresh) == before


def test_a_main_group_that_is_there_stays_main(
    fresh: Home, api: BotApi, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert setup(monkeypatch, capsys, "--yes")[0] == 0
    api.write(7, "Ann")
    code, out, _ = setup(monkeypatch, capsys, "--chat", "telegram", "--json", answers=f"\n{TOKEN}\ny\n")
    assert code == 0 and load_group(fresh.group_file("main")) == MAIN
    assert any("groups set main jid=tg:7" in line for line in json.loads(out)["next"])
    assert setup(monkeypatch, capsys, "--chat", "telegram", "--force", answers=f"\nUTC\n\n{TOKEN}\ny\n")[0] == 0
    assert load_group(fresh.group_file("main")).jid == "tg:7" and load_config(fresh.config_file).owners == ("7",)


def test_no_stranger_becomes_main_unasked(
    fresh: Home, api: BotApi, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    api.write(666, "Mallory")
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", TOKEN)
    code, out, err = setup(monkeypatch, capsys, "--yes", "--chat", "telegram")
    assert code == 0 and TOKEN not in out + err and "/chatid" in out
    assert load_group(fresh.group_file("main")) == MAIN and load_config(fresh.config_file).owners == ()
    assert [method for method, _ in api.calls] == ["getMe"]


def test_beside_a_host_or_another_poller_it_does_not_poll(
    fresh: Home, api: BotApi, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", TOKEN)
    fresh.state.mkdir(parents=True)
    lock = HomeLock(fresh.state)
    assert lock.acquire()
    code, out, _ = setup(monkeypatch, capsys, answers="\nUTC\n\ntelegram\n\n")
    assert code == 0 and "A host runs already" in out and "groups add" not in out and "/chatid" in out
    assert [method for method, _ in api.calls] == ["getMe"]
    lock.release()
    api.conflict = True
    code, out, _ = setup(monkeypatch, capsys, "--chat", "telegram", answers="\n")
    assert code == 0 and "what else reads this bot's messages" in out


def test_telegram_out_of_reach_shows_no_token(fresh: Home, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("TELEGRAM_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TELEGRAM_BOT_TOKEN", TOKEN)
    code, out, err = setup(monkeypatch, capsys, "--yes", "--chat", "telegram")
    assert code == 1 and "cannot be asked" in err and len(err.splitlines()) == 1
    assert TOKEN not in out + err and "AAsecret" not in out + err


def test_a_secret_is_not_shown_on_a_terminal(fresh: Home) -> None:
    """The real thing: a process with a terminal of its own."""
    terminal, side = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", CLI, "setup", "--name", "Zoe", "--timezone", "UTC", "--chat", "local"],
        cwd=PROJECT, stdin=side, stdout=side, stderr=side, start_new_session=True,
        preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # makes it the controlling terminal
    ) as process:  # fmt: skip
        os.close(side)
        screen = bytearray()
        os.set_blocking(terminal, False)

        def shows(text: bytes) -> bool:
            with suppress(OSError):
                screen.extend(os.read(terminal, 65536))
            return text in screen

        try:
            wait_for(lambda: shows(b"API key or token:"), 20.0, "the question")
            os.write(terminal, KEY.encode() + b"\n")
            wait_for(lambda: shows(b"Next:"), 20.0, "the end")
            assert process.wait(10.0) == 0
        finally:
            process.kill()
            os.close(terminal)
    assert KEY.encode() not in screen
    assert load_environment(fresh.env_file).credential == Credential("api_key", KEY)
