"""`build`: what of this machine reaches the build, which base is taken, why an engine cannot be used.

The engine's client is stood in for by a shell script where its answers are the matter; the last test builds for real.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nanoclaw.commands import build
from nanoclaw.errors import UserError
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs import engine_check, image

Client = Callable[[str], str]


@pytest.fixture
def client(tmp_path: Path) -> Client:
    """Make a `docker` command from the body of a shell script; returns its path."""

    def make(body: str) -> str:
        path = tmp_path / "docker"
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)
        return str(path)

    return make


def test_pip_settings_leave_out_what_only_this_machine_can_see() -> None:
    config = [
        "global.index-url='https://mirror.example/simple'",
        "global.extra-index-url='file:///srv/simple https://more.example/simple'",
        "global.find-links='/srv/wheels'",
        "global.cert='/etc/ssl/cert.pem'",
        ":env:.proxy='p'",
        "install.trusted-host='mirror.example'",
        "freeze.proxy='q'",
    ]
    assert build.pip_settings({}, config) == {
        "index-url": "https://mirror.example/simple",
        "extra-index-url": "https://more.example/simple",
        "trusted-host": "mirror.example",
    }
    from_environment = {"PIP_INDEX_URL": "http://other.example/", "PIP_EXTRA_INDEX_URL": "/srv/simple"}
    assert build.pip_settings(from_environment, config[:2]) == {"index-url": "http://other.example/"}
    assert build.pip_settings({}, []) == {}


def test_the_context_holds_only_what_is_needed(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("CERT")
    (tmp_path / "context").mkdir()
    build.fill_context(tmp_path / "context", {"REQUESTS_CA_BUNDLE": str(bundle), "PIP_PROXY": "http://p:1"}, [])
    content = {path.name: path.read_text() for path in (tmp_path / "context").iterdir()}
    assert sorted(content) == ["Dockerfile", "ca.crt", "pip.conf", "requirements.txt"]
    assert content["ca.crt"] == "CERT"
    assert content["pip.conf"] == "[global]\nproxy = http://p:1\n"


def test_a_proxy_is_named_but_its_value_is_not_on_the_command_line() -> None:
    environment = {"HTTPS_PROXY": "http://me:secret@proxy.example", "HTTP_PROXY": ""}
    argv = build.build_argv("/usr/bin/docker", "i:1", "b:1", "d1", True, False, environment)
    assert argv == [
        *["/usr/bin/docker", "build", "--tag", "i:1", "--build-arg", "BASE_IMAGE=b:1", "--build-arg", "SOURCES=d1"],
        *["--build-arg", "BROWSER_TOOLS=0", "--network", "host", "--build-arg", "HTTPS_PROXY", "--no-cache"],
    ]
    assert "--network" not in build.build_argv("/usr/bin/container", "i", "b", "d", False, True, {})


@pytest.mark.parametrize(
    ("wanted", "variable", "present", "pullable", "found"),
    [
        ("mine:1", "other:1", ["mine:1", "nanoclaw-base:bookworm"], [], "mine:1"),
        ("mine:1", None, ["nanoclaw-base:bookworm"], ["mine:1"], "mine:1"),
        ("mine:1", None, ["nanoclaw-base:bookworm"], [], None),
        (None, "other:1", ["other:1", "nanoclaw-base:bookworm"], [], "other:1"),
        (None, None, ["python:3.12-slim", "nanoclaw-base:bookworm"], [], "nanoclaw-base:bookworm"),
        (None, None, ["python:3.13", "python:3.11-slim", "python:3.12-slim-bookworm"], [], "python:3.12-slim-bookworm"),
        (None, None, ["python:3.9-slim"], [image.public_base()], image.public_base()),
        (None, None, [], [], None),
    ],
)
def test_the_base_image(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str | None,
    variable: str | None,
    present: list[str],
    pullable: list[str],
    found: str | None,
) -> None:
    monkeypatch.setenv("BASE_IMAGE", variable or "")
    docker = client(f"""
        case "$1 $2" in
        "image ls") printf '%s\\n' {" ".join(present)} ;;
        "image inspect") case " {" ".join(present)} " in *" $3 "*) exit 0 ;; *) exit 1 ;; esac ;;
        pull*) case " {" ".join(pullable)} " in *" $2 "*) exit 0 ;; *) exit 1 ;; esac ;;
        esac""")
    if found:
        assert image.find_base(docker, wanted) == found
    else:
        with pytest.raises(UserError) as refused:
            image.find_base(docker, wanted)
        assert "container/make-base-image" in refused.value.fix


def test_a_client_is_found_with_a_bare_path(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(client("exit 0")))
    assert engine_check.find_cli("docker") == client("exit 0")
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(engine_check, "_USUAL_PLACES", "/nowhere/either")
    with pytest.raises(UserError, match="not installed"):
        engine_check.find_cli("docker")


def test_not_running_and_forbidden_are_told_apart(
    client: Client, monkeypatch: pytest.MonkeyPatch, short_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{short_path}/absent")
    assert engine_check.why_unavailable(client("echo 20.10")) is None
    absent = engine_check.why_unavailable(client("echo 'Cannot connect to the Docker daemon' >&2; exit 1"))
    assert absent is not None
    assert "is not running" in absent.problem
    assert "Cannot connect" in absent.problem
    said = engine_check.why_unavailable(client("echo 'permission denied while trying to connect' >&2; exit 1"))
    assert said is not None
    assert "permission is denied" in said.problem
    assert "newgrp docker" in said.fix
    assert "\n" not in said.problem + said.fix + absent.problem + absent.fix


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_socket_that_may_not_be_opened_is_forbidden(client: Client, short_path: Path) -> None:
    path = short_path / "docker.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        path.chmod(0o600)
        short_path.chmod(0o755)
        asked = subprocess.run(
            ["python3", "-c", "from nanoclaw.runs import engine_check as e; print(e.why_unavailable('/bin/docker'))"],
            env={"PYTHONPATH": str(PROJECT), "DOCKER_HOST": f"unix://{path}", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            user=65534,
            extra_groups=[],
        )
    # The standard library alone must do: no environment of ours is active here.
    assert "permission is denied" in asked.stdout, asked.stdout + asked.stderr


@pytest.mark.docker
def test_the_image_is_current_and_nothing_of_this_machine_is_in_it(
    engine: str, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = "nanoclaw-test-build:latest"
    assert image.image_state(engine, tag, PROJECT) == "absent"
    monkeypatch.setenv("NO_PROXY", "marker.example")
    try:
        assert build.run(home, None, False, image=tag) == 0
        assert image.image_state(engine, tag, PROJECT) == "current"
        for question in (["history", "--no-trunc"], ["image", "inspect"]):
            told = subprocess.run([engine, *question, tag], capture_output=True, text=True, check=True).stdout
            assert "marker.example" not in told
        looked = subprocess.run(
            [engine, "run", "--rm", "--user", "4711:4711", tag, "sh", "-c", "ls /build; touch $HOME/x && python3 -V"],
            capture_output=True,
            text=True,
        )
        assert looked.returncode == 0
        assert "Python 3." in looked.stdout
        assert "/build" in looked.stderr
    finally:
        subprocess.run([engine, "image", "rm", "--no-prune", tag], capture_output=True)


def test_the_digest_follows_what_is_baked_in(tmp_path: Path) -> None:
    (tmp_path / "container").mkdir()
    for name in image.SOURCES:
        (tmp_path / "container" / name).write_bytes((PROJECT / "container" / name).read_bytes())
    assert image.sources_digest(tmp_path) == image.sources_digest(PROJECT)
    with open(tmp_path / "container" / "requirements.txt", "a") as file:
        file.write("another==1\n")
    assert image.sources_digest(tmp_path) != image.sources_digest(PROJECT)
