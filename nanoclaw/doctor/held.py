"""Checks of what holds back the work: all runs (state/held.json), or those of one group (its cursor's file).

Limits: held.json is what the host noted last; without a host it tells what the last one knew.
"""

from __future__ import annotations

from shlex import quote

from nanoclaw.doctor.findings import Finding, Severity, Situation
from nanoclaw.errors import UserError
from nanoclaw.files.atomic import BrokenFile, read_json, why_unreadable
from nanoclaw.files.locks import Locks
from nanoclaw.runs.judge import VERDICTS
from nanoclaw.stores.cursors import Cursors

PASSES = ("rate_limit", "overload", "network")
"""Causes that end by themselves."""


def check_held(situation: Situation) -> Finding:
    path = situation.home.state / "held.json"
    try:
        held = read_json(path)
    except (BrokenFile, OSError) as error:
        cure = f"rm -r {quote(str(path))}"
        return Finding("held", "warning", "state/held.json cannot be read", _line(why_unreadable(error)), cure)
    if held is None:
        return Finding("held", "ok", "nothing holds back the runs")
    cause, until = str(held.get("cause")), f", until {held['until']}" if held.get("until") else ""
    verdict = VERDICTS.get(cause)
    name = f"{verdict.doctor}: {verdict.log}" if verdict else cause
    severity: Severity = "warning" if cause in PASSES or verdict is None else "error"
    why = str(held.get("detail") or (verdict.chat if verdict else "") or "")
    return Finding(
        "held",
        severity,
        _line(f"{name}, since {held.get('since')}{until}"),
        _line(why),
        _cure(cause, held.get("until"), situation),
    )


def check_cursors(situation: Situation) -> list[Finding]:
    """Groups that start nothing because nobody knows how far their agent has read."""
    cursors, findings = Cursors(situation.home, Locks()), []
    for group in situation.groups:
        try:
            cursors.get(group.folder)
        except (UserError, OSError) as error:
            path = situation.home.cursors / f"{group.folder}.json"
            why, cure = _line(why_unreadable(error)), f"${{EDITOR:-vi}} {quote(str(path))}"
            findings.append(
                Finding("cursor", "error", f"{group.folder} is held back: {path} cannot be used", why, cure)
            )
    return findings


def _cure(cause: str, until: object, situation: Situation) -> str:
    edit = f"${{EDITOR:-vi}} {quote(str(situation.home.env_file))}"
    cures = {
        "credential": f"claude setup-token; {edit}",
        "no_credential": f"claude setup-token; {edit}",
        "env_file": edit,
        "billing": f"{edit}  # another account, or add credit to this one",
        "disk": f"df -h {quote(str(situation.home.state))}",
        "engine": "see the check engine",
        "image": "python3 nanoclaw.py build",
    }
    return cures.get(cause, f"wait until {_line(str(until))}" if until else "wait: it is tried again by itself")


def _line(text: str) -> str:
    return " ".join(text.split())
