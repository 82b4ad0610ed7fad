#!/usr/bin/env python3
"""The launcher: ``python3 nanoclaw.py COMMAND``, from any directory, whatever Python is active.

It finds a Python of 3.11 or newer, has ``nanoclaw/environment.py`` make ``.venv`` beside this file, and becomes that
environment's Python, which runs ``nanoclaw.cli.main``. ``test`` and ``bench`` run in ``.venv-test`` instead.
Old Pythons must be able to read this file, or nobody learns what to install: no annotations, no f-strings, and
nothing of the package is imported before 3.11 is certain.
"""

import os
import sys

THIS = os.path.realpath(__file__)
PROJECT = os.path.dirname(THIS)
MINIMUM = (3, 11)
NAMES = ["python3.%d" % minor for minor in range(15, MINIMUM[1] - 1, -1)] + ["python3", "python"]
# Where Pythons lie when PATH is as bare as cron's.
PLACES = (
    "/usr/local/bin",
    "/usr/bin",
    "/opt/homebrew/bin",
    "/Library/Frameworks/Python.framework/Versions/*/bin",
    "~/.local/bin",
    "~/.pyenv/versions/*/bin",
    "~/.local/share/uv/python/*/bin",
)
# What leads Python to another place than its own: modules found there may not suit it.
FOREIGN = ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


def say(line):
    sys.stderr.write("nanoclaw: %s\n" % line)


def become(python, arguments):
    """Replace this process by ``python arguments``."""
    sys.stdout.flush()
    os.execv(python, [python] + arguments)


def is_new_enough(python):
    """Whether ``python`` runs and is 3.11 or newer. A version manager's shim may exist and not run."""
    import subprocess

    test = "import sys; sys.exit(sys.version_info < (%d, %d))" % MINIMUM
    null = subprocess.DEVNULL
    try:
        return subprocess.call([python, "-c", test], stdin=null, stdout=null, stderr=null) == 0
    except OSError:
        return False


def find_python(directories):
    """The path of a Python of 3.11 or newer in ``directories``, the newest name first, or None."""
    for name in NAMES:
        for directory in directories:
            python = os.path.join(directory, name)
            if os.access(python, os.X_OK) and is_new_enough(python):
                return python
    return None


def search_path():
    """Our own environment first, then PATH, then the usual places."""
    import glob

    directories = [os.path.join(PROJECT, ".venv", "bin")]
    directories += [entry for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    for place in PLACES:
        directories += sorted(glob.glob(os.path.expanduser(place)), reverse=True)
    return directories


def main(arguments):
    """Return the exit status, where this process does not become another."""
    led_astray = "PYTHONPATH" in os.environ
    for name in FOREIGN:
        os.environ.pop(name, None)
    if sys.version_info < MINIMUM:
        python = find_python(search_path())
        if python:
            become(python, [THIS] + arguments)
        say(
            "Python 3.11 or newer is needed; this is %d.%d, and no newer one was found. " % sys.version_info[:2]
            + "Install it (brew, apt, dnf, or https://www.python.org/downloads/) and start again."
        )
        return 1
    if led_astray:
        become(sys.executable, [THIS] + arguments)
    sys.path.insert(0, PROJECT)
    return start(arguments)


def start(arguments):
    """Make sure of the environment, and run the command in it."""
    from nanoclaw import environment

    testing = arguments[:1] in (["test"], ["bench"], ["crash"])
    directory = os.path.join(PROJECT, ".venv-test" if testing else ".venv")
    python = environment.python_of(directory)
    inside = os.path.realpath(sys.prefix) == os.path.realpath(directory)
    os.environ.pop("NANOCLAW_ENVIRONMENT_PROBLEM", None)
    try:
        extras = ("test", "agent") if testing else ()
        requirements = environment.requirements(os.path.join(PROJECT, "pyproject.toml"), extras)
        if not environment.is_current(directory, requirements):
            environment.ensure(directory, requirements, say)
            inside = False
    except environment.EnvironmentProblem as problem:
        if arguments[:1] != ["doctor"]:
            say(problem)
            return 1
        os.environ["NANOCLAW_ENVIRONMENT_PROBLEM"] = str(problem)
        inside = True
    if testing:
        os.chdir(PROJECT)
        module = "pytest" if arguments[0] == "test" else f"tests.{arguments[0]}"
        become(python, ["-m", module] + arguments[1:])
    if not inside:
        become(python, [THIS] + arguments)
    from nanoclaw.cli import main as command_line

    return command_line(arguments)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
