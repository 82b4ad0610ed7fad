"""The verdict on a run: one function over how it ended, one table of what follows. Pure.

``retry`` says what becomes of prompts that were left without an answer: ``now`` (nobody's fault), ``count`` (5, 10,
20, 40, 80 s, then kept), ``wait`` (the environment's fault: no retry is used up, the work resumes when the cause is
gone).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Retry = Literal["now", "count", "wait"]

RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0)

_STALE = re.compile(r"no conversation found|ENOENT.*\.jsonl|session .*not found", re.IGNORECASE)
_IMAGE = re.compile(
    r"pull access denied|no such image|unable to find image|image not known|image .*not found", re.IGNORECASE
)
_ENGINE = re.compile(
    r"cannot connect to the docker daemon|is the docker daemon running|connection refused|error during connect|"
    r"permission denied while trying to connect|failed to connect to the docker api|dial unix|cannot connect to podman|"
    r"did not answer|error response from daemon",
    re.IGNORECASE,
)
_THIS_RUN = re.compile(r"bind source path|invalid mount|mounts denied|already in use|executable file not found", re.I)
"""The engine is well: what this one run asks of it is wrong."""
_DISK = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)


@dataclass(frozen=True)
class Ending:
    """How a run ended. ``exit_code`` None: unknown. ``start_error``: what the command that starts it said, None if
    it started. ``never_started``: the host ended before it could start the container. ``reason``, ``status``,
    ``text``: of the runner's ``error`` event."""

    exit_code: int | None = 0
    oom: bool = False
    start_error: str | None = None
    never_started: bool = False
    reason: str | None = None
    status: int | None = None
    text: str = ""
    timed_out: bool = False
    replied: bool = False
    why_ended: str | None = None


@dataclass(frozen=True)
class Verdict:
    """``cause`` is the verdict's name in files; ``chat``: one sentence for the chat, said once per episode;
    ``hold``: seconds for which no run starts, 0 where something can be looked at to see that the cause is gone."""

    cause: str
    retry: Retry
    chat: str | None = None
    clears_session: bool = False
    hold: float = 0.0

    @property
    def ok(self) -> bool:
        return self.retry == "now"


CREDENTIAL_CURE = "Get a long-lived token with `claude setup-token`, or an API key, and put it into .env."

VERDICTS = {
    verdict.cause: verdict
    for verdict in (
        Verdict("finished", "now"),
        Verdict("idle_stop", "now"),
        Verdict("not_started", "now"),
        Verdict(
            "no_credential",
            "wait",
            "I have no credential for the model: .env has neither ANTHROPIC_API_KEY nor CLAUDE_CODE_OAUTH_TOKEN. "
            + CREDENTIAL_CURE
            + " Your message waits.",
        ),
        Verdict(
            "env_file",
            "wait",
            "My file .env has a mistake, so I have no credential for the model. `python3 nanoclaw.py doctor` shows the "
            "line. Your message waits until it is mended.",
        ),
        Verdict(
            "credential",
            "wait",
            "The model refused my credential (401/403). Tokens copied from a keychain or from "
            "~/.claude/.credentials.json expire within hours. " + CREDENTIAL_CURE + " Your message waits.",
        ),
        Verdict("rate_limit", "wait", "The model's rate limit is reached. Your message waits.", hold=60.0),
        Verdict("overload", "wait", "The model is overloaded at the moment. Your message waits.", hold=30.0),
        Verdict("network", "wait", "I cannot reach the model at the moment. Your message waits.", hold=15.0),
        Verdict("disk", "wait", "My disk is full. Your message waits until there is room.", hold=30.0),
        Verdict("engine", "wait", "The container engine does not answer. Your message waits until it is back."),
        Verdict(
            "image",
            "wait",
            "My container image is not there. Your message waits; the owner can rebuild it with "
            "`python3 nanoclaw.py build` (doctor tells more).",
        ),
        Verdict("oom", "count", "The agent ran out of memory."),
        Verdict("killed", "count", "The agent was killed."),
        Verdict("stale_session", "count", clears_session=True),
        Verdict("prompt_too_long", "count", "The conversation is too long for the model."),
        Verdict("timeout", "count", "The agent did not answer in time and was stopped."),
        Verdict("crash", "count"),
    )
}


def judge(ending: Ending) -> Verdict:
    """Classify once (SPEC 4, 5; FACTS "Credentials and errors")."""
    return VERDICTS[_cause(ending)]


def _cause(ending: Ending) -> str:
    if ending.start_error is not None:
        return _start_cause(ending.start_error)
    if ending.never_started:
        return "not_started"
    if ending.timed_out:
        return "idle_stop" if ending.replied else "timeout"
    if ending.reason is not None:
        return _error_cause(ending)
    if ending.oom and ending.exit_code not in (0, None):
        return "oom"
    if ending.exit_code == 137:
        return "killed"
    if ending.exit_code == 0 or ending.why_ended in ("closed", "sigterm", "host_gone", "deadline"):
        return "finished"
    return "crash"


def _start_cause(text: str) -> str:
    for pattern, cause in ((_IMAGE, "image"), (_DISK, "disk"), (_THIS_RUN, "crash"), (_ENGINE, "engine")):
        if pattern.search(text):
            return cause
    return "crash"


def _error_cause(ending: Ending) -> str:
    if ending.reason == "stale_session" or _STALE.search(ending.text):
        return "stale_session"
    if ending.status in (401, 403):
        return "credential"
    if ending.status == 429:
        return "rate_limit"
    if ending.status in (500, 503, 529):
        return "overload"
    if ending.status in (502, 504):
        return "network"
    if "prompt is too long" in ending.text.lower():
        return "prompt_too_long"
    return "crash"
