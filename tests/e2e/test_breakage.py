"""What breaks around a host: its engine, its image, its disk, its files, another host. Messages wait, the cause is said
once, and the work resumes by itself when the cause is gone; nothing is lost, nothing is answered twice.

Each fault is a real one. What needs parts instead of a whole host stands in tests/test_breakage_parts.py.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import living
from tests.support.engine_proxy import CREATE, START, EngineProxy, engine_socket
from tests.support.home import CLI, HomeUnderTest, Script, hang_once, put
from tests.support.scripted_model import Gate, Hang, Reply, ToolUse, tool_results
from tests.support.waiting import wait_for


@pytest.fixture
def proxy(house: HomeUnderTest) -> Iterator[EngineProxy]:
    """What stands between the host of ``house`` and the engine."""
    engine = engine_socket()
    if engine is None:
        pytest.skip("the engine is not reached by a Unix socket")
    with EngineProxy(house.home.root / "engine.sock", engine) as made:
        house.environment["DOCKER_HOST"] = made.url
        yield made


def stored(house: HomeUnderTest, folder: str, text: str) -> None:
    """Drop a message and return when it is in the transcript."""
    house.drop(folder, text)
    wait_for(lambda: any(line["text"] == text for line in house.transcript(folder)), 10, f"{text!r} stored")


def begun_with(house: HomeUnderTest, *prefix: str, program: tuple[str, ...] = ("-c", CLI)) -> None:
    """Let every command of ``house`` be started by another one, or be another program."""
    house.command = lambda *words, **_: [*prefix, *HomeUnderTest.command(house, *words, program=program)]  # type: ignore[method-assign]


# -- the engine --------------------------------------------------------------------------------------------------------


def test_an_engine_that_is_down_for_long(house: HomeUnderTest, proxy: EngineProxy, script: Script) -> None:
    """An agent lives on without it, and answers; another ends meanwhile. The cause is said once, however often it is
    looked for."""
    script.on("long work", hang_once())
    for folder in ("steady", "dying", "late"):
        house.group(folder)
    house.start()
    house.drop("steady", "hello")
    assert house.wait_said("steady") == ["echo: hello"]
    house.drop("dying", "long work")
    house.model.wait_for_requests(2)
    proxy.stop()
    house.docker("kill", house.runs("dying")[0]["container"])
    house.drop("steady", "are you there?")
    assert house.wait_said("steady", 2)[1] == "echo: are you there?"
    house.drop("late", "first")
    (said,) = house.wait_said("late")
    assert "engine" in said and "waits" in said
    for number in range(3):  # each message makes the dispatcher look again
        stored(house, "late", f"more {number}")
    assert house.runs("dying")[0]["status"] == "started", "nobody knows yet what became of it"
    assert house.said("late") == [said] and len(house.runs("late")) <= 1, "at most the one that found it out"
    assert house.log().count("cause=engine") == 1
    proxy.start()
    assert house.wait_said("late", 2)[1] == "echo: more 2"
    assert house.wait_said("dying", 2)[1] == "echo: long work"
    first, second = house.runs("dying")
    assert (first["outcome"], second["claims"][0]["state"]) == ("killed", "finished")
    assert house.said("late") == [said, "echo: more 2"] and len(house.runs("steady")) == 1


def test_an_engine_that_hangs(house: HomeUnderTest, proxy: EngineProxy) -> None:
    """It accepts and does not answer: other work goes on, and the host ends in time."""
    for folder, extra in (("main", "is_main = true"), ("late", "requires_trigger = false")):
        house.group(folder, extra)
    house.start()
    house.drop("main", "hello")
    house.wait_said("main")
    proxy.stall()
    stored(house, "late", "I need a container")
    stored(house, "late", "and so on")
    request = {"type": "message", "chatJid": "local:main", "text": "from a script"}
    put(house.home.ipc / "main" / "messages" / "x.json", json.dumps(request))
    assert house.wait_said("main", 2, 10)[1] == "from a script"
    sent = house.run("send", "--group", "main", "from a command")
    assert sent.returncode == 0, sent.stderr
    assert house.wait_said("main", 3, 10)[2] == "from a command"
    house.drop("main", "and you?")
    assert house.wait_said("main", 4, 25)[3] == "echo: and you?", "the living agent needs no engine"
    assert house.stop() == 0, "within 5 s, or it would say where it hangs"
    proxy.resume()
    house.start()
    said = house.wait_said("late")
    assert [text for text in said if text.startswith("echo")] == ["echo: and so on"] or house.wait_said("late", 2)
    assert sum(text.startswith("echo") for text in house.said("late")) == 1
    assert len(house.containers("late")) == len(house.containers("main")) == 1


@pytest.mark.parametrize("request_kind", [CREATE, START])
def test_the_clients_connection_is_cut(house: HomeUnderTest, proxy: EngineProxy, request_kind: bytes) -> None:
    """The engine did what it was asked, and the client never heard of it."""
    house.group("g")
    house.start()
    cut = proxy.cut(request_kind)
    house.drop("g", "hello")
    assert cut.wait(20)
    said = wait_for(lambda: [t for t in house.said("g") if t.startswith("echo")], 60, "the answer")
    assert said == ["echo: hello"] and len(house.prompts("hello")) == 1
    assert len(house.containers("g")) == 1, "of the first one nothing is left"


@pytest.mark.parametrize("request_kind", [CREATE, START])
def test_the_client_is_killed_in_mid_start(house: HomeUnderTest, proxy: EngineProxy, request_kind: bytes) -> None:
    house.group("g")
    house.start()
    held = proxy.hold(request_kind)
    house.drop("g", "hello")
    assert held.wait(20)
    assert house.host is not None
    listed = subprocess.run(["ps", "--ppid", str(house.host.pid), "-o", "pid=,args="], capture_output=True, text=True)
    (client,) = [int(line.split()[0]) for line in listed.stdout.splitlines() if " run -d " in line]
    os.kill(client, signal.SIGKILL)
    said = wait_for(lambda: [t for t in house.said("g") if t.startswith("echo")], 60, "the answer")
    assert said == ["echo: hello"] and len(house.prompts("hello")) == 1
    assert len(house.containers("g")) == 1


def test_an_image_that_disappears_between_two_runs(house: HomeUnderTest) -> None:
    name = f"nanoclaw-breakage-{uuid.uuid4().hex[:8]}:latest"
    house.docker("tag", "nanoclaw-agent:latest", name)
    try:
        house.group("g")
        house.configure(f'image = "{name}"\nidle_timeout = "0.1s"')
        house.start()
        house.drop("g", "with the image")
        house.wait_said("g")
        house.wait_judged("g")
        house.docker("rmi", "-f", name)
        house.drop("g", "without it")
        said = house.wait_said("g", 2)[1]
        assert "image" in said and "nanoclaw.py build" in said
        stored(house, "g", "still without it")
        house.docker("tag", "nanoclaw-agent:latest", name)
        assert house.wait_said("g", 3) == ["echo: with the image", said, "echo: still without it"]
        assert house.prompts("without it")[0].count("<message ") == 2
        assert house.log().count("cause=image") == 1
    finally:
        subprocess.run(["docker", "rmi", "-f", name], capture_output=True, check=False)


# -- hosts and containers ----------------------------------------------------------------------------------------------


def test_two_hosts_in_a_row(house: HomeUnderTest, script: Script) -> None:
    """The second refuses; after the first's kill -9 it takes over what is at work."""
    script.on("long work", hang_once())
    house.group("g")
    house.start()
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    refused = house.run("run")
    assert refused.returncode == 1 and "Another host" in refused.stderr
    house.stop(signal.SIGKILL)
    stored_late = house.drop("g", "written while nobody was there")
    house.start()
    assert house.wait_said("g", 2) == ["echo: long work", "echo: written while nobody was there"]
    assert [line["id"] for line in house.transcript("g")].count(stored_late) == 1 and len(house.runs("g")) == 1


