"""Checks of the home: credential, files, directories, groups, mounts, and whether a host lives.

Limits: a check sees this moment. The test for a living host takes the home's lock shared for an instant; a host that
starts in that instant is refused once.
"""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import stat
from pathlib import Path

from nanoclaw.config.mounts import check_mounts
from nanoclaw.config.strict import read_text
from nanoclaw.doctor.findings import Finding, skipped
from nanoclaw.doctor.situation import Situation
from nanoclaw.errors import UserError
from nanoclaw.models import Problem


def check_credential(situation: Situation) -> list[Finding]:
    path = situation.home.env_file
    if situation.config and situation.config.offline:
        return [Finding("credential", "ok", "not needed ([model] offline = true)")]
    if situation.environment is None:
        return [skipped("credential", ".env is refused")]
    if situation.environment.credential is None:
        cure = f"(umask 077; echo 'ANTHROPIC_API_KEY=sk-ant-...' >> {shlex.quote(str(path))})"
        cause = "neither ANTHROPIC_API_KEY nor CLAUDE_CODE_OAUTH_TOKEN (from `claude setup-token`) stands in .env"
        return [Finding("credential", "error", "no credential", cause, cure)]
    kind = {"api_key": "API key", "oauth_token": "OAuth token"}[situation.environment.credential.kind]
    return [Finding("credential", "ok", f"{kind} in .env")]


def check_env_mode(situation: Situation) -> list[Finding]:
    path = situation.home.env_file
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return [skipped("env-mode", "there is no .env")]
    if not mode & 0o077:
        return [Finding("env-mode", "ok", f"{mode:03o}")]
    cause = "other users of this machine may read the credential"
    return [Finding("env-mode", "warning", f"{mode:03o}", cause, f"chmod 600 {shlex.quote(str(path))}")]


def check_files(situation: Situation) -> list[Finding]:
    if not situation.problems:
        return [Finding("files", "ok", "config.toml, groups, .env and the allowlist are valid")]
    findings = []
    for problem in situation.problems:
        path = Path(problem.path)
        shown = os.path.relpath(path, situation.home.root) if path.is_relative_to(situation.home.root) else path
        place = f"+{problem.line} " if problem.line else ""
        text = str(Problem(str(shown), problem.line, problem.text))
        cure = f"${{EDITOR:-vi}} {place}{shlex.quote(problem.path)}"
        findings.append(Finding("files", "error", text, "the file is not used as long as this is so", cure))
    return findings


def check_directories(situation: Situation) -> list[Finding]:
    home = situation.home
    known = [home.inbox, home.messages, home.cursors, home.sessions, home.runs, home.outbox, home.ipc, home.gateway]
    if not home.root.exists():
        cause, cure = "NANOCLAW_HOME names a place that is not there", f"mkdir -p {shlex.quote(str(home.root))}"
        return [Finding("directories", "error", f"{home.root} does not exist", cause, cure)]
    findings = []
    for path in [home.root, home.state, home.groups, home.group_files, *known, home.local, home.logs]:
        quoted = shlex.quote(str(path))
        if not os.path.lexists(path):
            continue
        if not path.is_dir():
            cause, cure = "something else has its name", f"mv {quoted} {shlex.quote(f'{path}.old')}"
            findings.append(Finding("directories", "error", f"{path} is not a directory", cause, cure))
        elif not os.access(path, os.W_OK | os.X_OK):
            cause = f"owner and mode, or the file system, forbid it to user {os.geteuid()}"
            cure = f"sudo chown {os.geteuid()} {quoted}; chmod u+rwx {quoted}"
            findings.append(Finding("directories", "error", f"{path} is not writable", cause, cure))
    return findings or [Finding("directories", "ok", f"writable below {home.root}")]


def check_groups_registered(situation: Situation) -> list[Finding]:
    groups = situation.groups
    refused = any(Path(problem.path).parent == situation.home.group_files for problem in situation.problems)
    if not groups and refused:
        return [Finding("groups", "error", "no group can be used", "each group's file is refused (see files)")]
    if not groups:
        cause = "a host makes the main group on its first start"
        return [Finding("groups", "warning", "no group is registered", cause, "python3 nanoclaw.py run")]
    main = next((group.folder for group in groups if group.is_main), None)
    count = f"{len(groups)} registered"
    if main is None:
        first = shlex.quote(str(situation.home.group_file(groups[0].folder)))
        cause = "no group's file says is_main = true"
        return [Finding("groups", "warning", f"{count}, none is main", cause, f"${{EDITOR:-vi}} {first}")]
    return [Finding("groups", "ok", f"{count}, {main} is main")]


def check_host(situation: Situation) -> list[Finding]:
    home = situation.home
    if not _locked(home.state):
        return [Finding("host", "warning", "no host is running", "messages wait", "python3 nanoclaw.py run")]
    try:
        record = json.loads(read_text(home.state / "host.json"))
        details = f"pid {record['pid']}, {record['mode']}, since {record['started']}"
    except (OSError, ValueError, KeyError, TypeError, UserError):
        details = "state/host.json does not say which"
    return [Finding("host", "ok", f"running ({details})")]


def _locked(directory: Path) -> bool:
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)


def check_mounts_allowed(situation: Situation) -> list[Finding]:
    home = situation.home
    findings, count = [], 0
    for group in situation.groups:
        for mount, resolved, reason in check_mounts(group, home):
            count += 1
            if resolved is None:
                text = f"{group.folder}: {mount.host_path} is refused"
                cure = f"${{EDITOR:-vi}} {shlex.quote(str(home.mount_allowlist))}"
                findings.append(Finding("mounts", "warning", text, reason, cure))
    return findings or [Finding("mounts", "ok", f"{count} permitted" if count else "none asked for")]
