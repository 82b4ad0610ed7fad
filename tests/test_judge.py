"""The verdict on a run: one row for each way it can end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nanoclaw.runs.judge import VERDICTS, Ending, judge, sentence

NOON = 1795348800.0  # 2026-11-22 12:00:00 UTC, 13:00 in Berlin


def error(status: int | None, text: str = "", reason: str = "api", said: str = "") -> Ending:
    return Ending(exit_code=1, reason=reason, status=status, text=text, why_ended="error", said=said)


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
        (Ending(exit_code=137, hung=True), "hung", "count"),
        (Ending(exit_code=1, hung=True, reason="api", status=401), "credential", "wait"),
        (Ending(exit_code=1, oom=True, reason="sdk", text="the CLI is gone"), "oom", "count"),
        (Ending(exit_code=137, stopped=True), "stopped", "drop"),
        (Ending(exit_code=0, stopped=True, reason="api", status=429), "stopped", "drop"),
        (Ending(stopped=True, start_error="Error: No such image: x"), "stopped", "drop"),
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
        (error(402), "billing", "wait"),
        (error(400, said="invalid_request_error: Your credit balance is too low to …"), "billing", "wait"),
        (error(403, said="billing_error: no plan"), "billing", "wait"),
        (error(400, "Your credit balance is too low to …"), "crash", "count"),  # only the container says so
        (error(429), "rate_limit", "wait"),
        (error(500), "overload", "wait"),
        (error(503), "overload", "wait"),
        (error(520), "overload", "wait"),
        (error(529), "overload", "wait"),
        (error(502), "network", "wait"),
        (error(504), "network", "wait"),
        (error(None), "crash", "count"),
        (error(400, "prompt is too long: 210000 tokens"), "prompt_too_long", "count"),
        (error(413), "prompt_too_long", "count"),
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


def test_each_row_is_filled() -> None:
    """The cause is in the log, in doctor under an id of its own, and in the chat unless nobody need know."""
    wrong = [verdict for verdict in VERDICTS.values() if verdict.retry in ("wait", "count")]
    assert all(verdict.log for verdict in VERDICTS.values())
    assert len({verdict.doctor for verdict in wrong} - {""}) == len(wrong)
    assert {verdict.cause for verdict in wrong if not verdict.chat} == {"stale_session"}
    assert not any(verdict.chat or verdict.doctor for verdict in VERDICTS.values() if verdict not in wrong)
    assert [verdict.cause for verdict in VERDICTS.values() if verdict.ok] == ["finished", "idle_stop", "not_started"]
    assert "setup-token" in str(VERDICTS["credential"].chat)


@pytest.mark.parametrize(("status", "until"), [(429, NOON), (529, NOON), (401, None)])
def test_only_what_passes_by_itself_has_a_time(status: int, until: float | None) -> None:
    ending = Ending(exit_code=1, reason="api", status=status, until=NOON)
    assert judge(ending).until == until


@pytest.mark.parametrize(
    ("cause", "until", "shown"),
    [
        ("rate_limit", NOON + 5400, "is reached until 14:30 (Europe/Berlin). Your"),
        ("rate_limit", NOON + 5341, "is reached until 14:30 (Europe/Berlin). Your"),  # 14:29:01: not before 14:30
        ("rate_limit", NOON + 86400, "is reached until 2026-11-23 13:00 (Europe/Berlin). Your"),
        ("rate_limit", NOON - 1, "is reached. Your"),
        ("rate_limit", None, "is reached. Your"),
        ("overload", NOON + 5400, "is overloaded at the moment. Your"),
    ],
)
def test_the_chat_learns_until_when(cause: str, until: float | None, shown: str) -> None:
    assert shown in str(sentence(replace(VERDICTS[cause], until=until), "Europe/Berlin", NOON))
