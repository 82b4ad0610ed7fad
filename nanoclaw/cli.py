"""The command line. Only here are errors for people printed; commands import what they need when they are called."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nanoclaw import __version__
from nanoclaw.errors import UserError


def parser() -> argparse.ArgumentParser:
    """All commands; the function that carries one out is its ``call``."""
    top = argparse.ArgumentParser(prog="nanoclaw.py", description="NanoClaw: a personal assistant host.")
    top.add_argument("--version", action="version", version=f"nanoclaw {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    one = commands.add_parser("demo", help="show a conversation with a real agent and the offline model")
    one.add_argument("--runtime", choices=["docker", "podman", "process"], help="use this runtime, do not look for one")
    one.set_defaults(call=_demo)

    one = commands.add_parser("run", help="be the host")
    one.add_argument("--once", action="store_true", help="work off what is pending, then end (for cron)")
    one.set_defaults(call=_run)

    one = commands.add_parser("chat", help="talk to a group's agent")
    one.add_argument("--group", metavar="F", help="the group's folder [main]")
    one.add_argument("message", nargs="?", help="one message: print the answer and end")
    one.set_defaults(call=_chat)

    one = commands.add_parser("build", help="build the agents' container image")
    one.add_argument("--base", metavar="IMAGE", help="the image to build on [$BASE_IMAGE, a local one, the public one]")
    one.add_argument("--no-cache", action="store_true")
    one.add_argument("--browser", action="store_true", help="with a browser for the agents")
    one.set_defaults(call=_build)

    one = commands.add_parser("doctor", help="say what is wrong, and how to cure it")
    one.add_argument("--json", action="store_true")
    one.set_defaults(call=_doctor)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = parser().parse_args(argv)
    try:
        return int(arguments.call(arguments))
    except UserError as error:
        print(f"nanoclaw: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace) -> int:
    from nanoclaw.commands import run
    from nanoclaw.paths import Home

    return run.run(Home.from_environment(), arguments.once)


def _chat(arguments: argparse.Namespace) -> int:
    from nanoclaw.commands import chat
    from nanoclaw.paths import Home

    return chat.run(Home.from_environment(), arguments.group, arguments.message)


def _build(arguments: argparse.Namespace) -> int:
    from nanoclaw.commands import build
    from nanoclaw.config.settings import load_config
    from nanoclaw.paths import Home

    home = Home.from_environment()
    config = load_config(home.config_file)
    runtime = config.runtime if config.runtime != "process" else "docker"
    return build.run(home, arguments.base, arguments.no_cache, arguments.browser, runtime, config.image)


def _doctor(arguments: argparse.Namespace) -> int:
    from nanoclaw.commands import doctor
    from nanoclaw.paths import Home

    return doctor.run(Home.from_environment(), arguments.json)


def _demo(arguments: argparse.Namespace) -> int:
    from nanoclaw.commands import demo

    return demo.run(arguments.runtime)
