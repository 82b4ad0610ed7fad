"""Checks of what comes in and goes out: the channels to the platforms, and requests that were refused.

Limits: how a channel stands is what the living host wrote down last; no platform is asked here.
"""

from __future__ import annotations

from shlex import quote

from nanoclaw.doctor.findings import Finding, Severity, Situation, record
from nanoclaw.doctor.home import host_lives
from nanoclaw.models import Config
from nanoclaw.stores import refused

# Of each channel with a table in config.toml: the prefix of its jids, its secret in .env, and what one looks like.
CHANNELS = {"telegram": ("tg:", "TELEGRAM_BOT_TOKEN", "123456:ABC...")}


def check_channels(situation: Situation) -> list[Finding]:
    """One finding for each configured channel, and one for each group that none of them serves."""
    if situation.config is None:
        return [Finding("channels", "skipped", "not checked: config.toml is refused")]
    lives = host_lives(situation)
    states = record(situation.home.state / "channels.json") if lives else {}
    findings = [
        _no_secret(name, situation) or _connection(name, states.get(name), lives, situation)
        for name in situation.config.channels
    ]
    findings = findings or [Finding("channels", "ok", "local only")]
    return findings + _not_served(situation.config, situation)


def _no_secret(name: str, situation: Situation) -> Finding | None:
    if name not in CHANNELS:
        return None  # one without a secret
    _, key, example = CHANNELS[name]
    if situation.environment is None:
        return Finding("channels", "skipped", f"{name}: not checked: .env is refused")
    if key in situation.environment.secrets:
        return None
    cure = f"(umask 077; echo '{key}={example}' >> {quote(str(situation.home.env_file))})"
    return Finding("channels", "error", f"{name}: {key} is missing", "no line of .env sets it", cure)


def _connection(name: str, state: object, lives: bool, situation: Situation) -> Finding:
    if not lives:
        return Finding("channels", "skipped", f"{name}: not connected: no host")
    if not isinstance(state, dict) or "state" not in state:
        cause, cure = "state/channels.json does not say how it stands", "python3 nanoclaw.py run"
        return Finding("channels", "warning", f"{name}: unknown", f"{cause}; stop the host and start it anew", cure)
    shown = f"{name}: {state['state']}" + (f" since {state['since']}" if state.get("since") else "")
    if state["state"] == "connected":
        return Finding("channels", "ok", shown)
    severity: Severity = "warning" if state["state"] == "connecting" else "error"
    cause = " ".join(str(state.get("detail") or "the log says why").split())
    cure = f"tail -n 50 {quote(str(situation.home.logs / 'nanoclaw.log'))}"
    return Finding("channels", severity, shown, cause, cure)


def _not_served(config: Config, situation: Situation) -> list[Finding]:
    findings = []
    served = ("local:", *(CHANNELS[name][0] if name in CHANNELS else f"{name}:" for name in config.channels))
    for group in situation.groups:
        if group.jid.startswith(served):
            continue
        cause = "no channel has addresses like this"
        cure = f"${{EDITOR:-vi}} {quote(str(situation.home.group_file(group.folder)))}"
        for name, (prefix, _, _) in CHANNELS.items():
            if group.jid.startswith(prefix):
                cause = f"[channels.{name}] does not stand in config.toml"
                cure = f"printf '\\n[channels.{name}]\\n' >> {quote(str(situation.home.config_file))}"
        findings.append(Finding("channels", "warning", f"{group.folder}: no channel serves {group.jid}", cause, cure))
    return findings


def check_undelivered(situation: Situation) -> list[Finding]:
    """Replies that their channel refused for good, with the reason in each file."""
    failed = situation.home.outbox / "failed"
    number = len(list(failed.glob("[!.]*.json")))
    if not number:
        return [Finding("undelivered", "ok", "no reply was refused")]
    cause = "their channel refused them, or they may not have arrived"
    return [Finding("undelivered", "warning", f"{number} not delivered", cause, "python3 nanoclaw.py outbox list")]


def check_requests(situation: Situation) -> list[Finding]:
    """Files of agents, scripts and people that could not be carried out. The reasons are beside them."""
    number = len(refused.listed(situation.home))
    if not number:
        return [Finding("requests", "ok", "none refused")]
    count = f"{number} refused request{'s' if number > 1 else ''}"
    cause = f"each has its reason beside it in {situation.home.ipc / 'errors'}"
    return [Finding("requests", "warning", count, cause, "python3 nanoclaw.py ipc errors list")]
