"""Checks of the home: credential, files, directories, groups, mounts, and whether a host lives.

Limits: a check sees this moment. The test for a living host takes the home's lock for an instant; a host that starts in
that instant looks again.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from shlex import quote

from nanoclaw.config.mounts import check_mounts
from nanoclaw.doctor.findings import Finding, Situation, record
from nanoclaw.files.home_lock import HomeLock


def check_credential(situation: Situation) -> list[Finding]:
    if situation.config and situation.config.offline:
        return [Finding("credential", "ok", "not needed ([model] offline = true)")]
    if situation.environment is None:
        return [Finding("credential", "skipped", "not checked: .env is refused")]
    if situation.environment.credential is None:
        cause = "neither ANTHROPIC_API_KEY nor CLAUDE_CODE_OAUTH_TOKEN (from `claude setup-token`) stands in .env"
        cure = f"(umask 077; echo 'ANTHROPIC_API_KEY=sk-ant-...' >> {quote(str(situation.home.env_file))})"
        return [Finding("credential", "error", "no credential", cause, cure)]
    kind = {"api_key": "API key", "oauth_token": "OAuth token"}[situation.environment.credential.kind]
    return [Finding("credential", "ok", f"{kind} in .env")]


def check_env_mode(situation: Situation) -> list[Finding]:
    path = situation.home.env_file
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return [Finding("env-mode", "skipped", "not checked: there is no .env")]
    if mode & 0o077:
        cause, cure = "other users of this machine may read the credential", f"chmod 600 {quote(str(path))}"
        return [Finding("env-mode", "warning", f"{mode:03o}", cause, cure)]
    return [Finding("env-mode", "ok", f"{mode:03o}")]


def check_files(situation: Situation) -> list[Finding]:
    findings = []
    for problem in situation.problems:
        text = str(problem).removeprefix(f"{situation.home.root}/")
        cure = f"${{EDITOR:-vi}} {f'+{problem.line} ' if problem.line else ''}{quote(problem.path)}"
        cause = "the file is not used as long as this is so"
        if problem.path == str(situation.home.sender_allowlist):
            cause = "whom it did not name waits until it is mended, but for owners"
        findings.append(Finding("files", "error", text, cause, cure))
    return findings or [Finding("files", "ok", "config.toml, groups, .env and the allowlists are valid")]


def check_directories(situation: Situation) -> list[Finding]:
    home = situation.home
    if not home.root.exists():
        cause, cure = "NANOCLAW_HOME names a place that is not there", f"mkdir -p {quote(str(home.root))}"
        return [Finding("directories", "error", f"{home.root} does not exist", cause, cure)]
    known = [home.inbox, home.messages, home.cursors, home.sessions, home.runs, home.outbox, home.ipc, home.gateway]
    findings = []
    for path in [home.root, home.state, home.groups, home.group_files, *known, home.local, home.logs]:
        if not os.path.lexists(path):
            continue
        if not path.is_dir():
            cause, cure = "something else has its name", f"mv {quote(str(path))} {quote(f'{path}.old')}"
            findings.append(Finding("directories", "error", f"{path} is not a directory", cause, cure))
        elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            cause = f"owner and mode, or the file system, forbid it to user {os.geteuid()}"
            cure = f"sudo chown {os.geteuid()} {quote(str(path))}; chmod u+rwx {quote(str(path))}"
            findings.append(Finding("directories", "error", f"{path} is not writable", cause, cure))
    return findings or [Finding("directories", "ok", f"writable below {home.root}")]


def check_groups_registered(situation: Situation) -> list[Finding]:
    groups = situation.groups
    if not groups and any(Path(problem.path).parent == situation.home.group_files for problem in situation.problems):
        return [Finding("groups", "error", "no group can be used", "each group's file is refused (see files)")]
    if not groups:
        cause = "a host makes the main group on its first start"
        return [Finding("groups", "warning", "no group is registered", cause, "python3 nanoclaw.py run")]
    count = f"{len(groups)} registered"
    for group in groups:
        if group.is_main:
            return [Finding("groups", "ok", f"{count}, {group.folder} is main")]
    cause = (
        f"no group's file says is_main = true; choose the chat that you trust: {', '.join(g.folder for g in groups)}"
    )
    return [Finding("groups", "warning", f"{count}, none is main", cause, "python3 nanoclaw.py edit group FOLDER")]


def check_mounts_allowed(situation: Situation) -> list[Finding]:
    cure = f"${{EDITOR:-vi}} {quote(str(situation.home.mount_allowlist))}"
    findings = [
        Finding("mounts", "warning", f"{group.folder}: {mount.host_path} is refused", reason, cure)
        for group in situation.groups
        for mount, resolved, reason in check_mounts(group, situation.home)
        if resolved is None
    ]
    count = sum(len(group.mounts) for group in situation.groups)
    return findings or [Finding("mounts", "ok", f"{count} permitted" if count else "none asked for")]


def check_host(situation: Situation) -> list[Finding]:
    if not host_lives(situation):
        return [Finding("host", "warning", "no host is running", "messages wait", "python3 nanoclaw.py run")]
    details = "state/host.json does not say which"
    with suppress(KeyError):
        details = "pid {pid}, {mode}, since {started}".format_map(record(situation.home.state / "host.json"))
    return [Finding("host", "ok", f"running ({details})")]


def host_lives(situation: Situation) -> bool:
    """Does a process hold the home's lock?"""
    lock = HomeLock(situation.home.state)
    try:
        free = lock.acquire()
    except OSError:  # there is no state/
        return False
    lock.release()
    return not free
