"""The mount allowlist on real directories and symlinks: what may be mounted, how, and why not."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from nanoclaw.config.mounts import AllowedRoot, MountAllowlist, check_mount, check_mounts, load_allowlist
from nanoclaw.config.strict import FileProblems
from nanoclaw.models import Group, Mount
from nanoclaw.paths import Home

MAIN = Group("main", "local:main", "Main", is_main=True)
OTHER = Group("other", "tg:1", "Other")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home in H, its person's home directory P with the allowed roots rw/ and ro/ (ro/rw/ writable again)."""
    root, person = tmp_path.resolve() / "H", tmp_path.resolve() / "P"
    for path in (
        "rw/docs",
        "rw/.ssh",
        "rw/My-Credentials",
        "rw/build.tmp",
        "ro/rw",
        "elsewhere/x",
        "a:b, c",
        'a"b',
        "config",
    ):
        (person / path).mkdir(parents=True)
    (root / "state" / "runs").mkdir(parents=True)
    (root / "groups").mkdir()
    (root / ".env").touch()
    (person / "rw" / "file.txt").touch()
    for link, target in {
        "rw/harmless": "docs",
        "rw/out": "../elsewhere",
        "rw/keys": ".ssh",
        "rw/state": "../../H/state",
        "rw/loop": "loop",
        "into": "rw/docs",
        "linked-root": "elsewhere",
    }.items():
        (person / link).symlink_to(target)
    monkeypatch.setenv("HOME", str(person))
    return Home(root, person / "config")


def allowlist(**changes: object) -> MountAllowlist:
    roots = (AllowedRoot("~/rw", True), AllowedRoot("~/ro"), AllowedRoot("~/ro/rw", True), AllowedRoot("~/gone"))
    values: dict[str, object] = {"roots": roots, "blocked": ("*.tmp",), "non_main_read_only": False}
    return MountAllowlist(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host_path", "becomes", "readonly"),
    [
        ("~/rw", "P/rw", False),
        ("~/rw/docs/", "P/rw/docs", False),
        ("~/rw/file.txt", "P/rw/file.txt", False),
        ("~/rw/harmless", "P/rw/docs", False),
        ("~/into", "P/rw/docs", False),
        ("~/rw/../ro", "P/ro", True),
        ("~/ro/rw", "P/ro/rw", False),
    ],
)
def test_permitted(home: Home, host_path: str, becomes: str, readonly: bool) -> None:
    resolved, reason = check_mount(Mount(host_path, "x", readonly=False), OTHER, allowlist(), home)
    assert resolved, reason
    assert (resolved.host_path, resolved.readonly) == (home.root.parent / becomes, readonly)


@pytest.mark.parametrize(
    ("host_path", "reason"),
    [
        ("~/elsewhere", "not below an allowed root"),
        ("~/rw/out", "'P/elsewhere' is not below an allowed root"),
        ("~/rw/out/x", "not below an allowed root"),
        ("~/rw/keys", "'P/rw/.ssh' matches the blocked pattern '.ssh'"),
        ("~/rw/My-Credentials", "matches the blocked pattern 'credentials'"),
        ("~/rw/build.tmp", "matches the blocked pattern '*.tmp'"),
        ("~/rw/missing", "No such file or directory"),
        ("~/rw/loop", "Too many levels of symbolic links"),
        ("~/rw/\0", "null byte"),
        ("rw/docs", "host_path is not absolute"),
        ("~nobody-of-this-name/x", "host_path is not absolute"),
        ("~/rwx", "No such file"),
    ],
)
def test_refused(home: Home, host_path: str, reason: str) -> None:
    resolved, why = check_mount(Mount(host_path, "x"), MAIN, allowlist(), home)
    assert resolved is None
    assert reason in why.replace(f"{home.root.parent}/", "")


@pytest.mark.parametrize(
    ("host_path", "protected"),
    [
        ("/", "H/state"),
        ("H", "H/state"),
        ("H/state", "H/state"),
        ("H/state/runs", "H/state"),
        ("H/STATE/runs", "H/state"),
        ("P/rw/state", "H/state"),
        ("H/.env", "H/.env"),
        ("P/config", "P/config"),
        ("P", "P/config"),
        ("/proc/self", "/proc"),
        ("/sys/kernel", "/sys"),
        ("/dev/shm", "/dev"),
    ],
)
def test_never_mounted_whatever_the_allowlist_says(home: Home, host_path: str, protected: str) -> None:
    (home.root / "STATE" / "runs").mkdir(parents=True)  # what a file system that ignores case shows
    everything = MountAllowlist((AllowedRoot("/", True),), (), False)
    top = home.root.parent
    resolved, why = check_mount(Mount(str(top / host_path), "x"), MAIN, everything, home)
    assert resolved is None
    assert why.endswith(f"gives access to {str(top / protected)!r}")
    resolved, why = check_mount(Mount(str(top / "H/groups"), "x"), MAIN, everything, home)
    assert resolved, why