@pytest.mark.parametrize("fate", ["killed", "removed"])
def test_a_run_that_ends_while_the_host_is_down(house: HomeUnderTest, script: Script, fate: str) -> None:
    """In mid-turn: it said nothing yet, so the message is answered by the next run, once."""
    script.on("long work", hang_once())
    house.group("g")
    house.start()
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    house.stop(signal.SIGKILL)
    house.docker(*(["kill"] if fate == "killed" else ["rm", "-f"]), house.runs("g")[0]["container"])
    house.start()
    wait_for(lambda: "echo: long work" in house.said("g"), 60, "the answer")
    first, second = house.runs("g")
    assert first["status"] == "judged" and first["exit_code"] == (137 if fate == "killed" else None)
    assert second["status"] == "started" and len(house.prompts("long work")) == 2
    assert house.said("g").count("echo: long work") == 1 and len(house.containers("g")) == 1


def test_a_follow_up_and_the_order_to_close_at_once(house: HomeUnderTest) -> None:
    """The runner finds both: it closes, and the prompt, which was not consumed, goes to the next run."""
    house.group("g")
    house.start()
    house.drop("g", "first")
    house.wait_said("g")
    (run,) = house.runs("g")
    house.docker("pause", run["container"])
    house.drop("g", "second")
    directory = house.home.runs / run["id"] / "in"
    wait_for(lambda: (directory / "000002.json").exists(), 10, "the follow-up offered")
    (directory / "_close").touch()
    house.docker("unpause", run["container"])
    assert house.wait_said("g", 2) == ["echo: first", "echo: second"]
    assert len(house.prompts("second")) == 1 and len(house.runs("g")) == 2


