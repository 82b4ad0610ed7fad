"""config.toml, groups/<folder>.toml and .env: what is accepted, and the exact words for what is not."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from pathlib import Path

import pytest

from nanoclaw.config.env import load_environment
from nanoclaw.config.settings import CONFIG_KEYS, check_groups, load_config, load_group
from nanoclaw.config.strict import FileProblems, key_lines
from nanoclaw.config.templates import CONFIG_TEMPLATE, GROUP_TEMPLATE
from nanoclaw.config.values import system_timezone
from nanoclaw.models import Config, Credential, Environment, Group, Mount


def refusal(load: object, path: Path) -> list[str]:
    """The problems as ``NAME:LINE: text``, the directory cut off."""
    assert callable(load)
    with pytest.raises(FileProblems) as raised:
        load(path)
    assert str(raised.value).split("\n") == [str(problem) for problem in raised.value.problems]
    return [str(problem).removeprefix(f"{path.parent}/") for problem in raised.value.problems]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_missing_config_is_all_defaults(config: Path) -> None:
    assert load_config(config) == Config(timezone=system_timezone())


def test_every_key_of_config(config: Path) -> None:
    config.write_text("""
        assistant_name = "Béa"
        timezone = "Europe/Berlin"
        owners = ["tg:1", "me"]
        log_level = "debug"
        max_messages_per_prompt = 3
        max_concurrent_containers = 1
        keep_runs = "36h"
        progress_after = 0
        session_max_bytes = "500kB"
        on_uncertain = "hold"
        container = {runtime = "process", image = "registry:5000/a/b@sha256:00", timeout = 90, idle_timeout = "1.5m"}
        model.offline = true
        model.name = "opus"
    """)
    assert load_config(config) == Config(
        "Béa", "Europe/Berlin", ("tg:1", "me"), "debug", 3, 1, 129600.0, 0.0, 500_000, "hold",
        "process", "registry:5000/a/b@sha256:00", 90.0, 90.0, True, "opus",
    )  # fmt: skip


SIZE = 'expected a size (bytes, or "500kB", "20MB", "1GB"), found'
DURATION = 'expected a duration (seconds, or "90s", "30m", "1h", "7d"; more than 0, at most 3650d), found'

ZONE = 'expected an IANA time zone that this machine knows (package tzdata), like "Europe/Berlin", found'


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ('\n\nasistant_name = "X"', ["3: unknown key 'asistant_name'; did you mean 'assistant_name'?"]),
        ("timeout = 5", ["1: unknown key 'timeout'; it belongs in [container]"]),
        (
            '[model]\nowners = ["x"]',
            ["2: unknown key 'owners' in [model]; it belongs at the top level, before any [table]"],
        ),
        ("[container]\nx = 1", ["2: unknown key 'x' in [container]; known are runtime, image, timeout, idle_timeout"]),
        ("[contaner]\ntimeout = 1", ["1: unknown key 'contaner'; did you mean 'container'?"]),
        (
            'max_concurrent_containers = "five"',
            ['1: max_concurrent_containers: expected a whole number ≥ 1, found "five"'],
        ),
        ("max_messages_per_prompt = 0", ["1: max_messages_per_prompt: expected a whole number ≥ 1, found 0"]),
        ("max_messages_per_prompt = true", ["1: max_messages_per_prompt: expected a whole number ≥ 1, found true"]),
        ('assistant_name = " "', ['1: assistant_name: expected text on one line, in quotes, found " "']),
        ('assistant_name = "a\\nb"', ['1: assistant_name: expected text on one line, in quotes, found "a\\nb"']),
        ('owners = ["a", 1]', ['1: owners: expected a list of texts like ["a", "b"], found ["a", 1]']),
        (
            'log_level = "warn"',
            ['1: log_level: expected one of debug, info, warning, error, found "warn"'],
        ),
        ('timezone = "Europe/Berln"', [f'1: timezone: {ZONE} "Europe/Berln"']),
        ('timezone = "../../etc/passwd"', [f'1: timezone: {ZONE} "../../etc/passwd"']),
        ('keep_runs = "7 days"', [f'1: keep_runs: {DURATION} "7 days"']),
        ("keep_runs = 0", [f"1: keep_runs: {DURATION} 0"]),
        ("keep_runs = inf", [f"1: keep_runs: {DURATION} Infinity"]),
        ("keep_runs = nan", [f"1: keep_runs: {DURATION} NaN"]),
        ("progress_after = false", [f"1: progress_after: {DURATION} false"]),
        ('session_max_bytes = "20 MiB"', [f'1: session_max_bytes: {SIZE} "20 MiB"']),
        ("session_max_bytes = 0", [f"1: session_max_bytes: {SIZE} 0"]),
        ("container = 5", ["1: container: expected a table, found 5"]),
        (
            'container = { timeout = 1, image = "-v/:/x" }',
            ['1: container.image: expected the name of an image like "nanoclaw-agent:latest", found "-v/:/x"'],
        ),
        (
            'log_level = "info"\nowners = [\n  "]", # ]\n  """\n[model]\n""",\n]\nlog_lvl = 1\n[model]\noffline = "no"',
            [
                '2: owners: expected a list of texts like ["a", "b"], found ["]", "[model]\\n"]',
                "8: unknown key 'log_lvl'; did you mean 'log_level'?",
                '10: model.offline: expected true or false, found "no"',
            ],
        ),
        ("log_level = debug", ["1: not valid TOML: Invalid value (at line 1, column 13); text stands in quotes"]),
        ("a = 1\nb = [", ["2: not valid TOML: Invalid value (at end of document); text stands in quotes"]),
        ("a = 1\na = 2\n", ["2: not valid TOML: Cannot overwrite a value (at line 2, column 6)"]),
        (b"a = 1\nb = '\xff'\n", ["2: expected UTF-8"]),
        (b"\xef\xbb\xbf# saved by Notepad\r\nx = 1", ["2: unknown key 'x'; known are " + ", ".join(CONFIG_KEYS)]),
    ],
)
def test_bad_config(config: Path, source: str | bytes, problems: list[str]) -> None:
    config.write_bytes(source if isinstance(source, bytes) else source.encode())
    expected = [f"config.toml{problem}" if problem[0] == ":" else f"config.toml:{problem}" for problem in problems]
    assert refusal(load_config, config) == expected


def test_too_deep_nesting_is_a_problem_like_others(config: Path) -> None:
    config.write_text(f"a = {'[' * 5000}")
    [said] = refusal(load_config, config)
    assert said.startswith("config.toml: not valid TOML: maximum recursion depth exceeded")


def test_no_regular_file(config: Path) -> None:
    config.mkdir()
    assert refusal(load_config, config) == ["config.toml: expected a file"]
    config.rmdir()
    os.mkfifo(config)
    assert refusal(load_config, config) == ["config.toml: expected a file"]
    config.unlink()
    config.symlink_to(config)
    assert refusal(load_config, config) == ["config.toml: cannot be read: Too many levels of symbolic links"]


def test_permission_denied() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own ones are closed to other users
        Path(directory).chmod(0o755)
        config = Path(directory, "config.toml")
        config.touch(0)
        uid = os.geteuid()
        os.seteuid(65534 if uid == 0 else uid)
        try:
            assert refusal(load_config, config) == ["config.toml: cannot be read: Permission denied"]
        finally:
            os.seteuid(uid)


def test_lines_of_toml() -> None:
    source = """# [a]
