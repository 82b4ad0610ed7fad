"""`build`: make the agent's image with the engine's own builder, in a context that holds only what is needed.

What lets pip and apt work on this machine (indexes, proxies, CA bundle) reaches the build and stays out of the image:
files lie in a stage that the image is not made from, proxies are predefined build arguments.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from nanoclaw.config.settings import load_config
from nanoclaw.errors import UserError
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs.engine_check import find_cli, why_unavailable
from nanoclaw.runs.image import SOURCES, find_base, sources_digest

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY")
CA_BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PIP_KEYS = ("index-url", "extra-index-url", "trusted-host", "proxy")


def command(home: Home, arguments: argparse.Namespace) -> int:
    config = load_config(home.config_file)
    runtime = config.runtime if config.runtime != "process" else "docker"
    return run(home, arguments.base, arguments.no_cache, arguments.browser, runtime, config.image)


def run(
    home: Home,
    base: str | None,
    no_cache: bool,
    browser: bool = False,
    runtime: str = "docker",
    image: str = "nanoclaw-agent:latest",
) -> int:
    """Build ``image``, the builder's progress on the terminal; 0 when it is there. UserError: why it is not.

    An image belongs to the machine: ``home`` plays no part in it.
    """
    cli = find_cli(runtime)
    if unavailable := why_unavailable(cli):
        raise unavailable
    base_image = find_base(cli, base)
    digest = sources_digest(PROJECT)
    print(f"Building {image} on {base_image}.", flush=True)
    with tempfile.TemporaryDirectory(prefix="nanoclaw-build-") as context:
        fill_context(Path(context), os.environ, _pip_config())
        argv = [*build_argv(cli, image, base_image, digest, no_cache, browser, os.environ), context]
        code = subprocess.run(argv, stdin=subprocess.DEVNULL).returncode
    if code != 0:
        raise UserError(
            f"{image} was not built: `{runtime} build` ended with {code}, its reason stands above.",
            "Try again with --no-cache, or with another base image (--base).",
        )
    if runtime != "container":  # free what earlier versions of the image left behind, a gigabyte each
        earlier = ["--filter", "label=nanoclaw.sources", "--filter", f"label!=nanoclaw.sources={digest}"]
        subprocess.run([cli, "image", "prune", "--force", *earlier], capture_output=True, stdin=subprocess.DEVNULL)
    print(f"{image} is ready.")
    return 0


def build_argv(
    cli: str, image: str, base_image: str, digest: str, no_cache: bool, browser: bool, environment: Mapping[str, str]
) -> list[str]:
    """The build's command line without its context. Proxies stand in it by name only: the client reads the values."""
    argv = [cli, "build", "--tag", image, "--build-arg", f"BASE_IMAGE={base_image}"]
    argv += ["--build-arg", f"SOURCES={digest}", "--build-arg", f"BROWSER_TOOLS={int(browser)}"]
    if os.path.basename(cli) != "container":  # Apple's builder is a virtual machine with a network of its own
        argv += ["--network", "host"]
    for name in PROXIES:
        if environment.get(name):
            argv += ["--build-arg", name]
    return argv + (["--no-cache"] if no_cache else [])


def fill_context(context: Path, environment: Mapping[str, str], pip_config: Iterable[str]) -> None:
    """Put the image's sources into ``context``, and pip.conf and ca.crt where this machine has such settings."""
    for name in SOURCES:
        shutil.copyfile(PROJECT / "container" / name, context / name)
    if settings := pip_settings(environment, pip_config):
        (context / "pip.conf").write_text("[global]\n" + "".join(f"{k} = {v}\n" for k, v in settings.items()))
    bundles = [environment.get(name) for name in CA_BUNDLES] + [ssl.get_default_verify_paths().cafile]
    if bundle := next((path for path in bundles if path and os.path.isfile(path)), None):
        shutil.copyfile(bundle, context / "ca.crt")


def pip_settings(environment: Mapping[str, str], pip_config: Iterable[str]) -> dict[str, str]:
    """What pip uses on this machine and can use in the build, where directories of this machine cannot be seen.

    ``pip_config``: the lines of ``pip config list``. PIP_* of ``environment`` win over them.
    """
    found: dict[str, str] = {}
    for line in pip_config:
        name, _, value = line.partition("=")
        if name.startswith(("global.", "install.")):
            found[name.partition(".")[2]] = str(ast.literal_eval(value))
    settings = {}
    for key in PIP_KEYS:
        words = (environment.get("PIP_" + key.upper().replace("-", "_")) or found.get(key, "")).split()
        if words := [word for word in words if not word.startswith(("/", "file:"))]:
            settings[key] = " ".join(words)
    return settings


def _pip_config() -> list[str]:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.splitlines()
