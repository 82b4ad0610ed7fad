"""Checks of the machine: Python, its packages, the engine and its image, the disk."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shlex
import shutil
import sys

from nanoclaw.doctor.findings import Finding, skipped
from nanoclaw.doctor.situation import Situation
from nanoclaw.errors import UserError
from nanoclaw.paths import PROJECT

PACKAGES = ("docker", "watchdog", "filelock", "tomli_w", "tomlkit")
DISK_WARNING = 85
UNISOLATED = "not used (runtime process, WITHOUT ISOLATION)"


def check_python(_: Situation) -> list[Finding]:
    # The launcher refuses an older Python than the project needs, so this only shows which one it is.
    return [Finding("python", "ok", f"Python {platform.python_version()}")]


def check_environment(_: Situation) -> list[Finding]:
    problem = os.environ.get("NANOCLAW_ENVIRONMENT_PROBLEM", "")
    missing = [name for name in PACKAGES if not _importable(name)]
    if not problem and not missing:
        return [Finding("environment", "ok", f"{sys.prefix}")]
    cause = " ".join(problem.split()) or f"not importable: {', '.join(missing)}"
    # The launcher makes .venv afresh where there is none.
    cure = f"rm -rf {shlex.quote(str(PROJECT / '.venv'))}; python3 nanoclaw.py --version"
    return [Finding("environment", "error", "the Python environment is incomplete", cause, cure)]


def _importable(name: str) -> bool:
    """A mere directory of that name in the current directory does not count."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def check_engine(situation: Situation) -> list[Finding]:
    """The engine and, where it answers, the image."""
    from nanoclaw.runs import engine_check, processes

    config = situation.config
    if config is None:
        return [skipped("engine", "config.toml is refused"), skipped("image", "config.toml is refused")]
    if config.runtime == "process":
        return [Finding("engine", "ok", UNISOLATED), Finding("image", "ok", UNISOLATED)]
    try:
        cli = engine_check.find_cli(config.runtime)
    except UserError as error:
        unavailable: UserError | None = error
    else:
        unavailable = engine_check.why_unavailable(cli)
    if unavailable:
        finding = Finding("engine", "error", f"{config.runtime} cannot be used", unavailable.problem, unavailable.fix)
        return [finding, skipped("image", "the engine cannot be used")]
    version = re.search(r"\d+(\.\d+)+", processes.run([cli, "--version"], timeout=1).stdout)
    return [
        Finding("engine", "ok", f"{config.runtime.capitalize()} {version[0] if version else ''}".rstrip()),
        _image(cli, config.image),
    ]


def _image(cli: str, image: str) -> Finding:
    from nanoclaw.runs.image import image_state

    build = "python3 nanoclaw.py build"
    try:
        state = image_state(cli, image, PROJECT)
    except UserError as error:
        return Finding("image", "error", f"{image} cannot be looked at", error.problem, error.fix)
    if state == "absent":
        return Finding("image", "error", f"{image} is absent", "not built yet, or removed by a clean-up", build)
    if state == "stale":
        return Finding("image", "warning", f"{image} is older than its sources", "container/ has changed since", build)
    return Finding("image", "ok", image)


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
