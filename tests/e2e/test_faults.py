"""The environment's faults: messages wait, the chat is told once, and the work resumes by itself when it is over."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.home import HomeUnderTest, Script
from tests.support.scripted_model import Error
from tests.support.waiting import wait_for


def test_no_credential_is_said_once_and_cured_by_env(house: HomeUnderTest) -> None:
    house.group("g")
    house.home.env_file.unlink()
    house.drop("g", "hello")
    for _ in range(2):
        done = house.run("run", "--once")
        assert (done.returncode, done.stdout) == (0, "")
    (said,) = house.wait_said("g")
    assert "ANTHROPIC_API_KEY" in said and "claude setup-token" in said and ".env" in said
    chat = house.run("chat", "--group", "g", "anybody?")
    assert chat.returncode == 1 and ".env" in chat.stderr
    house.start()
    house.drop("g", "hello again")
    wait_for(lambda: len(house.transcript("g")) == 4, 10, "the message stored")
    assert house.said("g") == [said] and not house.runs()
    house.credential()
    assert house.wait_said("g", 2)[1] == "echo: hello again"
    assert house.prompts("hello")[0].count("<message ") == 3, "all that waited is in the first prompt"


def test_a_refused_credential_waits_for_another_one(house: HomeUnderTest, script: Script) -> None:
    house.group("g")
    script.on("hello", lambda request: Error(401, message="invalid x-api-key"))
    house.start()
    house.drop("g", "hello")
    (said,) = house.wait_said("g")
    assert "401" in said and "claude setup-token" in said
    house.drop("g", "hello?")
    wait_for(lambda: len(house.transcript("g")) == 3, 10, "the message stored")
    script.on("hello", lambda request: "with the new key")
    house.credential("sk-ant-api03-another-0123456789")
    assert house.wait_said("g", 2) == [said, "with the new key"]
    assert house.model.requests[-1].headers["x-api-key"] == "sk-ant-api03-another-0123456789"
    assert [run["outcome"] for run in house.runs()][:1] == ["credential"] and len(house.runs()) == 2


def _engine_socket() -> Path:
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if address.scheme != "unix":
        pytest.skip("the engine is not reached by a Unix socket")
    return Path(address.path)


def test_messages_wait_for_the_engine(house: HomeUnderTest) -> None:
    """It is away at the start, comes back, goes while an agent lives, and comes back again."""
    house.group("g")
    door = house.home.root / "engine.sock"
    house.environment["DOCKER_HOST"] = f"unix://{door}"
    house.start()
    house.drop("g", "hello")
    (said,) = house.wait_said("g")
    assert "engine" in said and "waits" in said
    house.drop("g", "hello?")
    wait_for(lambda: len(house.transcript("g")) == 3, 10, "the message stored")
    door.symlink_to(_engine_socket())
    assert house.wait_said("g", 2) == [said, "echo: hello?"]
    door.unlink()
    house.drop("g", "the engine is not needed for a follow-up")
    assert house.wait_said("g", 3)[2] == "echo: the engine is not needed for a follow-up"
    house.group("other")
    house.drop("other", "I need one")
    assert house.wait_said("other") == [said]
    door.symlink_to(_engine_socket())
    assert house.wait_said("other", 2) == [said, "echo: I need one"]
    assert {run["outcome"] for run in house.runs()} <= {None, "engine"}


def test_messages_wait_for_the_image(house: HomeUnderTest) -> None:
    house.group("g")
    house.configure('image = "nanoclaw-nowhere:latest"')
    house.start()
    for number in range(2):
        house.drop("g", f"hello {number}")
        wait_for(lambda n=number: [m for m in house.transcript("g") if m["text"] == f"hello {n}"], 10, "stored")  # type: ignore[misc]
    (said,) = house.wait_said("g")
    assert "image" in said and "nanoclaw.py build" in said
    house.configure()
    assert house.wait_said("g", 2) == [said, "echo: hello 1"]
    assert len(house.runs()) == 1, "no run was tried without the image"


def test_a_bad_settings_file_changes_nothing(house: HomeUnderTest) -> None:
    house.group("g")
    house.group("broken", "requires_triger = false")
    house.start()
    wait_for(lambda: "broken.toml:3: unknown key 'requires_triger'" in house.log(), 10, "the bad group named")
    house.home.config_file.write_text("max_concurrent_containers = 'many'\n")
    wait_for(lambda: "config.toml:1" in house.log(), 10, "the problem named with its line")
    house.drop("g", "hello")
    assert house.wait_said("g") == ["echo: hello"]
