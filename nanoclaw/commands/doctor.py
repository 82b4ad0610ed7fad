"""doctor: look at everything, say what is wrong and what cures it. Standard library only; changes nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import sys

from nanoclaw.doctor import home as home_checks
from nanoclaw.doctor import machine
from nanoclaw.doctor.findings import Check, exit_code, render, run_checks
from nanoclaw.doctor.situation import Situation
from nanoclaw.paths import Home

SECONDS = 1.5
LATE_CURES = {"engine": "sudo systemctl restart docker" if sys.platform == "linux" else "restart the container engine"}

CHECKS: dict[str, Check[Situation]] = {
    "python": machine.check_python,
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
}


def run(home: Home, json_output: bool = False) -> int:
    """Print every finding; return 0 (all is well), 1 (warnings) or 2 (something is broken)."""
    findings = run_checks(CHECKS, Situation.read(home), SECONDS, LATE_CURES)
    code = exit_code(findings)
    if json_output:
        print(json.dumps({"exit": code, "findings": [dataclasses.asdict(finding) for finding in findings]}, indent=2))
    else:
        print(render(findings, colour=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
    return code
