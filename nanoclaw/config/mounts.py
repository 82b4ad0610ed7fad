"""The mount allowlist: which directories of the host an agent may see, decided outside of all that an agent can write.

A group's file asks, the allowlist in the person's own configuration permits, a few paths are refused whatever it says.
Limits: the answer holds for the moment of the check. A directory above the mount that a container can write to could be
exchanged between the check and the engine's mount; permit roots that only the person writes to.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanoclaw.config import values
from nanoclaw.config.strict import FileProblems, Keys, Required, read_json_document
from nanoclaw.models import Group, Mount
from nanoclaw.paths import Home

# fmt: off
BLOCKED_PATTERNS = (
    ".ssh", ".gnupg", ".gpg", ".aws", ".azure", ".gcloud", ".kube", ".docker", "credentials", ".env", ".netrc",
    ".npmrc", ".pypirc", "id_rsa", "id_ed25519", "private_key", ".secret",
)
_ENGINE_SOCKETS = (
    "/run/docker.sock", "/run/podman/podman.sock", "/run/containerd/containerd.sock", "/run/crio/crio.sock",
    "~/.docker/run/docker.sock", "~/.orbstack/run/docker.sock", "~/.colima/default/docker.sock",
)
# fmt: on
_NOT_IN_CONTAINER_PATH = re.compile(r"[:,\"\\]|" + values.CONTROL.pattern)
_NOT_IN_HOST_PATH = re.compile(r"\"|" + values.CONTROL.pattern)

ROOT_KEYS: Keys = {"path": Required(values.text), "allowReadWrite": values.boolean, "description": str}
ALLOWLIST_KEYS: Keys = {
    "allowedRoots": Required([ROOT_KEYS]),
    "blockedPatterns": values.texts,
    "nonMainReadOnly": values.boolean,
}


@dataclass(frozen=True)
class AllowedRoot:
    """A directory below which mounts are permitted; ``path`` may start with ~."""

    path: str
    read_write: bool = False


@dataclass(frozen=True)
class MountAllowlist:
    """mount-allowlist.json. ``blocked`` are the file's own patterns; the built-in ones always count as well."""

    roots: tuple[AllowedRoot, ...] = ()
    blocked: tuple[str, ...] = ()
    non_main_read_only: bool = True


@dataclass(frozen=True)
class ResolvedMount:
    """A permitted mount: ``host_path`` is free of symlinks, ``container_path`` relative to /workspace/extra."""

    host_path: Path
    container_path: str
    readonly: bool


def load_allowlist(path: Path) -> MountAllowlist | None:
    """The allowlist, None where there is no file. Raises FileProblems: then nothing may be mounted."""
    if not os.path.exists(path):
        return None
    found = read_json_document(path, ALLOWLIST_KEYS)
    roots = tuple(AllowedRoot(root["path"], root.get("allowReadWrite", False)) for root in found["allowedRoots"])
    return MountAllowlist(roots, found.get("blockedPatterns", ()), found.get("nonMainReadOnly", True))


def check_mounts(group: Group, home: Home) -> list[tuple[Mount, ResolvedMount | None, str]]:
    """Every mount that ``group`` asks for, what it becomes (None: refused) and why. Reads the allowlist afresh.

    An allowlist that cannot be read permits nothing. Of two mounts at the same place or one inside the other in the
    container, the later one is refused.
    """
    if not group.mounts:
        return []
    try:
        allowlist = load_allowlist(home.mount_allowlist)
    except FileProblems as error:
        reason = f"the allowlist cannot be used, nothing is mounted: {error.problems[0]}"
        return [(mount, None, reason) for mount in group.mounts]
    answers: list[tuple[Mount, ResolvedMount | None, str]] = []
    for mount in group.mounts:
        resolved, reason = check_mount(mount, group, allowlist, home)
        for _, earlier, _ in answers:
            if resolved and earlier and _overlap(Path(resolved.container_path), Path(earlier.container_path)):
                resolved, reason = None, f"container_path overlaps with that of {str(earlier.host_path)!r}"
        answers.append((mount, resolved, reason))
    return answers


def check_mount(
    mount: Mount, group: Group, allowlist: MountAllowlist | None, home: Home
) -> tuple[ResolvedMount | None, str]:
    """What ``mount`` becomes, or None, and the reason for either in a few words."""
    if allowlist is None:
        return None, f"there is no allowlist at {home.mount_allowlist}"
    target = PurePosixPath(mount.container_path)
    if target.is_absolute() or not target.parts or ".." in target.parts:
        return None, "container_path has to be relative, without '..'"
    if _NOT_IN_CONTAINER_PATH.search(mount.container_path):
        return None, 'container_path contains a character that is not allowed (: , " \\ or a control character)'
    written = os.path.expanduser(mount.host_path)
    if not os.path.isabs(written):
        return None, "host_path is not absolute and does not start with ~/"
    try:
        host_path = Path(os.path.realpath(written, strict=True))
        mode = host_path.stat().st_mode
    except (OSError, ValueError) as error:
        return None, f"host_path cannot be used: {getattr(error, 'strerror', None) or error}"
    if reason := _why_never(host_path, mode, home):
        return None, reason
    if pattern := _blocked_by(host_path, allowlist):
        return None, f"a part of {str(host_path)!r} matches the blocked pattern {pattern!r}"
    roots = [root for root in allowlist.roots if os.path.isabs(os.path.expanduser(root.path))]
    roots = [root for root in roots if host_path.is_relative_to(_real(root.path))]
    if not roots:
        return None, f"{str(host_path)!r} is not below an allowed root"
    # The innermost root decides, so that a read-only root can stand inside a writable one.
    root = max(roots, key=lambda root: len(str(_real(root.path))))
    why = "read-write"
    if mount.readonly:
        why = "read-only"
    elif not root.read_write:
        why = "read-only: the root does not allow writing"
    elif not group.is_main and allowlist.non_main_read_only:
        why = "read-only: nonMainReadOnly"
    return ResolvedMount(host_path, str(target), why != "read-write"), f"below {root.path!r}, {why}"


def _why_never(host_path: Path, mode: int, home: Home) -> str:
    """Why no allowlist can permit the path, which is free of symlinks; "" where one can."""
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return "only directories and files can be mounted"
    if _NOT_IN_HOST_PATH.search(str(host_path)):
        return 'host_path contains a character that the engine would misread (" or a control character)'
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    sockets = [*_ENGINE_SOCKETS, f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"]
    engine = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
    sockets += [engine] if engine.startswith("/") else []
    for path in (home.state, home.env_file, home.user_config, "/proc", "/sys", "/dev", *sockets):
        protected = _real(str(path))
        if _overlap(host_path, protected):
            return f"never mounted: {str(host_path)!r} gives access to {str(protected)!r}"
    return ""


def _real(path: str) -> Path:
    return Path(os.path.realpath(os.path.expanduser(path)))


def _overlap(one: Path, other: Path) -> bool:
    """Whether the paths are the same or one lies inside the other; case is ignored, as some file systems do."""
    one, other = Path(str(one).casefold()), Path(str(other).casefold())
    return one.is_relative_to(other) or other.is_relative_to(one)


def _blocked_by(host_path: Path, allowlist: MountAllowlist) -> str:
    """The pattern that a component of the path contains (or, with * ? [, matches as a whole), case ignored."""
    for pattern in (*BLOCKED_PATTERNS, *allowlist.blocked):
        glob = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
        if any(fnmatch.fnmatchcase(part.casefold(), glob.casefold()) for part in host_path.parts[1:]):
            return pattern
    return ""