# -- the disk ----------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[None]:
    """A file system of its own at ``path``, which exists or not."""
    path.mkdir(exist_ok=True)
    kept = [(p.relative_to(path), p.read_bytes()) for p in path.rglob("*") if p.is_file()]
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        for name, data in kept:
            put(path / name, data.decode())
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path, leave: int = 0) -> None:
    """A file that leaves so many bytes free on its file system; none at all, whoever else writes there."""
    with path.open("wb", buffering=0) as file:
        if leave:
            disk = os.statvfs(path.parent)
            os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - leave)
            return
        with suppress(OSError):
            while file.write(b"x" * 65536):
                pass


def test_a_disk_that_is_nearly_full(house: HomeUnderTest) -> None:
    """No run starts any more; there is room enough to say so."""
    house.group("g")
    with small_disk(house.home.state, 80):
        house.start()
        fill(house.home.state / "ballast", 20_000_000)
        house.drop("g", "hello")
        (said,) = house.wait_said("g")
        assert "disk is full" in said and not house.runs()
        stored(house, "g", "hello?")
        (house.home.state / "ballast").unlink()
        assert house.wait_said("g", 2) == [said, "echo: hello?"]
        assert len(house.prompts("hello")) == 1 and house.log().count("cause=disk") == 1
        house.stop()
        house.remove()


def test_a_disk_that_is_full_to_the_last_byte(house: HomeUnderTest, script: Script) -> None:
    """While an agent works: its answer, and the messages of others, stay where they are until there is room."""
    answered = threading.Event()
    script.on("hello", lambda request: Gate(answered, "an answer"))
    house.group("g")
    house.group("other")
    waiting = house.home.root / "waiting.json"
    put(waiting, json.dumps({"text": "and I?", "id": "m-waiting"}))
    with small_disk(house.home.state, 80):
        house.start()
        house.drop("g", "hello")
        house.model.wait_for_requests(1)
        put(house.home.inbox / "other" / ".later", waiting.read_text())
        ballast = house.home.state / "ballast"
        fill(ballast)
        (house.home.inbox / "other" / ".later").rename(house.home.inbox / "other" / "later.json")
        answered.set()
        out = house.home.root / "host.out"
        wait_for(lambda: "No space left on device" in out.read_text(), 15, "the cause in the host's own words")
        assert house.said("g") == house.said("other") == [] and house.transcript("other") == []
        ballast.unlink()
        assert house.wait_said("other")[-1] == "echo: and I?"
        house.drop("g", "the last")
        wait_for(lambda: "echo: the last" in house.said("g"), 60, "the last answer")
        assert house.said("g").count("an answer") == 1 and house.said("g")[-1] == "echo: the last"
        assert [line["id"] for line in house.transcript("other")].count("m-waiting") == 1
        house.stop()
        house.remove()


def test_a_full_disk_keeps_no_agent_alive(house: HomeUnderTest, script: Script) -> None:
    """A stop kills first; what it has to write down waits for room, and is said once."""
    script.on("long work", lambda request: Hang())
    house.group("g")
    with small_disk(house.home.state, 80):
        house.start()
        house.drop("g", "long work")
        house.model.wait_for_requests(1)
        ballast = house.home.state / "ballast"
        fill(ballast)
        (house.home.state / "STOP-g").touch()
        wait_for(lambda: not house.containers(all_states=False), 10, "the agent's end")
        assert house.said("g") == []
        ballast.unlink()
        assert house.wait_said("g") == ["Stopped. 1 message is cancelled."]
        (run,) = house.wait_judged("g")
        assert run["outcome"] == "stopped"
        house.drop("g", "hello")
        assert house.wait_said("g", 2)[1] == "echo: hello"
        house.stop()
        house.remove()


# -- files that a person broke, or may not be read ---------------------------------------------------------------------


