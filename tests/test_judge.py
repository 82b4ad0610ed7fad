"""The verdict on a run: one row for each way it can end."""

from __future__ import annotations

import pytest

from nanoclaw.runs.judge import VERDICTS, Ending, judge


def error(status: int | None, text: str = "", reason: str = "api") -> Ending:
    return Ending(exit_code=1, reason=reason, status=status, text=text, why_ended="error")


@pytest.mark.parametrize(
    ("ending", "cause", "retry"),
    [
        (Ending(), "finished", "now"),
        (Ending(exit_code=143, why_ended="sigterm"), "finished", "now"),
        (Ending(exit_code=None, why_ended="closed"), "finished", "now"),
        (Ending(exit_code=None), "crash", "count"),
        (Ending(exit_code=1), "crash", "count"),
        (Ending(exit_code=137), "killed", "count"),
        (Ending(exit_code=137, oom=True), "oom", "count"),
        (Ending(exit_code=0, oom=True), "finished", "now"),  # only a child of the agent was killed
        (Ending(exit_code=137, timed_out=True), "timeout", "count"),
        (Ending(exit_code=137, timed_out=True, replied=True), "idle_stop", "now"),
        (Ending(exit_code=None, never_started=True), "not_started", "now"),
        (Ending(start_error="docker: Cannot connect to the Docker daemon at unix:///x."), "engine", "wait"),
        (Ending(start_error="permission denied while trying to connect to the Docker daemon"), "engine", "wait"),
        (Ending(start_error="the engine did not answer"), "engine", "wait"),
        (Ending(start_error="pull access denied for nanoclaw-agent, repository does not exist"), "image", "wait"),
        (Ending(start_error="Unable to find image 'nanoclaw-agent:latest' locally"), "image", "wait"),
        (Ending(start_error="Error: No such image: nanoclaw-agent"), "image", "wait"),
        (Ending(start_error="write /var/lib/docker: no space left on device"), "disk", "wait"),
        (Ending(start_error="docker: Error response from daemon: invalid mount config"), "crash", "count"),
        (Ending(start_error="docker: Error response from daemon: could not find bridge docker0"), "engine", "wait"),
        (Ending(start_error=""), "crash", "count"),
        (error(401), "credential", "wait"),
        (error(403), "credential", "wait"),
        (error(429), "rate_limit", "wait"),
        (error(500), "overload", "wait"),
        (error(529), "overload", "wait"),
        (error(502), "network", "wait"),
        (error(None), "crash", "count"),
        (error(400, "prompt is too long: 210000 tokens"), "prompt_too_long", "count"),
        (error(400), "crash", "count"),
        (error(None, "ENOSPC: no space left on device", "sdk"), "crash", "count"),
        (error(None, "anything", "sdk"), "crash", "count"),
        (error(None, "", "stale_session"), "stale_session", "count"),
        (error(None, "No conversation found with session ID: 1", "sdk"), "stale_session", "count"),
        (error(None, "ENOENT: no such file, open '/x/1.jsonl'", "sdk"), "stale_session", "count"),
        (error(None, "Session 1 was not found", "sdk"), "stale_session", "count"),
        (error(None, "ENOENT: no such file, open '/x/settings.json'", "sdk"), "crash", "count"),
    ],
)
def test_judge(ending: Ending, cause: str, retry: str) -> None:
    verdict = judge(ending)
    assert (verdict.cause, verdict.retry) == (cause, retry)


def test_only_a_stale_session_is_cleared() -> None:
    assert [v.cause for v in VERDICTS.values() if v.clears_session] == ["stale_session"]


def test_who_waits_is_told_why() -> None:
    assert all(v.chat for v in VERDICTS.values() if v.retry == "wait")
    assert "setup-token" in str(VERDICTS["credential"].chat)
