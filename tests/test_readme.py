"""What README.md tells people to do works, and what it says of settings is what the code knows."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nanoclaw.cli import parser
from nanoclaw.config.mounts import load_allowlist
from nanoclaw.config.senders import load_senders
from nanoclaw.config.settings import CONFIG_KEYS, GROUP_KEYS, load_config, load_group
from nanoclaw.config.strict import Keys
from nanoclaw.paths import PROJECT

README = (PROJECT / "README.md").read_text(encoding="utf-8")
COMMAND = re.compile(r"python3 (?:/\S+/)?nanoclaw\.py([^`#&|;\n]*)")
NO_DEFAULT = {"the machine's", "required", "the file's name", "`@` and the assistant's name", "none"}
NO_DEFAULT |= {"that of `config.toml`", "`true`, main: `false`"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def rows(header: str) -> dict[str, str]:
    """The table under ``header``: the first column without its backticks → the second as it stands."""
    table = README.partition(f"\n| {header} | default | |\n|---|---|---|\n")[2].partition("\n\n")[0]
    cells = [re.split(r" *(?<!\\)\| *", line.strip("| ")) for line in table.splitlines()]
    return {row[0].strip("`"): row[1] for row in cells}


def names(schema: Keys, prefix: str = "") -> set[str]:
    found: set[str] = set()
    for name, entry in schema.items():
        found |= names(entry, f"{prefix}{name}.") if isinstance(entry, dict) else {prefix + name}
    return found


def test_each_command_of_nanoclaw_exists() -> None:
    found = [shlex.split(match[1]) for match in COMMAND.finditer(README)]
    assert {words[0] for words in found} == {
        "setup",
        "demo",
        "test",
        "build",
        "chat",
        "doctor",
        "run",
        "groups",
        "edit",
        "send",
        "status",
        "stop",
        "new",
        "compact",
        "outbox",
    }
    for words in found:
        if words != ["test"]:  # the launcher's own
            parser().parse_args(words)


@pytest.mark.docker
def test_the_shell_commands_work_in_this_order(agent_image: str, short_path: Path) -> None:
    checkout = short_path / "nanoclaw"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.split("\0"):
        if (PROJECT / name).is_file():
            (checkout / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, checkout / name)
    subprocess.run([sys.executable, str(PROJECT / "nanoclaw.py"), "--version"], capture_output=True, check=True)
    (checkout / ".venv").symlink_to(PROJECT / ".venv")  # there now; making another one takes a minute
    (checkout / "state" / "config.toml").write_text("[model]\noffline = true\n")  # here nobody has a key
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    left_out = ("git clone", "python3 nanoclaw.py demo", "python3 nanoclaw.py test")  # test_demo.py, and this
    lines = [line for line in lines if not line.startswith(left_out) and (shutil.which("jq") or "jq" not in line)]
    script = "\n".join(["set -euo pipefail", *lines])
    script = script.replace("nanoclaw.py setup", "nanoclaw.py setup --yes")
    script = script.replace("nanoclaw.py doctor", "nanoclaw.py doctor || [ $? = 1 ]")  # it warns: no host is running
    env = {key: value for key, value in os.environ.items() if not key.startswith("NANOCLAW_")}
    env |= {"ANTHROPIC_API_KEY": "sk-ant-api03-readme", "NANOCLAW_CONFIG_DIR": str(short_path / "config")}
    done = subprocess.run(
        ["bash", "-c", script], cwd=checkout, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "What can you do?" in done.stdout
    transcript = "".join(path.read_text() for path in (checkout / "state" / "messages").glob("local*main/*.jsonl"))
    assert 'You said: \\"What is on today?\\"' in transcript
    assert (checkout / ".env").stat().st_mode & 0o777 == 0o600


def test_the_examples_are_accepted(tmp_path: Path) -> None:
    (group,) = blocks("toml")
    (tmp_path / "family.toml").write_text(group)
    assert load_group(tmp_path / "family.toml").mounts[0].readonly
    senders, allowlist = blocks("json")
    (tmp_path / "sender-allowlist.json").write_text(senders)
    assert load_senders(tmp_path / "sender-allowlist.json").chats["tg:-100123"].allow == {"555"}
    (tmp_path / "mount-allowlist.json").write_text(allowlist)
    permitted = load_allowlist(tmp_path / "mount-allowlist.json")
    assert permitted is not None and permitted.roots[0].path == load_group(tmp_path / "family.toml").mounts[0].host_path


def test_the_table_of_settings_is_complete_and_its_defaults_are_right(tmp_path: Path) -> None:
    table = rows("key")
    assert table.keys() == names(CONFIG_KEYS)
    path = tmp_path / "config.toml"
    without = load_config(path)
    path.write_text("".join(f"{key} = {value.strip('`')}\n" for key, value in table.items() if value not in NO_DEFAULT))
    channels = {"telegram": {"api_url": "https://api.telegram.org"}}
    assert load_config(path) == dataclasses.replace(without, channels=channels)


def test_the_table_of_a_group_is_complete_and_its_defaults_are_right(tmp_path: Path) -> None:
    table = rows("key of a group")
    assert table.keys() == names(GROUP_KEYS)
    path = tmp_path / "family.toml"
    path.write_text('jid = "local:family"\n')
    without: Any = load_group(path)
    given = [f"{key} = {value.strip('`')}\n" for key, value in table.items() if value not in NO_DEFAULT]
    assert given
    path.write_text("".join(['jid = "local:family"\n', *given]))
    assert load_group(path) == without


def test_it_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.splitlines()) <= 210
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links and all((PROJECT / link).is_file() for link in links)
