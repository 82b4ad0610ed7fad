"""Is there a container engine, and if not, why not: absent, not running and forbidden have different cures.

Standard library only: doctor and the launcher speak through it before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from urllib.parse import urlsplit

from nanoclaw.errors import UserError

DEADLINE = 10.0  # s for one answer of an engine

# cron and launchd give a bare PATH.
_USUAL_PLACES = (
    "/usr/local/bin:/usr/bin:/bin:/opt/homebrew/bin:/snap/bin:/Applications/Docker.app/Contents/Resources/bin"
)

_NAMES = {"docker": "Docker", "podman": "Podman", "container": "Apple container"}
_INSTALL = {
    "docker": "Install Docker (https://docs.docker.com/engine/install/), or set runtime in [container] of config.toml.",
    "podman": "Install Podman (https://podman.io/docs/installation), or set runtime in [container] of config.toml.",
    "container": "Install it from https://github.com/apple/container, or set runtime in [container] of config.toml.",
}
_PROBES = {
    "docker": ["version", "--format", "{{.Server.Version}}"],
    "podman": ["info", "--format", "{{.Version.Version}}"],
    "container": ["system", "status"],
}


def find_cli(runtime: str) -> str:
    """The absolute path of the client of ``runtime`` ("docker", "podman", "container"); UserError: not installed."""
    path = os.pathsep.join([os.environ.get("PATH", ""), _USUAL_PLACES])
    found = shutil.which(runtime, path=path)
    if found is None:
        raise UserError(f"{_NAMES[runtime]} is not installed: there is no `{runtime}` command.", _INSTALL[runtime])
    return os.path.abspath(found)


def why_unavailable(cli: str) -> UserError | None:
    """None if the engine behind ``cli`` answers within 10 s, else the reason with its cure. It never raises."""
    runtime = os.path.basename(cli)
    try:
        probe = subprocess.run(
            [cli, *_PROBES[runtime]], capture_output=True, text=True, timeout=DEADLINE, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        return UserError(f"{_NAMES[runtime]} does not answer within {DEADLINE:.0f} s.", _restart(runtime))
    except OSError as error:
        return UserError(f"{cli} cannot be run: {error.strerror}.", _INSTALL[runtime])
    if probe.returncode == 0:
        return None
    said = " ".join((probe.stderr or probe.stdout).split())
    if "permission denied" in said.lower() or _forbidden_socket(runtime):
        return _forbidden(runtime)
    last = f" ({said[-300:]})" if said else ""
    return UserError(f"{_NAMES[runtime]} is not running{last}.", _start(runtime))


def _forbidden_socket(runtime: str) -> bool:
    address = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    if runtime != "docker" or address.scheme != "unix":
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(DEADLINE)
        try:
            probe.connect(address.path)
        except PermissionError:
            return True
        except OSError:
            pass
    return False


def _forbidden(runtime: str) -> UserError:
    problem = f"{_NAMES[runtime]} is running, but permission is denied to this user"
    if runtime != "docker":
        return UserError(f"{problem}.", "Run NanoClaw as the user whom the engine belongs to.")
    if _in_docker_group_since_login():
        return UserError(
            f"{problem}: its membership in the docker group is newer than this login.",
            "Log in again, or run `newgrp docker`; then restart the service.",
        )
    return UserError(
        f"{problem}, who is not in the docker group.",
        "Run `sudo usermod -aG docker $USER`, then log in again (or run `newgrp docker`).",
    )


def _in_docker_group_since_login() -> bool:
    """The account is a member, but this process does not have the group yet."""
    import grp
    import pwd

    try:
        group = grp.getgrnam("docker")
        return pwd.getpwuid(os.getuid()).pw_name in group.gr_mem and group.gr_gid not in os.getgroups()
    except KeyError:
        return False


def _start(runtime: str) -> str:
    if runtime == "container":
        return "Run `container system start`."
    if runtime == "docker" and os.environ.get("DOCKER_HOST"):
        return "Start the engine that $DOCKER_HOST names, or unset DOCKER_HOST."
    if sys.platform == "darwin":
        return "Start Docker Desktop (`open -a Docker`)." if runtime == "docker" else "Run `podman machine start`."
    return "Run `sudo systemctl start docker`." if runtime == "docker" else "Run `podman info` and see what it says."


def _restart(runtime: str) -> str:
    if sys.platform == "linux" and runtime == "docker":
        return "Run `sudo systemctl restart docker`; `journalctl -u docker` tells why."
    return f"Restart it. {_start(runtime)}"
