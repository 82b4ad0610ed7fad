"""The launcher for real: copied trees with a stub command line, real venvs, a real pip, wheels made here."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

from nanoclaw import __version__, environment
from nanoclaw.paths import PROJECT

# Not this suite's environment, but the Python that it was made with.
BASE = str(getattr(sys, "_base_executable", sys.executable))
COMMAND_LINE = """
    import json, os, sys
    def main(argv):
        try:
            import probe
        except ImportError:
            probe = None
        print(json.dumps({"argv": argv, "prefix": sys.prefix, "cwd": os.getcwd(), "probe": probe is not None,
                          "problem": os.environ.get("NANOCLAW_ENVIRONMENT_PROBLEM"),
                          "foreign": [name for name in ("PYTHONPATH", "VIRTUAL_ENV") if name in os.environ]}))
        return 7 if argv == ["seven"] else 0
"""
FAKE_PYTEST = (
    "import json, os, sys; print(json.dumps({'argv': sys.argv[1:], 'cwd': os.getcwd(), 'prefix': sys.prefix}))"
)


def make_wheel(directory: Path, name: str, source: str = "") -> None:
    directory.mkdir(exist_ok=True)
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", source)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")


class Tree:
    """A checkout with the real launcher, a stub command line and dependencies of the test's choice."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.venv = root / ".venv"
        self.wheels = root.parent / "wheels"
        (root / "nanoclaw").mkdir(parents=True)
        for name in ("nanoclaw.py", "nanoclaw/__init__.py", "nanoclaw/environment.py"):
            (root / name).write_bytes((PROJECT / name).read_bytes())
        (root / "nanoclaw/cli.py").write_text(textwrap.dedent(COMMAND_LINE))
        self.depend()
        make_wheel(self.wheels, "probe")

    def depend(self, *requirements: str, test: str = "probe") -> None:
        listed = "".join(f'    "{requirement}",\n' for requirement in requirements)
        (self.root / "pyproject.toml").write_text(
            f'[project]\ndependencies = [\n{listed}]\n\n[project.optional-dependencies]\nagent = [\n    "probe",\n]\n'
            f'test = [\n    "{test}",\n]\n'
        )

    def command(self, *arguments: str, **variables: str) -> dict[str, Any]:
        """The keyword arguments of a start in a bare environment."""
        bare = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)} | variables
        argv = [BASE, str(self.root / "nanoclaw.py"), *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return {"args": argv, "env": bare, "text": True, **pipes}

    def start(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(**self.command(*arguments, **variables), timeout=120)

    def files(self) -> dict[Path, tuple[int, int]]:
        """Each file of the environment with inode and modification time."""
        paths = [self.venv, *self.venv.rglob("*")]
        return {path: (path.lstat().st_ino, path.lstat().st_mtime_ns) for path in paths}


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree that was started once, to be copied: making an environment takes seconds."""
    made = Tree(tmp_path_factory.mktemp("pattern") / "tree")
    assert made.start().returncode == 0
    return made


@pytest.fixture
def prepared(pattern: Tree, tree: Tree) -> Tree:
    """A tree with its environment, without dependencies."""
    shutil.copytree(pattern.venv, tree.venv, symlinks=True)
    assert tree.start().stderr == ""
    return tree


def said(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_start_prepares_and_the_second_costs_nothing(tree: Tree) -> None:
    tree.depend("probe")
    first = tree.start("hello", "--there")
    answer = said(first)
    assert answer["argv"] == ["hello", "--there"]
    assert answer["prefix"] == str(tree.venv)
    assert answer["probe"]
    assert "Preparing" in first.stderr
    before = tree.files()
    second = tree.start("seven", PIP_FIND_LINKS="/nowhere")
    assert (second.returncode, second.stderr) == (7, "")
    assert tree.files() == before


def test_it_starts_through_a_symlink_from_anywhere_with_nothing_in_the_environment(tree: Tree, tmp_path: Path) -> None:
    link = tmp_path / "bin" / "nanoclaw"
    link.parent.mkdir()
    link.symlink_to(tree.root / "nanoclaw.py")
    done = subprocess.run([BASE, link, "x"], env={}, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert said(done)["prefix"] == str(tree.venv)
    assert said(done)["cwd"] == "/"


def test_two_at_once_prepare_once(tree: Tree) -> None:
    tree.depend("probe")
    both = [subprocess.Popen(**tree.command("x")) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum("Preparing" in stderr for _, stderr in outputs) == 1
    assert all(json.loads(stdout)["probe"] for stdout, _ in outputs)


def test_an_interpreter_that_is_gone_is_replaced(prepared: Tree) -> None:
    (prepared.venv / "bin" / "python").unlink()
    (prepared.venv / "bin" / "python").symlink_to("/nowhere/python3.11")
    done = prepared.start("x")
    assert "Preparing" in done.stderr
    assert said(done)["prefix"] == str(prepared.venv)
    assert prepared.start("x").stderr == ""


def test_another_interpreter_remakes_it(prepared: Tree) -> None:
    stamp = prepared.venv / environment.STAMP
    interpreter, *listed = stamp.read_text().splitlines()
    stamp.write_text("\n".join([interpreter.replace("3.", "3.1"), *listed]))  # an upgrade has led the link elsewhere
    (prepared.venv / "witness").touch()
    assert said(prepared.start("x"))["prefix"] == str(prepared.venv)
    assert not (prepared.venv / "witness").exists()
    assert prepared.start("x").stderr == ""


def test_a_new_dependency_is_added_to_what_is_there(prepared: Tree) -> None:
    assert not said(prepared.start())["probe"]
    (prepared.venv / "witness").touch()
    prepared.depend("probe")
    assert said(prepared.start())["probe"]
    assert (prepared.venv / "witness").exists()


def test_a_change_that_failed_is_not_taken_for_what_was_there_before(prepared: Tree) -> None:
    prepared.depend("nanoclaw-no-such-package")
    assert prepared.start().returncode == 1
    prepared.depend()
    assert "Preparing" in prepared.start().stderr


def test_an_install_that_was_killed_is_done_again(tree: Tree) -> None:
    tree.depend("probe")
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(60)
        url = f"http://127.0.0.1:{index.getsockname()[1]}/simple"
        hanging = {"PIP_NO_INDEX": "0", "PIP_INDEX_URL": url, "PIP_FIND_LINKS": "", "PIP_RETRIES": "0"}
        first = subprocess.Popen(**tree.command("x", **hanging))
        asked, _ = index.accept()  # pip is at work now
        first.kill()
        first.communicate(timeout=60)
        again = subprocess.Popen(**tree.command("x"))
        assert again.stderr.readline().startswith("nanoclaw: Waiting"), "an orphaned pip keeps the lock"
        asked.close()
    stdout, stderr = again.communicate(timeout=120)
    assert again.returncode == 0, stderr
    assert json.loads(stdout)["probe"]


def test_a_failing_install_is_one_line_and_doctor_works_all_the_same(tree: Tree) -> None:
    tree.depend("nanoclaw-no-such-package")
    done = tree.start("run")
    assert (done.returncode, done.stdout) == (1, "")
    *progress, last = done.stderr.splitlines()
    assert "No matching distribution found for nanoclaw-no-such-package" in last
    assert all(line.startswith("nanoclaw: ") for line in progress)
    doctor = said(tree.start("doctor"))
    assert doctor["argv"] == ["doctor"]
    assert "no-such-package" in doctor["problem"]


def test_a_problem_of_long_ago_is_not_handed_on(prepared: Tree) -> None:
    assert said(prepared.start("doctor", NANOCLAW_ENVIRONMENT_PROBLEM="of long ago"))["problem"] is None


def test_a_place_that_cannot_be_written_is_one_line(tree: Tree) -> None:
    tree.venv.write_text("in the way")
    done = tree.start("run")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert f"{tree.venv} cannot be made: " in done.stderr


def test_the_callers_python_settings_do_no_harm(tree: Tree, tmp_path: Path) -> None:
    poison = tmp_path / "poison"
    (poison / "nanoclaw").mkdir(parents=True)
    for name in ("fcntl.py", "nanoclaw/__init__.py"):
        (poison / name).write_text("raise SystemExit('poisoned')\n")
    tree.depend("probe")
    harm = {"PYTHONPATH": str(poison), "VIRTUAL_ENV": "/nowhere", "PIP_TARGET": str(tmp_path / "t"), "PIP_USER": "1"}
    for _ in range(2):
        answer = said(tree.start("x", **harm))
        assert (answer["probe"], answer["foreign"]) == (True, [])


def test_test_runs_pytest_in_its_own_environment_with_all_arguments(tree: Tree) -> None:
    make_wheel(tree.wheels, "pytest", FAKE_PYTEST)
    tree.depend(test="pytest")
    answer = said(tree.start("test", "-k", "a or b", "-x"))
    expected = {"argv": ["-k", "a or b", "-x"], "cwd": str(tree.root), "prefix": str(tree.root / ".venv-test")}
    assert answer == expected
    assert not tree.venv.exists()


def script(path: Path, body: str) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n" + body)
    path.chmod(0o755)
    return str(path)


def test_without_ensurepip_another_pip_installs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_wheel(tmp_path / "wheels", "probe")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    no_ensurepip = f'case "$*" in *--without-pip*) ;; *"-m venv"*) exit 1;; esac\nexec {BASE} "$@"\n'
    python = environment.ensure(
        str(tmp_path / "venv"), ["probe"], lambda line: None, script(tmp_path / "bin" / "base", no_ensurepip)
    )
    assert not list(tmp_path.glob("venv/lib/python*/site-packages/pip"))
    subprocess.run([python, "-c", "import probe"], check=True)


def test_without_any_pip_the_line_to_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    script(tmp_path / "bin" / "apt-get", "exit 0\n")
    bare = f'case "$*" in *--without-pip*) exec {BASE} "$@";; esac\nexit 1\n'
    with pytest.raises(environment.EnvironmentProblem) as raised:
        environment.ensure(str(tmp_path / "venv"), ["probe"], print, script(tmp_path / "bin" / "base", bare))
    assert raised.value.fix == "Run: sudo apt-get install python3-venv"
    assert "neither ensurepip nor pip" in raised.value.problem


def load_launcher() -> Any:
    specification = importlib.util.spec_from_file_location("launcher", PROJECT / "nanoclaw.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_newest_python_that_really_runs_is_found(tmp_path: Path) -> None:
    launcher = load_launcher()
    script(tmp_path / "python3.13", "exit 127\n")  # a version manager's shim for what is not selected
    script(tmp_path / "python3.9", "exit 1\n")
    assert launcher.find_python([str(tmp_path)]) is None
    good = script(tmp_path / "python3.12", "exit 0\n")
    script(tmp_path / "python3.11", "exit 0\n")
    assert launcher.find_python([str(tmp_path / "absent"), str(tmp_path)]) == good


AS_OLD_PYTHON = """
import importlib.util, sys
specification = importlib.util.spec_from_file_location("launcher", sys.argv[1])
launcher = importlib.util.module_from_spec(specification)
specification.loader.exec_module(launcher)
sys.version_info = (3, 8, 18)
launcher.PLACES = sys.argv[2:]
sys.exit(launcher.main(["x"]))
"""


def as_old_python(tree: Tree, *places: Path) -> subprocess.CompletedProcess[str]:
    """A start whose interpreter believes to be 3.8, with nothing on PATH, and ``places`` as the usual ones."""
    start = tree.command()
    start["args"] = [BASE, "-c", AS_OLD_PYTHON, str(tree.root / "nanoclaw.py"), *map(str, places)]
    return subprocess.run(**start, timeout=120)


def test_only_an_old_python_is_told_what_to_install(tree: Tree, tmp_path: Path) -> None:
    script(tmp_path / "python3.9", "exit 1\n")
    done = as_old_python(tree, tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Python 3.11 or newer is needed; this is 3.8" in done.stderr
    assert not tree.venv.exists()


def test_an_old_python_hands_over_to_a_newer_one_in_the_usual_places(tree: Tree, tmp_path: Path) -> None:
    script(tmp_path / "places" / "python3.11", f'exec {BASE} "$@"\n')
    assert said(as_old_python(tree, tmp_path / "places"))["prefix"] == str(tree.venv)


@pytest.mark.parametrize("name", ["nanoclaw.py", "nanoclaw/environment.py"])
def test_old_pythons_can_read_it(name: str) -> None:
    ast.parse((PROJECT / name).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_what_is_written_twice_agrees() -> None:
    image = (PROJECT / "container" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["optional-dependencies"]["agent"] == [line for line in image if line and not line.startswith("#")]
    assert project["version"] == __version__


def test_requirements_are_those_of_pyproject() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = environment.requirements(str(PROJECT / "pyproject.toml"), ["test", "agent"])
    assert listed == project["dependencies"] + extras["test"] + extras["agent"]