x.y = "["
a = { b = 1, c = [ { d = 2 }, # ]
  { d = 1979-05-27 07:32:00 } ] }

[[t.m]]
p = [\'\'\'
q = 1
\'\'\']
[t.m.sub]
r = 1.5

[[ t.m ]]
"p" = 'x\\\'
n = [
[1],
[2]]
last = 3
"""
    assert key_lines(source) == {
        ("x", "y"): 2,
        ("a",): 3, ("a", "b"): 3, ("a", "c"): 3, ("a", "c", 0): 3, ("a", "c", 0, "d"): 3,
        ("a", "c", 1): 4, ("a", "c", 1, "d"): 4,
        ("t", "m", 0): 6, ("t", "m", 0, "p"): 7,
        ("t", "m", "sub"): 10, ("t", "m", "sub", "r"): 11,
        ("t", "m", 1): 13, ("t", "m", 1, "p"): 14,
        ("t", "m", 1, "n"): 15, ("t", "m", 1, "n", 0): 16, ("t", "m", 1, "n", 1): 17, ("t", "m", 1, "last"): 18,
    }  # fmt: skip


def test_lines_of_json() -> None:
    lines = key_lines('\n{"a": [\n{"b":\n[1,\n{"c": "}{"}]}\n,\n{}\n], "d": true}')
    assert lines[("a", 0, "b", 1, "c")] == 5
    assert lines[("a", 1)] == 7
    assert lines[("d",)] == 8


def test_template_holds_every_key_at_its_default(config: Path) -> None:
    config.write_text(CONFIG_TEMPLATE)
    assert load_config(config) == Config(timezone=system_timezone())
    uncommented = re.sub(r"(?m)^# (\w+ = )", r"\1", CONFIG_TEMPLATE)
    config.write_text(uncommented)
    assert load_config(config) == dataclasses.replace(Config(), timezone="Europe/Berlin", channels={"telegram": {}})
    for name, entry in CONFIG_KEYS.items():
        names = list(entry) if isinstance(entry, dict) else [name]
        for key in names:
            assert re.search(rf"(?m)^# [^=\n]+\n# {key} = ", CONFIG_TEMPLATE), f"{key} is not explained"


def test_group_template(tmp_path: Path) -> None:
    (tmp_path / "main.toml").write_text(GROUP_TEMPLATE)
    group = load_group(tmp_path / "main.toml")
    assert group == Group("main", "local:main", "Main", requires_trigger=False, is_main=True)


def test_group_defaults_and_mounts(tmp_path: Path) -> None:
    path = tmp_path / "family.toml"
    path.write_text('jid = "123@g.us"')
    assert load_group(path) == Group("family", "123@g.us", "family", None, True, False, None, ())
    path.write_text("""
        jid = "tg:-5"
        name = "👨\u200d👩\u200d👧 family"
        trigger = "@Bob"
        requires_trigger = false
        [container]
        timeout = "1h"
        [[container.mounts]]
        host_path = "~/a"
        container_path = "a"
        [[container.mounts]]
        host_path = "/b"
        container_path = "b"
        readonly = false
    """)
    mounts = (Mount("~/a", "a"), Mount("/b", "b", False))
    assert load_group(path) == Group(
        "family", "tg:-5", "👨\u200d👩\u200d👧 family", "@Bob", False, False, 3600.0, mounts
    )


JID = 'jid: expected a chat\'s address like "local:main" or "tg:12345"'


@pytest.mark.parametrize(
    ("name", "source", "problems"),
    [
        ("a.toml", "", [f"a.toml: {JID}, found nothing"]),
        ("a.toml", 'jid = "main"', [f'a.toml:1: {JID}, found "main"']),
        ("a.toml", 'jid = "tg: 1"', [f'a.toml:1: {JID}, found "tg: 1"']),
        (
            "a.toml",
            '# group\njid = "tg:1"\n[[container.mounts]]\nhost_path = "/a"\ncontainer_path = "a"\n'
            '[[container.mounts]]\nhost_path = 5\nreadonly = "yes"\nread_only = true',
            [
                "a.toml:6: container.mounts[2].container_path: expected text on one line, in quotes, found nothing",
                "a.toml:7: container.mounts[2].host_path: expected text on one line, in quotes, found 5",
                'a.toml:8: container.mounts[2].readonly: expected true or false, found "yes"',
                "a.toml:9: unknown key 'read_only' in [container.mounts[2]]; did you mean 'readonly'?",
            ],
        ),
        (
            "a.toml",
            'jid = "tg:1"\ncontainer.mounts = "/a"',
            ['a.toml:2: container.mounts: expected a list of tables, found "/a"'],
        ),
        (
            "my group.toml",
            'jid = "tg:1"',
            [
                "my group.toml: 'my group' cannot be a group's folder. Use letters, digits, - and _ "
                "(at most 64, a letter or digit first), not 'global' or 'errors'."
            ],
        ),
        ("b.toml", None, [f"b.toml: {JID}, found nothing"]),
    ],
)
def test_bad_group(tmp_path: Path, name: str, source: str | None, problems: list[str]) -> None:
    if source is not None:
        (tmp_path / name).write_text(source)
    assert refusal(load_group, tmp_path / name) == problems


def test_groups_that_cannot_stand_beside_each_other() -> None:
    groups = [
        Group("zoe", "tg:1", "", is_main=True),
        Group("fAmily", "tg:9", ""),
        Group("Family", "tg:2", ""),
        Group("other", "tg:9", ""),  # its rival is refused itself, so it stays
        Group("work", "tg:2", ""),
        Group("main", "local:main", "", is_main=True),
    ]
    refused = check_groups(list(reversed(groups)))
    assert [(group.folder, str(problem)) for group, problem in refused] == [
        ("fAmily", "state/groups/fAmily.toml: the folder differs only in case from 'Family'; rename the file"),
        ("work", 'state/groups/work.toml: jid: "tg:2" is already registered by Family.toml'),
        ("zoe", "state/groups/zoe.toml: is_main: main.toml is the main group already; there can be only one"),
    ]


def test_many_groups_are_checked_without_comparing_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [Group(f"g{number}", f"tg:{number}", "") for number in range(1000)]
    compared = 0

    class Jid(str):
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

    assert check_groups([dataclasses.replace(group, jid=Jid(group.jid)) for group in groups]) == []
    assert compared < len(groups)


@pytest.mark.parametrize(
    ("source", "environment"),
    [
        ("", Environment()),
        ("# nothing\n\n  \n", Environment()),
        ("ANTHROPIC_API_KEY=sk-1#x # mine", Environment(Credential("api_key", "sk-1#x"))),
        ('export CLAUDE_CODE_OAUTH_TOKEN="a#b" # x\r\n', Environment(Credential("oauth_token", "a#b"))),
        (" ANTHROPIC_BASE_URL = 'http://[::1]:8080/v/' ", Environment(None, "http://[::1]:8080/v")),
    ],
)
def test_environment(tmp_path: Path, source: str, environment: Environment) -> None:
    assert load_environment(tmp_path / ".env") == Environment()
    (tmp_path / ".env").write_bytes(source.encode())
    assert load_environment(tmp_path / ".env") == environment


SECRET = "sk-ant-hush"
WORD = "expected one word of letters, digits and signs, in matching quotes or without any"


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        (SECRET, [".env:1: expected KEY=VALUE"]),
        (f"ANTROPIC_API_KEY={SECRET}", [".env:1: unknown key 'ANTROPIC_API_KEY'; did you mean 'ANTHROPIC_API_KEY'?"]),
        (
            "\nFOO=1",
            [
                ".env:2: unknown key 'FOO'; known are ANTHROPIC_API_KEY, CLAUDE_CODE_OAUTH_TOKEN, ANTHROPIC_BASE_URL, "
                "TELEGRAM_BOT_TOKEN"
            ],
        ),
        (
            "ANTHROPIC_API_KEY= # later",
            [".env:1: ANTHROPIC_API_KEY: expected a value, found none; remove the line if you do not use it"],
        ),
        (
            f'ANTHROPIC_API_KEY="{SECRET}',
            [f".env:1: ANTHROPIC_API_KEY: {WORD}"],
        ),
        (f"ANTHROPIC_API_KEY={SECRET} x", [f".env:1: ANTHROPIC_API_KEY: {WORD}"]),
        (f"ANTHROPIC_API_KEY={SECRET}é", [f".env:1: ANTHROPIC_API_KEY: {WORD}"]),
        (
            f"ANTHROPIC_API_KEY={SECRET}\nANTHROPIC_API_KEY=b",
            [".env:2: ANTHROPIC_API_KEY: ANTHROPIC_API_KEY is set on line 1 already; keep one of the two"],
        ),
        (
            f"CLAUDE_CODE_OAUTH_TOKEN={SECRET}\nANTHROPIC_API_KEY={SECRET}",
            [".env:2: ANTHROPIC_API_KEY: CLAUDE_CODE_OAUTH_TOKEN is set on line 1 already; keep one of the two"],
        ),
        *[
            (
                f"ANTHROPIC_BASE_URL={url}",
                [".env:1: ANTHROPIC_BASE_URL: expected a URL like https://api.anthropic.com"],
            )
            for url in (
                "api.anthropic.com",
                "ftp://x",
                "https://",
                f"https://u:{SECRET}@x",
                "http://x:99999",
                "http://x?a",
            )
        ],
    ],
)
def test_bad_environment_is_refused_without_showing_secrets(tmp_path: Path, source: str, problems: list[str]) -> None:
    (tmp_path / ".env").write_text(source)
    said = refusal(load_environment, tmp_path / ".env")
    assert said == problems
    assert SECRET not in "".join(said)


def test_credential_is_in_no_repr() -> None:
    assert SECRET not in repr(Environment(Credential("api_key", SECRET)))


def test_system_timezone(tmp_path: Path) -> None:
    assert system_timezone({}, tmp_path) == "UTC"
    (tmp_path / "timezone").write_text("Asia/Tokyo\n")
    assert system_timezone({}, tmp_path) == "Asia/Tokyo"
    (tmp_path / "localtime").symlink_to("/usr/share/zoneinfo/posix/Europe/Paris")
    assert system_timezone({}, tmp_path) == "Europe/Paris"
    assert system_timezone({"TZ": ":America/New_York"}, tmp_path) == "America/New_York"
    assert system_timezone({"TZ": "CET-1CEST"}, tmp_path) == "Europe/Paris"
