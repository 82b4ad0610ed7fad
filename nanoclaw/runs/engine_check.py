"""Is there a container engine, and if not, why not: absent, not running and forbidden have different cures.

Standard library only: doctor and the launcher speak through it before anything is installed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

from nanoclaw.errors import UserError
from nanoclaw.runs import processes

# cron and launchd give a bare PATH.
_USUAL_PLACES = (
    "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin:/snap/bin:/Applications/Docker.app/Contents/Resources/bin"
)
# Of each client: the engine's name, where it is to be had, and what only a living engine answers.
_ENGINES = {
    "docker": ("Docker", "https://docs.docker.com/engine/install/", "version --format {{.Server.Version}}"),
    "podman": ("Podman", "https://podman.io/docs/installation", "info --format {{.Version.Version}}"),
    "container": ("Apple container", "https://github.com/apple/container", "system status"),
}


def find_cli(runtime: str) -> str:
    """The absolute path of the client of ``runtime`` ("docker", "podman", "container"); UserError: not installed."""
    found = shutil.which(runtime, path=os.pathsep.join([os.environ.get("PATH", ""), _USUAL_PLACES]))
    if found is None:
        name, site, _ = _ENGINES[runtime]
        problem = f"{name} is not installed: there is no `{runtime}` command."
        raise UserError(problem, f"Install it ({site}), or set runtime in [container] of config.toml.")
    return os.path.abspath(found)


def why_unavailable(cli: str, deadline: float = 10.0) -> UserError | None:
    """None if the engine behind ``cli`` answers within ``deadline`` s, else the reason with its cure. Never raises."""
    runtime = os.path.basename(cli)
    name, site, probe_words = _ENGINES[runtime]
    try:
        probe = processes.run([cli, *probe_words.split()], deadline)
    except OSError as error:
        return UserError(f"{cli} cannot be run: {error.strerror}.", f"Install {name} again ({site}).")
    if probe.code == 0:
        return None
    if probe.code is None:
        return UserError(f"{name} does not answer within {deadline:g} s.", _restart(runtime))
    said = " ".join((probe.stderr or probe.stdout).split())[-300:]
    if "permission denied" in said.lower():
        return UserError(f"{name} is running, but permission is denied to this user.", _let_in(runtime))
    return UserError(f"{name} is not running ({said or 'it says nothing'}).", _restart(runtime))


def _restart(runtime: str) -> str:
    """What starts the engine, also where it hangs."""
    if runtime == "container":
        return "Run `container system start`."
    if runtime == "docker" and os.environ.get("DOCKER_HOST"):
        return "Start the engine that $DOCKER_HOST names, or unset DOCKER_HOST."
    if sys.platform == "darwin":
        return "Start Docker Desktop (`open -a Docker`)." if runtime == "docker" else "Run `podman machine start`."
    if runtime == "podman":
        return "Run `podman info` and see what it says."
    return "Run `sudo systemctl restart docker`; `journalctl -u docker` tells why."


def _let_in(runtime: str) -> str:
    import grp
    import pwd

    if runtime != "docker":
        return "Run NanoClaw as the user whom the engine belongs to."
    with contextlib.suppress(KeyError):
        group = grp.getgrnam("docker")
        if pwd.getpwuid(os.getuid()).pw_name in group.gr_mem and group.gr_gid not in os.getgroups():
            return "The docker group is newer than this login: log in again (or `newgrp docker`), restart the service."
    return "Run `sudo usermod -aG docker $USER`, then log in again (or run `newgrp docker`)."
