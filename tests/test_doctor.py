"""doctor on real homes: each thing that can be wrong is found, said in one line, and has a cure."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoclaw.commands import doctor
from nanoclaw.config.env import KNOWN_KEYS
from nanoclaw.config.templates import GROUP_TEMPLATE
from nanoclaw.doctor import machine
from nanoclaw.doctor.findings import Finding, Situation, look_at
from nanoclaw.doctor.home import check_directories
from nanoclaw.doctor.machine import check_disk, disk_finding
from nanoclaw.paths import PROJECT, Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home in which all is well but that no host runs; its engine is the process runtime."""
    monkeypatch.delenv("NANOCLAW_ENVIRONMENT_PROBLEM", raising=False)
    home = Home(tmp_path / "home", tmp_path / "user")
    home.group_files.mkdir(parents=True)
    home.groups.mkdir()
    home.user_config.mkdir()
    home.config_file.write_text('[container]\nruntime = "process"\n')
    home.group_file("main").write_text(GROUP_TEMPLATE)
    home.env_file.write_text("ANTHROPIC_API_KEY=sk-hush\n")
    home.env_file.chmod(0o600)
    return home


@pytest.fixture
def host(home: Home) -> Iterator[None]:
    """Another process that holds the home's lock, as a host does."""
    code = (
        "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), fcntl.LOCK_EX); print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(home.state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate("\n")


def run(home: Home, as_json: bool = False) -> int:
    result = doctor.command(home, argparse.Namespace())
    print(json.dumps(result.value) if as_json else result.text)
    return result.code


def findings(home: Home, capsys: pytest.CaptureFixture[str]) -> dict[str, list[dict[str, str]]]:
    """What ``doctor --json`` says, by check."""
    capsys.readouterr()
    code = run(home, as_json=True)
    said = json.loads(capsys.readouterr().out)
    assert said["exit"] == code
    by_check: dict[str, list[dict[str, str]]] = {}
    for finding in said["findings"]:
        by_check.setdefault(finding["check"], []).append(finding)
    return by_check


def one(home: Home, capsys: pytest.CaptureFixture[str], check: str) -> tuple[str, str, str, str]:
    [finding] = findings(home, capsys)[check]
    return finding["severity"], finding["finding"], finding["cause"], finding["cure"]


def tree(root: Path) -> dict[str, tuple[int, int, bytes]]:
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in [root, *root.rglob("*")]
    }


@pytest.mark.usefixtures("host")
def test_all_is_well_and_nothing_is_changed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (home.state / "host.json").write_text('{"pid": 4711, "mode": "run", "started": "2026-11-22T09:30:00Z"}')
    before = tree(home.root.parent)
    run(home)
    lines = capsys.readouterr().out.splitlines()
    assert tree(home.root.parent) == before
    for line in (
        "ok       engine       not used (runtime process, WITHOUT ISOLATION)",
        "ok       image        not used (runtime process, WITHOUT ISOLATION)",
        "ok       credential   API key in .env",
        "ok       env-mode     600",
        "ok       files        config.toml, groups, .env and the allowlists are valid",
        f"ok       directories  writable below {home.root}",
        "ok       groups       1 registered, main is main",
        "ok       mounts       none asked for",
        "ok       host         running (pid 4711, run, since 2026-11-22T09:30:00Z)",
        "ok       held         nothing holds back the runs",
        "ok       channels     local only",
        "ok       requests     none refused",
    ):
        assert line in lines
    severities = {check: {f["severity"] for f in found} for check, found in findings(home, capsys).items()}
    assert severities.pop("disk") <= {"ok", "warning"}  # the machine's own
    assert set().union(*severities.values()) == {"ok"}


