"""The command line of a container, word for word, for each runtime."""

from __future__ import annotations

import shlex

import pytest

from nanoclaw.runs import command
from nanoclaw.runs.layout import Bind

RUN = command.Launch(
    cli="/usr/bin/engine",
    runtime="docker",
    name="nanoclaw-main-1",
    image="agent:1",
    home_id="home-1",
    user=(1000, 1001),
    binds=[Bind("/srv/run/in", "/workspace/run/in"), Bind('/srv/a,b "c"', "/workspace/extra/a", readonly=False)],
    environment={"TZ": "Europe/Berlin", "ODD": "a b=c"},
    command=["python3", "/opt/runner", "/workspace/run/in"],
    labels={"nanoclaw.run": "main-1"},
)
HEAD = "/usr/bin/engine run -d --name nanoclaw-main-1 --label nanoclaw.home=home-1 --label nanoclaw.run=main-1 "
LIMITS = "--cap-drop ALL --security-opt no-new-privileges --pids-limit 512 "
SEALED = "--init --read-only --tmpfs /tmp:mode=1777 " + LIMITS
USER = "--user 1000:1001 --tmpfs /home/node:uid=1000,gid=1001,mode=700 "
TAIL = (
    "-e TZ=Europe/Berlin -e 'ODD=a b=c' --mount type=bind,source=/srv/run/in,target=/workspace/run/in,readonly "
    '--mount \'type=bind,"source=/srv/a,b ""c""",target=/workspace/extra/a\' '
    "agent:1 python3 /opt/runner /workspace/run/in"
)


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        ("docker", HEAD + "--pull never " + SEALED + "--log-opt max-size=10m --log-opt max-file=1 " + USER + TAIL),
        ("podman", HEAD + SEALED + "--log-opt max-size=10mb " + USER + "--userns keep-id " + TAIL),
        ("container", HEAD + "--user 1000:1001 " + TAIL),
    ],
)
def test_golden(runtime: str, expected: str) -> None:
    made = command.argv(command.Launch(**{**vars(RUN), "runtime": runtime}))
    assert made == shlex.split(expected)
    assert shlex.split(command.shell_line(made).replace("\\\n", " ")) == made, "what command.sh says is what ran"


def test_the_images_own_user() -> None:
    made = command.argv(command.Launch(**{**vars(RUN), "user": None}))
    assert "--user" not in made and not any("/home/node" in word for word in made)
