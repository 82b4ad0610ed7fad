"""The verdict on a run: one function over how it ended, one table of what follows. Pure.

``retry`` says what becomes of prompts that were left without an answer: ``now`` (nobody's fault), ``count`` (5, 10,
20, 40, 80 s, then kept), ``wait`` (the environment's fault: no retry is used up, the work resumes when the cause is
gone), ``drop`` (a person stopped it: nothing is tried again).

What holds back every group rests on what the host itself saw: ``Ending.status``, ``said`` and ``until`` are the
gateway's, ``start_error`` is the engine's. What only the container says costs its own group at most.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

Retry = Literal["now", "count", "wait", "drop"]

RETRY_SECONDS = (5.0, 10.0, 20.0, 40.0, 80.0)

_STALE = re.compile(r"no conversation found|ENOENT.*\.jsonl|session .*not found", re.IGNORECASE)
_BILLING = re.compile(r"billing_error|credit balance is too low", re.IGNORECASE)
_TOO_LONG = re.compile(r"prompt is too long", re.IGNORECASE)
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
    it started. ``never_started``: the host ended before it could start the container. ``reason``, ``text``: of the
    runner's ``error`` event. ``status``, ``said``, ``until``: of the failed call that the gateway saw (None, "" and
    None where it saw none), see ``Gateway``. ``stopped``: a person's stop; ``hung``: no sign of life from the runner.
    """

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
    stopped: bool = False
    hung: bool = False
    disk_full: bool = False
    said: str = ""
    until: float | None = None


@dataclass(frozen=True)
class Verdict:
    """``cause`` is the verdict's name in files; ``log``: one line for the log; ``doctor``: the id of the check that
    shows it, "" where nothing is wrong; ``chat``: one sentence for the chat, said once per episode (see ``sentence``);
    ``hold``: seconds for which no run starts, 0 where something can be looked at to see that the cause is gone;
    ``until``: Unix time before which the platform takes no call, None where it names none."""

    cause: str
    retry: Retry
    log: str
    doctor: str = ""
    chat: str | None = None
    clears_session: bool = False
    hold: float = 0.0
    until: float | None = None

    @property
    def ok(self) -> bool:
        return self.retry == "now"


_CREDENTIAL_CURE = "Get a long-lived token with `claude setup-token`, or an API key, and put it into .env."
_NO_CREDENTIAL = (
    "I have no credential for the model: .env has neither ANTHROPIC_API_KEY nor CLAUDE_CODE_OAUTH_TOKEN. "
    f"{_CREDENTIAL_CURE} Your message waits."
)
_ENV_FILE = (
    "My file .env has a mistake, so I have no credential for the model. `python3 nanoclaw.py doctor` shows the line. "
    "Your message waits until it is mended."
)
_CREDENTIAL = (
    "The model refused my credential (401/403). Tokens copied from a keychain or from ~/.claude/.credentials.json "
    f"expire within hours. {_CREDENTIAL_CURE} Your message waits."
)
_BILLED = "The model's account has no credit left (billing). The owner can add some; your message waits."
_RATE_LIMIT = "The model's rate limit is reached{until}. Your message waits."
_IMAGE_GONE = (
    "My container image is not there. Your message waits; the owner can rebuild it with `python3 nanoclaw.py build` "
    "(doctor tells more)."
)
_LONG = "The conversation is too long for the model. /compact shortens it, /new begins a fresh one."