def test_files_broken_by_hand_while_the_host_lives(house: HomeUnderTest) -> None:
    """Each stops at most its own group; what is mended goes on by itself."""
    for folder in ("cursor", "session", "well"):
        house.group(folder)
    house.configure('idle_timeout = "0.1s"')
    house.start()
    for folder in ("cursor", "session", "well"):
        house.drop(folder, "hello")
        house.wait_said(folder)
    house.wait_judged("", 3)
    state = house.home.state
    broken = [house.home.cursors / "cursor.json", house.home.sessions / "session.json"]
    others = [state / name for name in ("chats.json", "channels.json", "host.json", "held.json", "telegram.json")]
    good = {path: path.read_text() for path in broken}
    for path in [*broken, *others]:
        put(path, '{"torn')
    for folder in ("cursor", "session", "well"):
        stored(house, folder, "and now?")
    assert house.wait_said("well", 2)[1] == "echo: and now?"
    for path in broken:
        wait_for(lambda path=path: str(path) in house.log(), 10, f"{path.name} named")  # type: ignore[misc]
        assert path.read_text() == '{"torn', "nothing is written over it"
    assert house.said("cursor") == house.said("session") == ["echo: hello"]
    for path, text in good.items():
        put(path, text)
    for folder in ("cursor", "session"):
        assert house.wait_said(folder, 2) == ["echo: hello", "echo: and now?"]
    for path in broken:
        assert house.log().count(f"{path}:") == 1, "said once"


def test_files_broken_by_hand_before_the_start(house: HomeUnderTest) -> None:
    """An outbox reply, an errand, the record of a judged run: kept, the others go on, and so does what is mended with
    the next start."""
    house.group("g")
    house.configure('idle_timeout = "0.1s"')
    house.start()
    house.drop("g", "hello")
    house.wait_said("g")
    house.wait_judged("g")
    house.stop()
    errands = house.home.state / "errands"
    errands.mkdir(exist_ok=True)
    record = next(house.home.runs.glob("*/run.json"))
    (house.home.outbox / "r-1.json").write_text('{"torn')
    errand = {"id": "e-1", "folder": "g", "text": "an errand", "created": 1.0, "origin": "a test"}
    broken = {errands / "e-1.json": json.dumps(errand), record: record.read_text()}
    for path in broken:
        path.write_text('{"torn')
    for name in ("chats.json", "channels.json", "host.json", "held.json"):
        (house.home.state / name).write_text("[]")
    house.start()
    house.drop("g", "again")
    assert house.wait_said("g", 2)[1] == "echo: again"
    assert [path.read_text() for path in house.home.outbox.rglob("*r-1*.json")] == ['{"torn'], (
        "kept, here or in failed/"
    )
    assert "r-1.json" in house.log()
    for path, text in broken.items():
        assert path.read_text() == '{"torn', "nothing is written over it"
        assert len([line for line in house.log().splitlines() if str(path) in line]) == 1, "said once"
        path.write_text(text)
    house.stop()
    house.start()
    assert house.wait_said("g", 3)[2] == "echo: an errand"


def test_a_broken_record_of_a_living_run(house: HomeUnderTest, script: Script) -> None:
    """The host started without knowing it; when the file is mended, the next start answers, once."""
    script.on("long work", hang_once())
    house.group("g")
    house.start()
    house.drop("g", "long work")
    house.model.wait_for_requests(1)
    house.stop(signal.SIGKILL)
    record = next(house.home.runs.glob("*/run.json"))
    good = record.read_text()
    record.write_text('{"torn')
    house.start()
    wait_for(lambda: str(record) in house.log(), 10, "the record named")
    house.drop(house.group("other"), "hello")
    house.wait_said("other")
    record.write_text(good)
    house.stop()
    house.start()
    wait_for(lambda: "echo: long work" in house.said("g"), 60, "the answer")
    assert house.said("g").count("echo: long work") == 1


def test_places_that_may_not_be_written(house: HomeUnderTest) -> None:
    """Not even by root: first a group's own places, then everybody's."""
    folders = [house.group(folder) for folder in ("well", "inbox", "chat")]
    house.start()
    for folder in folders:
        house.drop(folder, "hello")
        house.wait_said(folder)
    own = [house.home.inbox / "inbox", next(house.home.chat("local:chat").glob("*.jsonl"))]
    house.drop("inbox", "and now?")  # perhaps taken before, perhaps it cannot be removed: stored once in any case
    with immutable(own):
        house.drop("chat", "and then?")
        house.drop("well", "and then?")
        wait_for(lambda: house.said("well")[-1] == "echo: and then?", 20, "the others go on")
        wait_for(lambda: "Operation not permitted" in house.log(), 15, "the cause")
    for folder in ("well", "chat"):
        wait_for(lambda folder=folder: house.said(folder)[-1] == "echo: and then?", 30, folder)  # type: ignore[misc]
    before = house.log().count("Operation not permitted")
    with immutable([house.home.cursors, house.home.outbox]):
        house.drop("well", "the last")
        wait_for(lambda: house.log().count("Operation not permitted") > before, 15, "the cause")
    wait_for(lambda: house.said("well")[-1] == "echo: the last", 30, "the last answer")
    for folder in folders:
        said = [line["text"] for line in house.transcript(folder)]
        assert len(said) == len(set(said)), "nothing twice"


