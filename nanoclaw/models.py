"""The nouns of the house: plain values, without behaviour that touches a file, a clock or a process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Runtime = Literal["docker", "podman", "container", "process"]


@dataclass(frozen=True)
class Mount:
    """An additional mount as a group's file asks for it; ``container_path`` is relative to /workspace/extra."""

    host_path: str
    container_path: str
    readonly: bool = True


@dataclass(frozen=True)
class Group:
    """A registered chat. ``folder`` is its identity on disk, ``jid`` its address on the platform.

    ``timeout`` and ``idle_timeout`` are in seconds, None where the group follows ``[container]`` of config.toml.
    """

    folder: str
    jid: str
    name: str
    trigger: str | None = None
    requires_trigger: bool = True
    is_main: bool = False
    timeout: float | None = None
    mounts: tuple[Mount, ...] = ()
    idle_timeout: float | None = None


@dataclass(frozen=True)
class Config:
    """config.toml. Durations are in seconds. ``progress_after``: 0 for never. ``on_uncertain``: what becomes of a reply
    that was sent, where nobody knows whether the platform took it."""

    assistant_name: str = "Andy"
    timezone: str = "UTC"
    owners: tuple[str, ...] = ()
    log_level: str = "info"
    max_messages_per_prompt: int = 10
    max_concurrent_containers: int = 5
    keep_runs: float = 7 * 86400.0
    progress_after: float = 60.0
    session_max_bytes: int = 20_000_000
    on_uncertain: Literal["resend", "hold"] = "resend"
    runtime: Runtime = "docker"
    image: str = "nanoclaw-agent:latest"
    timeout: float = 1800.0
    idle_timeout: float = 1800.0
    offline: bool = False
    model: str = "sonnet"
    channels: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The tables [channels.NAME] that stand in the file: a channel whose table is there is in service."""


@dataclass(frozen=True)
class Credential:
    """What .env holds. Its secret is shown by no repr."""

    kind: Literal["api_key", "oauth_token"]
    secret: str = field(repr=False)


@dataclass(frozen=True)
class Environment:
    """.env: the credential, if any, where the gateway sends model calls, and the channels' secrets by their key."""

    credential: Credential | None = None
    base_url: str = "https://api.anthropic.com"
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file a person wrote: ``line`` counts from 1, 0 where no line can be named."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}" if self.line else f"{self.path}: {self.text}"


@dataclass(frozen=True)
class Message:
    """A message as a channel hands it in. ``timestamp`` is the platform's, ISO 8601: shown, never compared.

    ``from_me``: written by the owner's own hand (inbox, the owner's own account). ``addressed``: it begins with the
    platform's own name for the assistant, which counts as the trigger word. ``attachments``: one object each with
    ``kind`` ("photo", "voice", "file", …), ``name``, and ``path`` (relative to the group's folder) or ``problem``
    (why it is not there). ``platform_id``: what the platform calls a message that we sent.
    ``command``: the host obeyed it (/stop, …): it is not for the agent.
    """

    id: str
    jid: str
    sender: str
    sender_name: str
    text: str
    timestamp: str
    from_me: bool = False
    is_bot: bool = False
    reply_to: dict[str, str] | None = None
    attachments: tuple[dict[str, Any], ...] = ()
    run: str | None = None
    addressed: bool = False
    platform_id: str | None = None
    command: str | None = None


@dataclass(frozen=True)
class Line:
    """A message at its place in a transcript: ``seq`` is given by the host at arrival, ``received`` is UTC."""

    seq: int
    received: str
    message: Message


@dataclass(frozen=True)
class Held:
    """What holds back every run: ``since`` and ``until`` in Unix time (s); None: nobody knows until when. ``account``:
    the fingerprint of the model's account that it is about, "" where it is about none."""

    cause: str
    detail: str
    since: float
    until: float | None
    account: str = ""