def test_no_host(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    (home.state / "host.json").write_text('{"pid": 1, "mode": "run", "started": "x"}')  # of a host that is gone
    assert one(home, capsys, "host") == ("warning", "no host is running", "messages wait", "python3 nanoclaw.py run")


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("record", [None, "{", "[]", '{"pid": 1}'])
def test_host_that_does_not_say_who_it_is(home: Home, capsys: pytest.CaptureFixture[str], record: str | None) -> None:
    if record is not None:
        (home.state / "host.json").write_text(record)
    assert one(home, capsys, "host")[:2] == ("ok", "running (state/host.json does not say which)")


@pytest.mark.parametrize(
    ("cause", "severity", "name", "cure"),
    [
        ("credential", "error", "credential-rejected: The model refused the credential", "claude setup-token; "),
        ("image", "error", "image-absent: ", "python3 nanoclaw.py build"),
        ("disk", "error", "disk-full: ", "df -h "),
        ("rate_limit", "warning", "rate-limit: ", "wait until 2026-11-22T14:00:00Z"),
        ("engine", "error", "engine-down: ", "see the check engine"),
        ("of a later version", "warning", "of a later version, since", "wait until "),
    ],
)
def test_what_holds_back_all_runs(
    home: Home, capsys: pytest.CaptureFixture[str], cause: str, severity: str, name: str, cure: str
) -> None:
    held = {"cause": cause, "since": "2026-11-22T09:30:00Z", "detail": "", "until": "2026-11-22T14:00:00Z"}
    (home.state / "held.json").write_text(json.dumps(held))
    found = one(home, capsys, "held")
    assert found[0] == severity and found[1].startswith(name) and found[3].startswith(cure)
    assert "since 2026-11-22T09:30:00Z, until 2026-11-22T14:00:00Z" in found[1]
    (home.state / "held.json").write_text(json.dumps({**held, "detail": "two\nlines"}))
    assert one(home, capsys, "held")[2] == "two lines"


def test_files_of_the_state_that_cannot_be_read(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.cursors.mkdir()
    (home.cursors / "main.json").write_text("{")
    for path in (home.state / "held.json", home.state / "host.json"):
        os.mkfifo(path)
    assert one(home, capsys, "held")[:2] == ("warning", "state/held.json cannot be read")
    severity, finding, cause, cure = one(home, capsys, "cursor")
    assert (severity, finding.split()[0]) == ("error", "main") and str(home.cursors / "main.json") in finding
    assert "not valid JSON" in cause and str(home.cursors / "main.json") in cure


def test_every_problem_of_every_file(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.config_file.write_text('asistant_name = "X"\nmax_concurrent_containers = "five"\n')
    home.group_file("bad").write_text("jid =")
    home.group_file("twice").write_text('jid = "local:main"')
    for ignored in (".main.toml.swp", ".#x.toml", "main.toml~", "notes.txt"):
        (home.group_files / ignored).write_text("?")
    home.env_file.write_text("KEY=sk-hush")
    home.mount_allowlist.write_text("[]")
    home.sender_allowlist.write_text('{"default": {"allow": "*", "mode": "trigger"},\n "chats": {"tg:1": 5}}')
    found = findings(home, capsys)
    assert [(finding["severity"], finding["finding"]) for finding in found["files"]] == [
        ("error", "state/config.toml:1: unknown key 'asistant_name'; did you mean 'assistant_name'?"),
        ("error", 'state/config.toml:2: max_concurrent_containers: expected a whole number ≥ 1, found "five"'),
        (
            "error",
            f".env:1: unknown key 'KEY'; known are {', '.join(KNOWN_KEYS)}",
        ),
        (
            "error",
            "state/groups/bad.toml:1: not valid TOML: Invalid value (at end of document); text stands in quotes",
        ),
        ("error", 'state/groups/twice.toml: jid: "local:main" is already registered by main.toml'),
        ("error", f"{home.mount_allowlist}: the file: expected a table, found []"),
        ("error", f"{home.sender_allowlist}:2: chats.tg:1: expected a table, found 5"),
    ]
    assert "but for owners" in found["files"][-1]["cause"]
    assert found["files"][1]["cure"] == f"${{EDITOR:-vi}} +2 {home.config_file}"
    for check in ("engine", "image", "credential", "channels"):
        assert found[check][0]["severity"] == "skipped"
    assert "hush" not in str(found)
    assert found["groups"][0]["finding"] == "1 registered, main is main"


def test_credential(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.env_file.unlink()
    severity, finding, _, cure = one(home, capsys, "credential")
    assert (severity, finding) == ("error", "no credential")
    assert one(home, capsys, "env-mode")[0] == "skipped"
    subprocess.run(["sh", "-c", cure], check=True)  # the cure cures
    assert one(home, capsys, "credential")[0] == "ok"
    assert one(home, capsys, "env-mode")[:2] == ("ok", "600")
    home.env_file.unlink()
    home.config_file.write_text('container.runtime = "process"\nmodel.offline = true\n')
    assert one(home, capsys, "credential")[:2] == ("ok", "not needed ([model] offline = true)")


def test_mode_of_env(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.env_file.chmod(0o640)
    severity, finding, _, cure = one(home, capsys, "env-mode")
    assert (severity, finding) == ("warning", "640")
    subprocess.run(["sh", "-c", cure], check=True)
    assert one(home, capsys, "env-mode")[0] == "ok"


def test_groups(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.group_file("main").rename(home.group_file("other"))
    home.group_file("other").write_text('jid = "tg:1"')
    assert one(home, capsys, "groups")[:2] == ("warning", "1 registered, none is main")
    home.group_file("other").write_text("jid = 5")
    assert one(home, capsys, "groups")[:2] == ("error", "no group can be used")
    home.group_file("other").unlink()
    assert one(home, capsys, "groups")[:2] == ("warning", "no group is registered")


def test_directories(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(home.inbox)
    home.runs.symlink_to("nowhere")
    found = [(f["finding"], f["cure"]) for f in findings(home, capsys)["directories"]]
    assert found == [(f"{path} is not a directory", f"mv {path} {path}.old") for path in (home.inbox, home.runs)]
    shutil.rmtree(home.root)
    assert one(home, capsys, "directories")[:2] == ("error", f"{home.root} does not exist")


def test_unwritable_directory() -> None:
    with tempfile.TemporaryDirectory() as directory:  # pytest's own ones are closed to other users
        Path(directory).chmod(0o777)
        home = Home(Path(directory), Path(directory, "user"))
        home.state.mkdir()
        home.state.chmod(0o555)
        uids = os.getresuid()
        if uids[1] == 0:
            os.setresuid(65534, 65534, 0)
        try:
            [finding] = check_directories(look_at(home))
        finally:
            os.setresuid(*uids)
        assert finding.finding == f"{home.state} is not writable"


def test_refused_mounts(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    allowed = home.user_config.parent / "allowed"
    allowed.mkdir()
    home.mount_allowlist.write_text(json.dumps({"allowedRoots": [{"path": str(allowed)}]}))
    mounts = "".join(
        f'[[container.mounts]]\nhost_path = "{path}"\ncontainer_path = "{name}"\n'
        for name, path in (("a", allowed), ("s", home.state))
    )
    home.group_file("main").write_text(GROUP_TEMPLATE + mounts)
    severity, finding, cause, cure = one(home, capsys, "mounts")
    assert (severity, finding) == ("warning", f"main: {home.state} is refused")
    assert cause.startswith("never mounted")
    assert str(home.mount_allowlist) in cure


TELEGRAM = '[container]\nruntime = "process"\n[channels.telegram]\n'


def test_a_channel_without_its_secret(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.config_file.write_text(TELEGRAM)
    severity, finding, _, cure = one(home, capsys, "channels")
    assert (severity, finding) == ("error", "telegram: TELEGRAM_BOT_TOKEN is missing")
    subprocess.run(["sh", "-c", cure], check=True)  # the cure cures
    (home.state / "channels.json").write_text('{"telegram": {"state": "connected"}}')  # of a host that is gone
    assert one(home, capsys, "channels")[:2] == ("skipped", "telegram: not connected: no host")
    home.env_file.write_text("nonsense")
    assert one(home, capsys, "channels")[:2] == ("skipped", "telegram: not checked: .env is refused")


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize(
    ("record", "severity", "finding", "cause"),
    [
        ('{"state": "connected", "since": "12:00"}', "ok", "telegram: connected since 12:00", ""),
        ('{"state": "connecting"}', "warning", "telegram: connecting", "the log says why"),
        ('{"state": "sign-in needed", "detail": "get a\\ntoken"}', "error", "telegram: sign-in needed", "get a token"),
        ('{"state": "error", "detail": "409"}', "error", "telegram: error", "409"),
        ('"connected"', "warning", "telegram: unknown", None),
        ("", "warning", "telegram: unknown", None),
    ],
)
def test_how_a_channel_stands(
    home: Home, capsys: pytest.CaptureFixture[str], record: str, severity: str, finding: str, cause: str | None
) -> None:
    home.config_file.write_text(TELEGRAM)
    home.env_file.write_text("ANTHROPIC_API_KEY=sk-hush\nTELEGRAM_BOT_TOKEN=1:hush\n")
    (home.state / "channels.json").write_text(f'{{"telegram": {record}}}')
    found = one(home, capsys, "channels")
    assert found[:2] == (severity, finding)
    assert cause is None or found[2] == cause
    assert bool(found[3]) is (severity != "ok")


def test_a_group_that_no_channel_serves(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    home.group_file("family").write_text('jid = "tg:-100"')
    home.group_file("work").write_text('jid = "dc:5"')
    found = findings(home, capsys)["channels"][1:]
    assert [(f["severity"], f["finding"]) for f in found] == [
        ("warning", "family: no channel serves tg:-100"),
        ("warning", "work: no channel serves dc:5"),
    ]
    subprocess.run(["sh", "-c", found[0]["cure"]], check=True)  # the cure cures
    found = findings(home, capsys)["channels"]
    assert [f["finding"] for f in found] == [
        "telegram: TELEGRAM_BOT_TOKEN is missing",
        "work: no channel serves dc:5",
    ]


def test_refused_requests(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    errors = home.ipc / "errors"
    errors.mkdir(parents=True)
    for name in ("a.json", "a.json.reason", "only.json.reason", ".draft"):
        (errors / name).touch()
    severity, finding, _, cure = one(home, capsys, "requests")
    assert (severity, finding) == ("warning", "2 refused requests")
    assert cure == "python3 nanoclaw.py ipc errors list"


def test_environment(home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert one(home, capsys, "environment")[0] == "ok"
    monkeypatch.setenv("NANOCLAW_ENVIRONMENT_PROBLEM", "pip failed:\n no network")
    assert one(home, capsys, "environment")[:3] == (
        "error", "the Python environment is incomplete", "pip failed: no network",
    )  # fmt: skip


@pytest.fixture
def engine(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``docker`` command before all others on PATH: a shell script that the test writes."""
    home.config_file.write_text("")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    script = tmp_path / "docker"
    script.touch(0o755)
    return script


def script(engine: Path, inspect: str) -> None:
    engine.write_text(f'#!/bin/sh\ncase "$1" in version) echo 20.10.24;;\nimage) {inspect};;\n*) exit 9;; esac\n')


@pytest.mark.parametrize(
    ("inspect", "severity", "finding"),
    [
        ("echo 'Error: No such image' >&2; exit 1", "error", "nanoclaw-agent:latest is absent"),
        ("echo 0123", "warning", "nanoclaw-agent:latest is older than its sources"),
    ],
)
def test_image(
    home: Home, engine: Path, capsys: pytest.CaptureFixture[str], inspect: str, severity: str, finding: str
) -> None:
    script(engine, inspect)
    assert one(home, capsys, "engine") == ("ok", f"docker ({engine})", "", "")
    assert one(home, capsys, "image")[:2] == (severity, finding)
    assert one(home, capsys, "image")[3] == "python3 nanoclaw.py build"


def test_permission_denied(home: Home, engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine.write_text("#!/bin/sh\necho 'Got permission denied while trying to connect' >&2; exit 1\n")
    severity, finding, cause, cure = one(home, capsys, "engine")
    assert (severity, finding) == ("error", "docker cannot be used")
    assert "permission is denied" in cause
    assert "docker" in cure
    assert one(home, capsys, "image")[0] == "skipped"


def test_not_running(
    home: Home, engine: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{home.root}/no.sock")
    engine.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2; exit 1\n")
    assert "is not running" in one(home, capsys, "engine")[2]


def test_not_installed(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which("container"):
        pytest.skip("Apple container is installed here")
    home.config_file.write_text('container.runtime = "container"')
    severity, _, cause, cure = one(home, capsys, "engine")
    assert severity == "error"
    assert "not installed" in cause
    assert "https://github.com/apple/container" in cure


@pytest.mark.parametrize("hanging", ["version", "image"])
def test_hanging_engine_does_not_hold_up_the_others(
    home: Home, engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], hanging: str
) -> None:
    """The client hangs for ever, and a child of it holds its output open; afterwards neither is left."""
    lock = tmp_path / "lock"
    lock.touch()
    hang = f"exec 9<'{lock}'; flock --exclusive 9; sleep 1000"
    engine.write_text(f'#!/bin/sh\n[ "$1" = {hanging} ] || exit 0\n{hang}\n')
    found = findings(home, capsys)
    check, said = {"version": ("engine", "does not answer within 1.2 s"), "image": ("image", "does not answer")}[
        hanging
    ]
    assert found[check][0]["severity"] == "error"
    assert said in found[check][0]["cause"]
    assert found[check][0]["cure"]
    assert found["files"][0]["severity"] == "ok"
    with lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody holds it any more


def test_check_that_crashes_is_a_finding(home: Home) -> None:
    def crashes(_: Situation) -> list[Finding]:
        raise ValueError("two\nlines")

    found = doctor.run_checks({"crash": crashes, "disk": check_disk}, look_at(home))
    assert [finding.check for finding in found] == ["crash", "disk"]
    assert (found[0].severity, found[0].cause) == ("error", "a bug in doctor: ValueError: two lines")


@pytest.mark.usefixtures("host")
def test_exit_code(home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DISK_WARNING", 101)  # the disk is the machine's own
    assert run(home) == 0
    home.env_file.chmod(0o644)
    assert run(home) == 1
    home.config_file.write_text("x = 1")
    assert run(home) == 2


def test_render() -> None:
    found = [Finding("a", "ok", "fine"), Finding("long", "error", "bad", "because", "do this")]
    assert doctor.render(found).split("\n") == [
        "ok       a     fine",
        "error    long  bad",
        "               cause: because",
        "               cure:  do this",
    ]


@pytest.mark.parametrize(
    ("used", "free", "severity"), [(84, 16, "ok"), (85, 15, "warning"), (1, 0, "warning"), (0, 0, "ok")]
)
def test_disk(used: int, free: int, severity: str) -> None:
    assert disk_finding(used, free).severity == severity


def test_needs_only_the_standard_library(home: Home) -> None:
    """What the launcher does where nothing could be installed: python -S, without site-packages."""
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "from nanoclaw.commands.doctor import command; from nanoclaw.paths import Home;"
        "print(command(Home(Path(sys.argv[2]), Path(sys.argv[3])), None).text)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(PROJECT), str(home.root), str(home.user_config)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"not importable: {', '.join(machine.PACKAGES)}" in done.stdout
    assert "crashed" not in done.stdout
