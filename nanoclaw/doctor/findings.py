"""A check's answer, and many checks run so that neither a crash nor a hanging engine silences the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

Severity = Literal["ok", "skipped", "warning", "error"]
Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Finding:
    """What one check found: ``cause`` says why it is so, ``cure`` is a command to paste. Each is one line."""

    check: str
    severity: Severity
    finding: str
    cause: str = ""
    cure: str = ""


def skipped(check: str, why: str) -> Finding:
    """A check that makes no sense before something else is cured."""
    return Finding(check, "skipped", f"not checked: {why}")


Check = Callable[[Subject], list[Finding]]


def run_checks(
    checks: Mapping[str, Check[Subject]], subject: Subject, seconds: float, late_cures: Mapping[str, str]
) -> list[Finding]:
    """The findings of all checks in the order of the table, ``seconds`` at most after the call.

    The checks run at once, each in a daemon thread: one that does not come back is a finding (with the cure that
    ``late_cures`` has for it) and is left behind.
    """
    deadline = time.monotonic() + seconds
    answers: dict[str, list[Finding]] = {}

    def work(name: str, check: Check[Subject]) -> None:
        try:
            answers[name] = check(subject)
        except Exception as error:
            crash = f"{type(error).__name__}: {error}".replace("\n", " ")
            answers[name] = [Finding(name, "error", "this check crashed", f"a bug in doctor: {crash}")]

    threads = {}
    for name, check in checks.items():
        threads[name] = threading.Thread(target=work, args=(name, check), name=f"doctor-{name}", daemon=True)
        threads[name].start()
    findings = []
    for name, thread in threads.items():
        thread.join(max(deadline - time.monotonic(), 0))
        cause = "what it asks hangs, or the machine is very busy"
        late = Finding(name, "error", f"no answer within {seconds:g} s", cause, late_cures.get(name, ""))
        findings += answers.get(name, [late])
    return findings


def exit_code(findings: list[Finding]) -> int:
    """0 all is well, 1 there are only warnings, 2 something is broken."""
    severities = {finding.severity for finding in findings}
    return 2 if "error" in severities else 1 if "warning" in severities else 0


_COLOURS: dict[Severity, str] = {"ok": "32", "skipped": "2", "warning": "33", "error": "31"}


def render(findings: list[Finding], colour: bool) -> str:
    """One line a finding; cause and cure on lines of their own below it."""
    width = max((len(finding.check) for finding in findings), default=0)
    lines = []
    for finding in findings:
        word = f"{'--' if finding.severity == 'skipped' else finding.severity:<7}"
        if colour:
            word = f"\033[{_COLOURS[finding.severity]}m{word}\033[0m"
        lines.append(f"{word}  {finding.check:<{width}}  {finding.finding}")
        for name, text in (("cause", finding.cause), ("cure", finding.cure)):
            if text:
                lines.append(f"{'':9}{'':{width}}  {name + ':':<6} {text}")
    return "\n".join(lines)
