"""`build`: make the agent's image with the engine's own builder, in a context that holds only what is needed.

What lets pip and apt work on this machine (indexes, proxies, CA bundle) reaches the build and stays out of the image:
files lie in a stage that the image is not made from, proxies are predefined build arguments.
"""

from __future__ import annotations

import ast
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from nanoclaw.errors import UserError
from nanoclaw.paths import PROJECT, Home
from nanoclaw.runs.engine_check import find_cli, why_unavailable
from nanoclaw.runs.image import SOURCES, find_base, sources_digest

PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY")
CA_BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_PIP_KEYS = ("index-url", "extra-index-url", "find-links", "trusted-host", "proxy", "timeout")
_PIP_URLS = ("index-url", "extra-index-url", "find-links")


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
    if runtime == "process":
        raise UserError("The process runtime uses no image.", "Set runtime in [container] of config.toml.")
    cli = find_cli(runtime)
    if unavailable := why_unavailable(cli):
        raise unavailable
    base_image = find_base(cli, base)
    digest = sources_digest(PROJECT)
    environment = dict(os.environ)
    if browser:
        environment |= _apt_proxies()
    print(f"Building {image} on {base_image}.", flush=True)
    with tempfile.TemporaryDirectory(prefix="nanoclaw-build-") as context:
        fill_context(Path(context), environment, _pip_config())
        argv = [*build_argv(cli, image, base_image, digest, no_cache, browser, environment), context]
        code = subprocess.run(argv, env=environment, stdin=subprocess.DEVNULL).returncode
    if code != 0:
        raise UserError(
            f"{image} was not built: `{runtime} build` ended with {code}, its reason stands above.",
            "Try again with --no-cache, or with another base image (--base).",
        )
    _remove_earlier_builds(cli, digest)
    print(f"{image} is ready.")
    return 0


def build_argv(
    cli: str,
    image: str,
    base_image: str,
    digest: str,
    no_cache: bool,
    browser: bool,
    environment: Mapping[str, str],
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
        lines = [f"{key} = {value}" for key, value in settings.items()]
        (context / "pip.conf").write_text("\n".join(["[global]", *lines, ""]))
    if bundle := _ca_bundle(environment):
        shutil.copyfile(bundle, context / "ca.crt")


def pip_settings(environment: Mapping[str, str], pip_config: Iterable[str]) -> dict[str, str]:
    """What pip uses on this machine and can use in the build; directories of this machine cannot be seen there.

    ``pip_config``: the lines of ``pip config list``. PIP_* of ``environment`` win over them.
    """
    found: dict[str, str] = {}
    for line in pip_config:
        name, _, value = line.partition("=")
        section, _, key = name.rpartition(".")
        if key in _PIP_KEYS and section in ("global", "install"):
            found[key] = str(ast.literal_eval(value))
    variables = {key: environment.get("PIP_" + key.upper().replace("-", "_")) for key in _PIP_KEYS}
    found |= {key: value for key, value in variables.items() if value}
    for key in _PIP_URLS:
        if key in found:
            found[key] = " ".join(url for url in found[key].split() if url.startswith(("http://", "https://")))
    return {key: value for key, value in found.items() if value}


def _pip_config() -> list[str]:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    return subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.splitlines()


def _ca_bundle(environment: Mapping[str, str]) -> Path | None:
    named = [environment.get(name) for name in CA_BUNDLES] + [ssl.get_default_verify_paths().cafile]
    return next((Path(path) for path in named if path and Path(path).is_file()), None)


def _apt_proxies() -> dict[str, str]:
    """The proxies in this machine's apt configuration, as the environment variables that apt reads as well."""
    if shutil.which("apt-config") is None:
        return {}
    found = {}
    for scheme in ("http", "https"):
        argv = ["apt-config", "--format", "%v", "dump", f"Acquire::{scheme}::Proxy"]
        value = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.strip()
        if value.startswith("http"):
            found[f"{scheme}_proxy"] = value
    return found


def _remove_earlier_builds(cli: str, digest: str) -> None:
    """Free what earlier versions of the image left behind (a gigabyte each); best effort."""
    argv = [cli, "image", "prune", "--force"]
    argv += ["--filter", "label=nanoclaw.sources", "--filter", f"label!=nanoclaw.sources={digest}"]
    if os.path.basename(cli) != "container":
        subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL)
