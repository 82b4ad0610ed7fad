"""From a batch of messages to a run's directory: everything that is decided before a container starts."""

from __future__ import annotations

import logging
import shlex
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from nanoclaw.config.mounts import check_mounts
from nanoclaw.files.atomic import json_bytes, write_plain
from nanoclaw.gateway.gateway import socket_path_for
from nanoclaw.gateway.placeholder import hash_placeholder, new_placeholder
from nanoclaw.models import Group
from nanoclaw.paths import Home
from nanoclaw.pending import Batch
from nanoclaw.runs import command, engine_check, layout, local_process
from nanoclaw.runs.layout import Bind
from nanoclaw.runs.records import Claim, Records, Run, write_command
from nanoclaw.runs.runtime import CommandRuntime, DockerRuntime, Runtime
from nanoclaw.stores.errands import Errand
from nanoclaw.stores.groups import make_folder
from nanoclaw.stores.sessions import Session, transcript_bytes
from nanoclaw.stores.settings import Settings
from nanoclaw.stores.transcripts import Position

log = logging.getLogger("nanoclaw")


class Runtimes:
    """The runtimes by name, made when first asked for. ``of`` raises UserError where its command is not installed."""

    def __init__(self) -> None:
        self._made: dict[str, Runtime] = {}

    def of(self, name: str) -> Runtime:
        if name not in self._made:
            if name == "process":
                self._made[name] = local_process.ProcessRuntime()
            elif name == "docker":
                self._made[name] = DockerRuntime(engine_check.find_cli(name))
            else:
                self._made[name] = CommandRuntime(engine_check.find_cli(name), name)
        return self._made[name]


