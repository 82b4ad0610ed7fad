"""The mount allowlist: which directories of the host an agent may see, decided outside of all that an agent can write.

A group's file asks, the allowlist in the person's own configuration permits, a few paths are refused whatever it says.
Limits: the answer holds for the moment of the check. A directory above the mount that a container can write to could be
exchanged between the check and the engine's mount; permit roots that only the person writes to.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nanoclaw.config import values
from nanoclaw.config.lines import json_lines
from nanoclaw.config.strict import FileProblems, Key, Report, Schema, Tables, read_fields, read_text
from nanoclaw.models import Group, Mount, Problem
from nanoclaw.paths import Home

# fmt: off
BLOCKED_PATTERNS = (
    ".ssh", ".gnupg", ".gpg", ".aws", ".azure", ".gcloud", ".kube", ".docker", "credentials", ".env", ".netrc",
    ".npmrc", ".pypirc", "id_rsa", "id_ed25519", "private_key", ".secret",
)
# fmt: on

_ENGINE_SOCKETS = (
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "~/.docker/run/docker.sock",
    "~/.orbstack/run/docker.sock",
    "~/.colima/default/docker.sock",
)
_KERNEL = ("/proc", "/sys", "/dev")
_NOT_IN_CONTAINER_PATH = re.compile(r"[:,\"\\]|" + values.CONTROL.pattern)


@dataclass(frozen=True)
class AllowedRoot:
    """A directory below which mounts are permitted; ``path`` may start with ~."""

    path: str
    read_write: bool = False
    description: str = ""


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


_ROOT_KEYS: Schema = {
    "path": Key(values.text, required=True),
    "allowReadWrite": Key(values.boolean, field="read_write"),
    "description": Key(values.any_text),
}
ALLOWLIST_KEYS: Schema = {
    "allowedRoots": Tables(_ROOT_KEYS, AllowedRoot, "roots", required=True),
    "blockedPatterns": Key(values.texts, field="blocked"),
    "nonMainReadOnly": Key(values.boolean, field="non_main_read_only"),
}


def load_allowlist(path: Path) -> MountAllowlist | None:
    """The allowlist, None where there is no file. Raises FileProblems: then nothing may be mounted."""
    try:
        source = read_text(path)
    except FileNotFoundError:
        return None
    try:
        document = json.loads(source, object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        text = f"not valid JSON, column {error.colno}: {error.msg}"
        raise FileProblems([Problem(str(path), error.lineno, text)]) from error
    except (ValueError, RecursionError) as error:
        raise FileProblems([Problem(str(path), 0, f"not valid JSON: {error}")]) from error
    if not isinstance(document, dict):
        raise FileProblems([Problem(str(path), 1, 'expected an object like {"allowedRoots": []}')])
    report = Report(path, json_lines(source))
    fields = read_fields(document, ALLOWLIST_KEYS, report)
    report.finish()
    return MountAllowlist(**fields)


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
    if reason := _why_not_inside(mount.container_path):
        return None, reason
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
    roots = [root for root in allowlist.roots if _is_inside(host_path, root)]
    if not roots:
        return None, f"{str(host_path)!r} is not below an allowed root"
    readonly, reason = _readonly(mount, group, allowlist, roots)
    return ResolvedMount(host_path, str(PurePosixPath(mount.container_path)), readonly), reason


def _readonly(mount: Mount, group: Group, allowlist: MountAllowlist, roots: list[AllowedRoot]) -> tuple[bool, str]:
    # The innermost root decides, so that a read-only root can stand inside a writable one.
    root = max(roots, key=lambda root: len(os.path.realpath(os.path.expanduser(root.path))))
    if mount.readonly:
        return True, f"below {root.path!r}, read-only"
    if not root.read_write:
        return True, f"below {root.path!r}, read-only: the root does not allow writing"
    if not group.is_main and allowlist.non_main_read_only:
        return True, f"below {root.path!r}, read-only: nonMainReadOnly"
    return False, f"below {root.path!r}, read-write"


def _why_not_inside(container_path: str) -> str:
    path = PurePosixPath(container_path)
    if path.is_absolute() or not path.parts or ".." in path.parts:
        return "container_path has to be relative, without '..'"
    if _NOT_IN_CONTAINER_PATH.search(container_path):
        return 'container_path contains a character that is not allowed (: , " \\ or a control character)'
    return ""


def _why_never(host_path: Path, mode: int, home: Home) -> str:
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        return "only directories and files can be mounted"
    if '"' in str(host_path) or values.CONTROL.search(str(host_path)):
        return 'host_path contains a character that the engine would misread (" or a control character)'
    for protected in _never(home):
        if _overlap(host_path, protected):
            return f"never mounted: {str(host_path)!r} gives access to {str(protected)!r}"
    return ""


def _never(home: Home) -> Iterator[Path]:
    engine = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    sockets = [*_ENGINE_SOCKETS, f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock"]
    if engine.startswith("/"):
        sockets.append(engine)
    for path in (str(home.state), str(home.env_file), str(home.user_config), *_KERNEL, *sockets):
        yield Path(os.path.realpath(os.path.expanduser(path)))


def _overlap(one: Path, other: Path) -> bool:
    """Whether the paths are the same or one lies inside the other; case is ignored, as some file systems do."""
    one, other = Path(str(one).casefold()), Path(str(other).casefold())
    return one.is_relative_to(other) or other.is_relative_to(one)


def _is_inside(host_path: Path, root: AllowedRoot) -> bool:
    allowed = os.path.expanduser(root.path)
    return os.path.isabs(allowed) and host_path.is_relative_to(os.path.realpath(allowed))


def _blocked_by(host_path: Path, allowlist: MountAllowlist) -> str:
    """The pattern that a component of the path contains (or, with * ? [, matches as a whole), case ignored."""
    for pattern in (*BLOCKED_PATTERNS, *allowlist.blocked):
        glob = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
        if any(fnmatch.fnmatchcase(part.casefold(), glob.casefold()) for part in host_path.parts[1:]):
            return pattern
    return ""


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the key {name!r} stands twice in one object")
    return dict(pairs)