@contextmanager
def immutable(paths: list[Path]) -> Iterator[None]:
    def change(sign: str) -> None:
        done = subprocess.run(["chattr", f"{sign}i", *paths], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"chattr: {done.stderr.strip()}")

    change("+")
    try:
        yield
    finally:
        change("-")


NO_INOTIFY = """echo 0 > /proc/sys/user/max_inotify_instances && exec "$@" """
SOONER = """
import sys
from nanoclaw import turns, worker
turns.RESCAN_SECONDS = worker.LOOK_EVERY = 1.0  # so that a test need not wait for what a person waits 30 s for
from nanoclaw.cli import main
sys.exit(main())
"""


def test_a_file_system_that_tells_nothing(engine: str) -> None:
    """No inotify at all, for host and agent, in a user namespace of their own: the slow rescan finds everything."""
    with living(engine, "process") as house:
        begun_with(house, "unshare", "-Ur", "sh", "-c", NO_INOTIFY, "sh", program=("-c", SOONER))
        if house.run("--version").returncode:
            pytest.skip("no user namespace can be made here")
        house.group("main", "is_main = true")
        house.start()
        assert house.log().count("No file events") <= 2, "said once by each of two watchers"
        house.drop("main", "hello")
        assert house.wait_said("main") == ["echo: hello"]
        house.drop("main", "again")
        assert house.wait_said("main", 2)[1] == "echo: again"
        request = {"type": "message", "chatJid": "local:main", "text": "from a script"}
        put(house.home.ipc / "main" / "messages" / "x.json", json.dumps(request))
        assert house.wait_said("main", 3)[2] == "from a script"
        house.group("late")
        house.drop("late", "registered meanwhile")
        assert house.wait_said("late") == ["echo: registered meanwhile"]


# -- a hostile container -----------------------------------------------------------------------------------------------

HOSTILE = """cd /workspace
truncate -s 500M ipc/messages/huge.json ipc/tasks/huge.json run/out/000900.json
mkfifo ipc/messages/fifo.json run/out/000901.json
echo '[]' > ipc/messages/list.json; echo '"x"' > ipc/messages/text.json
echo '{"type": "message", "chatJid": "local:hostile", "text": {"a": 1}}' > ipc/messages/nested.json
python3 -c "
for number in range(50000):
    open(f'ipc/tasks/{number}.json', 'w').write('x')
    if number % 5 == 0:
        open(f'run/out/small-{number}.json', 'w').write('x')
"
head -c 150000000 /dev/zero | tr '\\0' x > /proc/1/fd/1
echo done"""


def test_a_hostile_container_disturbs_nobody(house: HomeUnderTest, script: Script) -> None:
    """Files of 500 MB, 60,000 small ones, 150 MB of output, FIFOs, wrong shapes: nothing of it reaches a chat, the host
    stays small, another group is answered meanwhile, and the run itself ends well."""

    def rule(request: dict[str, Any]) -> Reply:
        return "I am done" if tool_results(request) else ToolUse("Bash", {"command": HOSTILE, "timeout": 110000})

    script.on("do harm", rule)
    house.group("hostile")
    house.group("well")
    house.start()
    house.drop("well", "hello")
    house.wait_said("well")
    house.drop("hostile", "do harm")
    (run,) = wait_for(lambda: house.runs("hostile"), 20, "the run")
    tasks = house.home.runs / run["id"] / "ipc" / "tasks"
    wait_for(lambda: len(os.listdir(tasks)) > 1000, 60, "its small files")
    for number in range(2, 5):
        house.drop("well", f"message {number}")
        assert house.wait_said("well", number, 20)[-1] == f"echo: message {number}"
    assert house.wait_said("hostile", 1, 120) == ["I am done"]
    results = [found["text"] for body in house.model.bodies() for found in tool_results(body)]
    assert results and "done" in results[-1].splitlines(), results
    assert house.host is not None
    status = Path(f"/proc/{house.host.pid}/status").read_text()
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < 200_000, f"{peak} kB"
    house.home.group_file("hostile").unlink()
    assert house.stop() == 0
    for fifo in house.home.runs.glob("*/out/000901.json"):
        fifo.unlink()  # who keeps this home, copies it