VERDICTS = {
    verdict.cause: verdict
    for verdict in (
        Verdict("finished", "now", "The run finished"),
        Verdict("idle_stop", "now", "The run was stopped after its answer"),
        Verdict("not_started", "now", "The run was never started"),
        Verdict("stopped", "drop", "The run was stopped by a person"),
        Verdict("no_credential", "wait", "No credential in .env", "credential-absent", _NO_CREDENTIAL),
        Verdict("env_file", "wait", ".env has a mistake", "env-file-invalid", _ENV_FILE),
        Verdict("credential", "wait", "The model refused the credential", "credential-rejected", _CREDENTIAL),
        Verdict("billing", "wait", "The model's account has no credit", "billing", _BILLED, hold=300.0),
        Verdict(
            "rate_limit",
            "wait",
            "The model's rate limit is reached",
            "rate-limit",
            _RATE_LIMIT.format(until=""),
            hold=60.0,
        ),
        Verdict(
            "overload",
            "wait",
            "The model is overloaded",
            "model-overloaded",
            "The model is overloaded at the moment. Your message waits.",
            hold=30.0,
        ),
        Verdict(
            "network",
            "wait",
            "The model cannot be reached",
            "model-unreachable",
            "I cannot reach the model at the moment. Your message waits.",
            hold=15.0,
        ),
        Verdict(
            "disk",
            "wait",
            "The disk is full",
            "disk-full",
            "My disk is full. Your message waits until there is room.",
            hold=30.0,
        ),
        Verdict(
            "engine",
            "wait",
            "The container engine does not answer",
            "engine-down",
            "The container engine does not answer. Your message waits until it is back.",
        ),
        Verdict("image", "wait", "The container image is absent", "image-absent", _IMAGE_GONE),
        Verdict("oom", "count", "The container ran out of memory", "out-of-memory", "The agent ran out of memory."),
        Verdict("killed", "count", "The container was killed (137)", "agent-killed", "The agent was killed."),
        Verdict("stale_session", "count", "The session is stale", "session-stale", clears_session=True),
        Verdict("prompt_too_long", "count", "The prompt is too long for the model", "conversation-too-long", _LONG),
        Verdict(
            "timeout",
            "count",
            "The run timed out before an answer",
            "agent-timeout",
            "The agent did not answer in time and was stopped.",
        ),
        Verdict(
            "hung",
            "count",
            "The runner showed no sign of life",
            "agent-hung",
            "The agent did not show a sign of life and was stopped.",
        ),
        Verdict("crash", "count", "The agent failed", "agent-crash", "The agent failed before it had answered."),
    )
}


def judge(ending: Ending) -> Verdict:
    """Classify once (SPEC 4, 5; FACTS "Credentials and errors")."""
    verdict = VERDICTS[_cause(ending)]
    return replace(verdict, until=ending.until) if verdict.cause in ("rate_limit", "overload") else verdict


def sentence(verdict: Verdict, timezone: str, now: float) -> str | None:
    """What the chat is told, with the time to which a rate limit lasts, in the IANA zone ``timezone``; ``now``: Unix
    time in s."""
    if verdict.cause != "rate_limit" or verdict.until is None or verdict.until <= now:
        return verdict.chat
    zone = ZoneInfo(timezone)
    until = datetime.fromtimestamp(math.ceil(verdict.until / 60) * 60, zone)  # a minute begun is not over
    shown = until.strftime("%H:%M" if until.date() == datetime.fromtimestamp(now, zone).date() else "%Y-%m-%d %H:%M")
    return _RATE_LIMIT.format(until=f" until {shown} ({timezone})")


def _cause(ending: Ending) -> str:
    if ending.stopped:
        return "stopped"
    if ending.start_error is not None:
        return _start_cause(ending.start_error)
    if ending.never_started:
        return "not_started"
    if ending.timed_out:
        return "idle_stop" if ending.replied else "timeout"
    if ending.reason is not None:
        return _error_cause(ending)
    if ending.hung:
        return "hung"
    if _ran_out_of_memory(ending):
        return "oom"
    if ending.exit_code == 137:
        return "killed"
    if ending.exit_code == 0 or ending.why_ended in ("closed", "sigterm", "host_gone", "deadline"):
        return "finished"
    return "disk" if ending.disk_full else "crash"


def _start_cause(text: str) -> str:
    for pattern, cause in ((_IMAGE, "image"), (_DISK, "disk"), (_THIS_RUN, "crash"), (_ENGINE, "engine")):
        if pattern.search(text):
            return cause
    return "crash"


def _error_cause(ending: Ending) -> str:
    status = ending.status or 0
    if ending.reason == "stale_session" or _STALE.search(ending.text):
        return "stale_session"
    if status == 402 or _BILLING.search(ending.said):
        return "billing"
    if status in (401, 403):
        return "credential"
    if status == 429:
        return "rate_limit"
    if status in (502, 504):
        return "network"
    if status >= 500:
        return "overload"
    if status == 413 or _TOO_LONG.search(ending.text):
        return "prompt_too_long"
    return "oom" if _ran_out_of_memory(ending) else "crash"  # of the agent's CLI, whose end the runner told


def _ran_out_of_memory(ending: Ending) -> bool:
    return ending.oom and ending.exit_code not in (0, None)  # the flag is set, too, where only a tool was killed
