"""doctor: look at everything, say what is wrong and what cures it. Standard library only; changes nothing."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping

from nanoclaw.commands.output import Result
from nanoclaw.doctor import channels, held, machine
from nanoclaw.doctor import home as home_checks
from nanoclaw.doctor.findings import Finding, Situation, look_at
from nanoclaw.paths import Home

Check = Callable[[Situation], list[Finding]]
CHECKS: dict[str, Check] = {
    "environment": machine.check_environment,
    "engine": machine.check_engine,
    "disk": machine.check_disk,
    "credential": home_checks.check_credential,
    "env-mode": home_checks.check_env_mode,
    "files": home_checks.check_files,
    "directories": home_checks.check_directories,
    "groups": home_checks.check_groups_registered,
    "mounts": home_checks.check_mounts_allowed,
    "host": home_checks.check_host,
    "held": lambda situation: [held.check_held(situation)],
    "cursor": held.check_cursors,
    "channels": channels.check_channels,
    "undelivered": channels.check_undelivered,
    "requests": channels.check_requests,
}


def command(home: Home, arguments: argparse.Namespace) -> Result:
    """Every finding; exit code 0 (all is well), 1 (warnings) or 2 (something is broken)."""
    findings = run_checks(CHECKS, look_at(home))
    severities = {finding.severity for finding in findings}
    code = 2 if "error" in severities else 1 if "warning" in severities else 0
    value = {"exit": code, "findings": [dataclasses.asdict(finding) for finding in findings]}
    return Result(value, render(findings), code)


def run_checks(checks: Mapping[str, Check], situation: Situation) -> list[Finding]:
    """The findings of all checks in the order of the table; a crash of one does not silence the others."""
    findings = []
    for name, check in checks.items():
        try:
            findings += check(situation)
        except Exception as error:
            crash = f"{type(error).__name__}: {error}".replace("\n", " ")
            findings.append(Finding(name, "error", "this check crashed", f"a bug in doctor: {crash}"))
    return findings


def render(findings: list[Finding]) -> str:
    """One line a finding; cause and cure on lines of their own below it."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for finding in findings:
        severity = "--" if finding.severity == "skipped" else finding.severity
        lines.append(f"{severity:<7}  {finding.check:<{width}}  {finding.finding}")
        for name, text in (("cause:", finding.cause), ("cure:", finding.cure)):
            if text:
                lines.append(f"{'':9}{'':{width}}  {name:<6} {text}")
    return "\n".join(lines)