@dataclass(frozen=True, eq=False)
class Preparation:
    """Makes runs. Called under the group's cursor lock: it only reads and writes files. ``snapshots``: put what the
    agent may know of the house into the draft of a run's directory."""

    home: Home
    home_id: str
    settings: Settings
    records: Records
    snapshots: Callable[[Path, Group], None] = lambda directory, group: None

    def prepare(
        self, group: Group, session: Session | None, prompt: str, claim: Claim, errand: Errand | None = None
    ) -> tuple[Run, Start]:
        """Make ``runs/<id>/`` appear with the claim of its first prompt in it (durable), and say how to start its
        container."""
        config = self.settings.config
        run_id = self.records.new_id(group.folder, datetime.now())
        directory = self.records.path(run_id)
        socket = socket_path_for(self.home.gateway, run_id)
        credential = self.settings.environment.credential
        kind = credential.kind if credential and not config.offline else "api_key"
        placeholder = new_placeholder(kind)
        rotated_from = self._too_large(group.folder, session)
        session = None if rotated_from else session
        run = Run(
            id=run_id,
            folder=group.folder,
            jid=group.jid,
            container=f"nanoclaw-{run_id}",
            runtime=config.runtime,
            image=config.image,
            group=asdict(group),
            timeout=group.timeout or config.timeout,
            idle_timeout=group.idle_timeout or config.idle_timeout,
            placeholder_hash=hash_placeholder(placeholder),
            socket=str(socket),
            created=datetime.now().astimezone().isoformat(timespec="milliseconds"),
            session=session.id if session else None,
            anchor=session.anchor if session else None,
            claims=[claim],
            kind=errand.kind if errand else "message",
            errand=errand.id if errand else None,
            errand_tries=errand.tries if errand else 0,
            rotated_from=rotated_from,
        )
        extra = self._extra_binds(group)
        process = config.runtime == "process"
        view = layout.host_view(self.home, group.folder, directory, socket) if process else layout.CONTAINER
        variable = "ANTHROPIC_API_KEY" if kind == "api_key" else "CLAUDE_CODE_OAUTH_TOKEN"
        environment = layout.environment(view, config, variable, placeholder, socket)
        user = None if process else layout.container_user(self.home)
        start = self._start(run, group, extra, environment, user)
        told = layout.runner_settings(run, view, config, group.is_main, extra)

        def fill(draft: Path) -> None:
            for part in ("in", "in/answers", "ipc", "ipc/messages", "ipc/tasks", "out"):
                (draft / part).mkdir(mode=0o755)
            for part in ("out", "ipc/messages", "ipc/tasks"):
                layout.make_writable(draft / part, user)
            write_plain(draft / "in" / "settings.json", json_bytes(told), mode=0o644)
            write_plain(draft / "in" / "host", b"", mode=0o644)
            self.records.write_prompt(draft / "in", claim, prompt, durable=False)
            self.snapshots(draft, group)
            write_command(draft, start.shell_text())

        make_folder(self.home, group.folder, config.assistant_name, group.is_main, user)
        for path in (self.home.group_folder(group.folder), self.home.groups / "global"):
            layout.make_writable(path, user)
        layout.make_writable(self.home.sessions / group.folder, user)
        self.records.create(run, fill)
        return run, start

    def _start(
        self, run: Run, group: Group, extra: list[Bind], environment: dict[str, str], user: tuple[int, int] | None
    ) -> Start:
        directory = self.records.path(run.id)
        cwd = self.home.group_folder(group.folder)
        if run.runtime == "process":
            python = local_process.installed_python()
            return Start([python, str(layout.RUNNER), str(directory / "in")], environment, cwd)
        launch = command.Launch(
            cli=engine_check.find_cli(run.runtime),
            runtime=run.runtime,
            name=run.container,
            image=run.image,
            home_id=self.home_id,
            user=user,
            binds=layout.binds(self.home, group, directory, Path(run.socket), extra),
            environment=environment,
            command=["python3", layout.RUNNER_IN_CONTAINER, "/workspace/run/in"],
            labels={"nanoclaw.run": run.id, "nanoclaw.folder": run.folder},
        )
        return Start(command.argv(launch), {}, cwd)

    def _too_large(self, folder: str, session: Session | None) -> str | None:
        """The session's id, where its transcript is beyond ``session_max_bytes``; None: it may be resumed."""
        size = transcript_bytes(self.home.sessions / folder, session.id) if session else None
        if session is None or size is None or size <= self.settings.config.session_max_bytes:
            return None
        log.info("Session rotated group=%s session=%s bytes=%d", folder, session.id, size)
        return session.id

    def _extra_binds(self, group: Group) -> list[Bind]:
        binds = []
        for mount, resolved, reason in check_mounts(group, self.home):
            if resolved is None:
                log.warning("Mount REJECTED group=%s path=%s: %s", group.folder, mount.host_path, reason)
                continue
            log.info("Mount validated group=%s path=%s: %s", group.folder, resolved.host_path, reason)
            target = f"/workspace/extra/{resolved.container_path}"
            binds.append(Bind(str(resolved.host_path), target, resolved.readonly))
        return binds


@dataclass(frozen=True)
class Start:
    """How a run's container is started. ``environment`` is the process runtime's; a container's stands in its argv."""

    argv: list[str]
    environment: dict[str, str]
    cwd: Path

    def shell_text(self) -> str:
        """The line for command.sh."""
        if not self.environment:
            return command.shell_line(self.argv)
        variables = [f"{key}={value}" for key, value in self.environment.items()]
        return f"env -C {shlex.quote(str(self.cwd))} {command.shell_line([*variables, *self.argv])}"


def new_claim(n: int, batch: Batch, after: Position, note: str | None = None) -> Claim:
    """The claim of a batch as the ``n``-th prompt of a run, behind ``after`` in the transcript."""
    return Claim(n, str(uuid.uuid4()), after, batch.place, quote=batch.wakers[-1], wakers=len(batch.wakers), note=note)


def errand_claim(at: Position) -> Claim:
    """The claim of a prompt that is no message of the chat: it covers nothing."""
    return Claim(1, str(uuid.uuid4()), at, at)
