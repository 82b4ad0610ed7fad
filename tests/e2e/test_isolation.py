"""What an agent can see and do: looked for from inside a real container."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.home import KEY, HomeUnderTest, Script
from tests.support.scripted_model import Block, ToolUse, last_user_text, tool_results
from tests.support.waiting import wait_for


def shell(script: Script) -> None:
    """Let the agent run each message that starts with ``sh:`` in its shell, and answer what that printed."""

    def rule(request: dict[str, Any]) -> str | Block:
        if results := tool_results(request):
            return results[0]["text"] or "(nothing)"
        command = (request_command(request) + "\ntrue").replace("&amp;", "&").replace("&gt;", ">")
        return ToolUse("Bash", {"command": command, "timeout": 60000})

    script.on("sh:", rule)


def request_command(request: dict[str, Any]) -> str:
    return last_user_text(request).rpartition("sh:")[2].partition("</message>")[0]


# The brackets keep the search from finding its own command line.
SEARCH = r"""sh: {
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | tr '\0' '\n' | grep -ac 'e2e-012345678[9]abc'
grep -rslaE 'e2e-012345678[9]abc|canary-4[2]' / --exclude-dir=proc --exclude-dir=sys --exclude-dir=dev
env | grep -c placeholder
ls /workspace/project/.env /workspace/project/state /var/run/docker.sock
} 2>&1 | tail -n 50"""


def test_the_credential_is_nowhere_in_the_container(house: HomeUnderTest, script: Script) -> None:
    shell(script)
    house.group("main", "is_main = true")
    (house.home.groups / "main").mkdir(parents=True)
    (house.home.groups / "main" / "canary").write_text("canary-42")
    house.start()
    house.drop("main", SEARCH)
    counted, *found = house.wait_said("main")[0].splitlines()
    assert counted == "0", "not in the environment or arguments of any process"
    assert [line for line in found if line.startswith("/")] == ["/workspace/group/canary"], "the search itself works"
    assert "1" in found, "the placeholder is there"
    assert len([line for line in found if "No such file" in line]) == 3
    assert house.model.requests[-1].headers["x-api-key"] == KEY
    inspected = house.docker("inspect", *house.containers())
    assert "placeholder" in inspected and KEY not in inspected
    house.drop("main", "bye")
    house.wait_said("main", 2)
    house.home.group_file("main").unlink()
    house.wait_judged("main")
    kept = [path for path in house.home.root.rglob("*") if path.is_file() and path != house.home.env_file]
    assert len(kept) > 20
    assert not [path for path in kept if KEY.encode() in path.read_bytes()]


def test_a_mount_needs_the_allowlist(house: HomeUnderTest, script: Script, short_path: Path) -> None:
    shell(script)
    shared = short_path / "shared"
    shared.mkdir()
    (shared / "book").write_text("a good book")
    mount = f'[[container.mounts]]\nhost_path = "{shared}"\ncontainer_path = "shared"\nreadonly = false\n'
    house.group("g", "requires_trigger = false\n" + mount)
    house.start()
    house.drop("g", "sh: ls -R /workspace/extra 2>&1; mount | grep -c extra")
    assert "book" not in house.wait_said("g")[0] and house.said("g")[0].endswith("0")
    assert "Mount REJECTED group=g" in house.log()
    house.home.mount_allowlist.write_text(json.dumps({"allowedRoots": [{"path": str(short_path)}]}))
    house.configure('idle_timeout = "0.1s"')
    house.wait_judged("g")
    house.drop("g", "sh: cat /workspace/extra/shared/book; echo x > /workspace/extra/shared/y")
    said = house.wait_said("g", 2)[1]
    assert "a good book" in said and "Read-only file system" in said, "main alone may be given more"
    assert "Mount validated group=g" in house.log()
    wait_for(lambda: not house.containers(), 30, "the container removed")


def test_groups_do_not_see_each_other(house: HomeUnderTest, script: Script) -> None:
    shell(script)
    for folder in ("one", "two"):
        house.group(folder)
    house.start()
    house.drop("one", "sh: echo mine > note; echo shared > /workspace/global/x; ls /workspace/project")
    assert house.wait_said("one")[0].count("Read-only file system") == 1
    house.drop(
        "two", "sh: grep -rs 'min[e]' /workspace | wc -l; echo x > /workspace/run/in/x; rm -r /workspace/gateway/s"
    )
    said = house.wait_said("two")[0]
    assert said.splitlines()[0] == "0" and said.count("Read-only file system") == 2
