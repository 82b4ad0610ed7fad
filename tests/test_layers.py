"""The layers of the house: a module imports only from its left; some live without any package; there is a ceiling."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from nanoclaw.paths import PROJECT

PACKAGE = PROJECT / "nanoclaw"

# From left to right. The parts of one layer know nothing of each other. A new part fails until it is placed here.
LAYERS = [
    {"errors", "models", "environment", "faults", "moments"},
    {"paths", "turns"},
    {"rounds"},
    {"config"},
    {"files"},
    {"stores"},
    {"router", "queue"},
    {"pending"},
    {"gateway", "channels"},
    {"runs"},
    {"handover", "conditions", "delivery", "ipc", "deadlines"},
    {"notices", "waiting", "stopping", "status"},
    {"chat_commands"},
    {"inbox", "reception"},
    {"exchange"},
    {"house"},
    {"acceptance", "conclusion"},
    {"supervision"},
    {"worker"},
    {"dispatcher"},
    {"adoption"},
    {"engine_follower"},
    {"host"},
    {"doctor"},
    {"commands"},
    {"cli"},
]

# These speak when nothing is installed: importing them reaches nothing outside the standard library.
ALONE = ["nanoclaw.environment", "nanoclaw.errors", "nanoclaw.models", "nanoclaw.paths", "nanoclaw.config"]
ALONE += ["nanoclaw.commands.doctor", "nanoclaw.doctor", "nanoclaw.cli"]

# Lines of code: without blank lines, comments and docstrings (to explain must cost nothing). The host is what runs
# for years: all that nanoclaw.host can reach, without channels and the model that stands in for the demo. The tools are
# what a person calls beside it, without the demo and the channels' set-up (environment.py is the launcher's half).
HOST_CEILING = 8000
TOOLS_CEILING = 4000
NOT_COUNTED = ("channels", "commands.demo", "commands.setup_telegram", "gateway.offline", "gateway.messages_api")
NOT_COUNTED += ("gateway.endpoint", "environment")


def module_name(file: Path) -> str:
    parts = file.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def part(module: str) -> str:
    """The piece of LAYERS that a module belongs to; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def layer(name: str) -> int:
    found = [number for number, parts in enumerate(LAYERS) if name in parts]
    assert found, f"nanoclaw/{name} has no place among the layers: place it in LAYERS"
    return found[0]


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def statements(module: str, everywhere: bool) -> Iterator[ast.AST]:
    """All nodes, or those that run when the module is imported."""
    pending: list[ast.AST] = [ast.parse(MODULES[module].read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or is_for_types_only(child)
            if everywhere or not later:
                pending.append(child)


def imported(module: str, everywhere: bool = True) -> set[str]:
    """The full names of the modules that ``module`` imports."""
    names: set[str] = set()
    for node in statements(module, everywhere):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: write imports in full, not relative"
            base = node.module or ""
            names |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return names


@pytest.mark.parametrize("module", [name for name in MODULES if part(name)])
def test_a_module_imports_only_from_its_left(module: str) -> None:
    own = part(module)
    for other in imported(module):
        if other.split(".")[0] == "nanoclaw" and part(other) not in ("", own):
            assert layer(part(other)) < layer(own), f"{module} imports {other}, which is not to its left"
    layer(own)


@pytest.mark.parametrize("root", ALONE)
def test_what_speaks_without_packages_needs_none(root: str) -> None:
    reached: dict[str, str] = {}
    pending = [(name, "") for name in MODULES if name == root or name.startswith(root + ".")]
    assert pending, f"{root} is gone: keep the list right"
    while pending:
        module, via = pending.pop()
        if module in reached:
            continue
        reached[module] = via
        for other in imported(module, everywhere=False):
            if other in MODULES:
                # Importing a.b runs a/__init__ too.
                pending += [(other, module)] + ([(other.rpartition(".")[0], module)] if "." in other else [])
            else:
                assert other.split(".")[0] in sys.stdlib_module_names, f"{module} (from {via or root}) needs {other}"


def code_lines(file: Path) -> int:
    """The lines that hold code."""
    source = file.read_text(encoding="utf-8")
    texts = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Expr))
    said = {
        line
        for node in texts
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = (token for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type not in empty)
    return len({line for token in tokens for line in range(token.start[0], token.end[0] + 1)} - said)


def test_host_and_tools_stay_under_their_ceilings() -> None:
    reached, pending = set[str](), ["nanoclaw.host"]
    while pending:
        module = pending.pop()
        if module not in reached:
            reached.add(module)
            pending += [other for other in imported(module) if other in MODULES]
    counted = [module for module in MODULES if not module.removeprefix("nanoclaw.").startswith(NOT_COUNTED)]
    sizes = {module: code_lines(MODULES[module]) for module in counted}
    host = sum(size for module, size in sizes.items() if module in reached)
    tools = sum(sizes.values()) - host
    written = sum(len(MODULES[module].read_text(encoding="utf-8").splitlines()) for module in counted)
    print(
        f"lines of code: host {host} of {HOST_CEILING}, tools {tools} of {TOOLS_CEILING}; all lines written {written}"
    )
    assert host <= HOST_CEILING and tools <= TOOLS_CEILING