def test_engine_sockets_are_never_mounted(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = MountAllowlist((AllowedRoot("/", True),), (), False)
    directory = tmp_path / "engine"
    directory.mkdir()
    monkeypatch.chdir(directory)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("s")
    assert check_mount(Mount(str(directory / "s"), "x"), MAIN, everything, home)[0] is None
    assert check_mount(Mount(str(directory), "x"), MAIN, everything, home)[0] is not None
    monkeypatch.setenv("DOCKER_HOST", f"unix://{directory}/s")
    assert check_mount(Mount(str(directory), "x"), MAIN, everything, home)[0] is None
    runtime = tmp_path / "runtime"
    (runtime / "podman").mkdir(parents=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    for path in (runtime, runtime / "podman"):
        assert f"gives access to '{runtime}/" in check_mount(Mount(str(path), "x"), MAIN, everything, home)[1]
    for path in ("/run", "/var/run"):
        assert "gives access to '/run/docker.sock'" in check_mount(Mount(path, "x"), MAIN, everything, home)[1]


@pytest.mark.parametrize(
    "path", ["", ".", "/", "/x", "..", "a/../b", "a:b", "a:ro", "a,b", 'a"', "a\\b", "a\nb", "a\x7f"]
)
def test_bad_container_paths(home: Home, path: str) -> None:
    resolved, why = check_mount(Mount("~/rw", path), MAIN, allowlist(), home)
    assert resolved is None
    assert why.startswith("container_path ")


def test_host_path_that_the_engine_would_misread(home: Home) -> None:
    everything = allowlist(roots=(AllowedRoot("~/"),))
    assert check_mount(Mount("~/a:b, c", "x"), MAIN, everything, home)[0] is not None
    resolved, why = check_mount(Mount('~/a"b', "x"), MAIN, everything, home)
    assert (resolved, why.split(" contains")[0]) == (None, "host_path")


@pytest.mark.parametrize(
    ("root", "group", "non_main_read_only", "asked", "readonly"),
    [
        ("~/rw", MAIN, True, False, False),
        ("~/rw", OTHER, True, False, True),
        ("~/rw", OTHER, False, False, False),
        ("~/rw", MAIN, False, True, True),
        ("~/ro", MAIN, False, False, True),
    ],
)
def test_who_may_write(
    home: Home, root: str, group: Group, non_main_read_only: bool, asked: bool, readonly: bool
) -> None:
    rules = allowlist(non_main_read_only=non_main_read_only)
    resolved, _ = check_mount(Mount(root, "x", readonly=asked), group, rules, home)
    assert resolved
    assert resolved.readonly is readonly


def test_root_that_is_a_symlink_counts_where_it_points(home: Home) -> None:
    rules = allowlist(roots=(AllowedRoot("~/linked-root"),))
    assert check_mount(Mount("~/elsewhere/x", "x"), MAIN, rules, home)[0] is not None


def test_file_is_read_and_its_absence_or_errors_permit_nothing(home: Home) -> None:
    group = Group("main", "local:main", "", is_main=True, mounts=(Mount("~/rw", "a", readonly=False),))
    [(_, resolved, why)] = check_mounts(group, home)
    assert (resolved, why) == (None, f"there is no allowlist at {home.mount_allowlist}")
    home.mount_allowlist.write_text("{")
    [(_, resolved, why)] = check_mounts(group, home)
    assert resolved is None
    assert why.startswith(f"the allowlist cannot be used, nothing is mounted: {home.mount_allowlist}:1: not valid JSON")
    home.mount_allowlist.write_text(json.dumps({"allowedRoots": [{"path": "~/rw", "allowReadWrite": True}]}))
    [(_, resolved, why)] = check_mounts(group, home)
    assert resolved
    assert not resolved.readonly
    assert why == "below '~/rw', read-write"


def test_mounts_do_not_cover_each_other(home: Home) -> None:
    home.mount_allowlist.write_text('{"allowedRoots": [{"path": "~/rw"}]}')
    wanted = ("a/b", "a", "a/b/c", "./a/b", "ab", "gone/../x", "d")
    group = Group("main", "local:main", "", mounts=tuple(Mount("~/rw/docs", path) for path in wanted))
    answers = {mount.container_path: resolved is not None for mount, resolved, _ in check_mounts(group, home)}
    assert [path for path in wanted if answers[path]] == ["a/b", "ab", "d"]


@pytest.mark.parametrize(
    ("source", "problems"),
    [
        ('{"allowedRoots": [],}', ["1: not valid JSON: Expecting property name enclosed in double quotes"]),
        ("[]", [" the file: expected a table, found []"]),
        ("{}", ["1: allowedRoots: expected a list of tables, found nothing"]),
        (
            '{"allowedRoots": [], "allowedRoots": []}',
            [" not valid JSON: the key 'allowedRoots' stands twice in one object"],
        ),
        (
            '{\n"allowedRoots": [\n{"path": "/a"},\n{\n"path":\n5,\n"allowReadwrite": true},\n{}],\n'
            '"blockedPatterns": "x",\n"nonMainReadOnly": "yes"}',
            [
                "5: allowedRoots[2].path: expected text on one line, in quotes, found 5",
                "7: unknown key 'allowReadwrite' in [allowedRoots[2]]; did you mean 'allowReadWrite'?",
                "8: allowedRoots[3].path: expected text on one line, in quotes, found nothing",
                '9: blockedPatterns: expected a list of texts like ["a", "b"], found "x"',
                '10: nonMainReadOnly: expected true or false, found "yes"',
            ],
        ),
        ('{"allowedRoots": ["/a"]}', ['1: allowedRoots[1]: expected a table, found "/a"']),
        ("[" * 100_000, [" not valid JSON: maximum recursion depth exceeded"]),
    ],
)
def test_bad_file(tmp_path: Path, source: str, problems: list[str]) -> None:
    path = tmp_path / "mount-allowlist.json"
    path.write_text(source)
    with pytest.raises(FileProblems) as raised:
        load_allowlist(path)
    said = [str(problem).removeprefix(f"{path}:") for problem in raised.value.problems]
    assert len(said) == len(problems)
    assert all(line.startswith(expected) for line, expected in zip(said, problems, strict=True)), said


def test_defaults_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mount-allowlist.json"
    assert load_allowlist(path) is None
    path.write_text('{"allowedRoots": [{"path": "/a", "description": ""}]}')
    assert load_allowlist(path) == MountAllowlist((AllowedRoot("/a"),), (), non_main_read_only=True)
