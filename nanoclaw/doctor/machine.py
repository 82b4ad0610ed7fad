"""Checks of the machine: Python, its packages, the engine and its image, the disk."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
from shlex import quote

from nanoclaw.doctor.findings import Finding, Situation
from nanoclaw.errors import UserError
from nanoclaw.paths import PROJECT
from nanoclaw.runs import engine_check, image

PACKAGES = ("docker", "requests", "watchdog", "filelock", "tomli_w", "tomlkit")
DISK_WARNING = 85
ENGINE_SECONDS = 1.2  # for one answer: a hanging engine holds up the other checks no longer


def check_environment(_: Situation) -> list[Finding]:
    # The launcher refuses an older Python than the project needs, so this only shows which one it is.
    python = Finding("python", "ok", f"Python {platform.python_version()}")
    # A mere directory of that name in the current directory has no origin, and does not count.
    missing = [name for name in PACKAGES if getattr(importlib.util.find_spec(name), "origin", None) is None]
    problem = " ".join(os.environ.get("NANOCLAW_ENVIRONMENT_PROBLEM", "").split())
    if not problem and not missing:
        return [python, Finding("environment", "ok", sys.prefix)]
    cause = problem or f"not importable: {', '.join(missing)}"
    cure = f"rm -rf {quote(str(PROJECT / '.venv'))}; python3 nanoclaw.py --version"
    return [python, Finding("environment", "error", "the Python environment is incomplete", cause, cure)]


def check_engine(situation: Situation) -> list[Finding]:
    """The engine and, where it answers, the image."""
    config = situation.config
    if config is None:
        return [Finding(check, "skipped", "not checked: config.toml is refused") for check in ("engine", "image")]
    if config.runtime == "process":
        unused = "not used (runtime process, WITHOUT ISOLATION)"
        return [Finding("engine", "ok", unused), Finding("image", "ok", unused)]
    try:
        cli = engine_check.find_cli(config.runtime)
        if unavailable := engine_check.why_unavailable(cli, ENGINE_SECONDS):
            raise unavailable
    except UserError as error:
        return [
            Finding("engine", "error", f"{config.runtime} cannot be used", error.problem, error.fix),
            Finding("image", "skipped", "not checked: the engine cannot be used"),
        ]
    return [Finding("engine", "ok", f"{config.runtime} ({cli})"), _image(cli, config.image)]


def _image(cli: str, name: str) -> Finding:
    build = "python3 nanoclaw.py build"
    try:
        state = image.image_state(cli, name, PROJECT, ENGINE_SECONDS)
    except UserError as error:
        return Finding("image", "error", f"{name} cannot be looked at", error.problem, error.fix)
    if state == "absent":
        return Finding("image", "error", f"{name} is absent", "not built yet, or removed by a clean-up", build)
    if state == "stale":
        return Finding("image", "warning", f"{name} is older than its sources", "container/ has changed since", build)
    return Finding("image", "ok", name)


def check_disk(situation: Situation) -> list[Finding]:
    root = situation.home.root
    usage = shutil.disk_usage(next(path for path in (root, *root.parents) if path.exists()))
    return [disk_finding(usage.used, usage.free)]


def disk_finding(used: int, free: int) -> Finding:
    """How full a disk with so many bytes is, as df counts: what only root may use is not free."""
    percent = -(-used * 100 // max(used + free, 1))
    shown = f"{percent} % full, {free / 1e9:.1f} GB free"
    if percent < DISK_WARNING:
        return Finding("disk", "ok", shown)
    cause = f"at {DISK_WARNING} % a kubelet removes images, and at 100 % nothing can be stored"
    return Finding("disk", "warning", shown, cause, "docker system df")
