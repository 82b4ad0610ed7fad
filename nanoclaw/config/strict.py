"""A document against a table of the keys it may have, with every problem named at its line.

Why: a misspelt key that is ignored costs its owner an evening. Here a file is right as a whole or refused as a whole,
and the refusal says all that is wrong with it, what was expected, and where.

Limits: no coercion and no interpolation. Lines are best effort (``Problem.line`` is 0 where none can be named).
"""

from __future__ import annotations

import difflib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoclaw.errors import UserError
from nanoclaw.models import Problem

Location = tuple[str | int, ...]


class FileProblems(UserError):
    """A file that a person wrote is refused. ``problems`` holds all that is wrong with it, in the order of lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(map(str, self.problems)))


class Expected(Exception):
    """A check refuses a value; the message says what was expected."""


@dataclass(frozen=True)
class TableOf:
    """A table of any keys that pass the check ``name``, each holding ``schema``."""

    name: Callable[[object], str]
    schema: Schema


# What a key may hold. A check returns the value to keep or raises Expected; {…} is a table, [{…}] a list of tables.
Keys = dict[str, "Schema | Required"]
Schema = Callable[[object], Any] | Keys | list[Keys] | TableOf


@dataclass(frozen=True)
class Required:
    """The key has to be there."""

    schema: Schema


def read_document(
    path: Path, parse: Callable[[str], object], keys: Keys, content: bytes | None = None
) -> dict[str, Any]:
    """The values of a TOML or JSON file, nested as in ``keys``; absent keys are absent. ``content``: what is to stand
    in the file, instead of what does. Raises FileProblems."""
    source = read_text(path, content)
    try:
        document = parse(source)
    except (ValueError, RecursionError) as error:
        place = re.search(r"line (\d+)", str(error))
        last = source.count("\n") + 1 if "end of document" in str(error) else 0
        hint = "; text stands in quotes" if "Invalid value" in str(error) else ""
        text = f"not valid {path.suffix[1:].upper()}: {error}{hint}"
        raise FileProblems([Problem(str(path), int(place[1]) if place else last, text)]) from error
    reader = _Reader(keys)
    values: dict[str, Any] = reader.value(document, keys, ())
    if reader.problems:
        lines = key_lines(source)
        raise FileProblems(Problem(str(path), _line(lines, where), text) for where, text in reader.problems)
    return values


def read_json_document(path: Path, keys: Keys) -> dict[str, Any]:
    """:func:`read_document` of a JSON file in which no key may stand twice in one object."""
    return read_document(path, lambda text: json.loads(text, object_pairs_hook=without_duplicates), keys)


def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """For ``json.loads(object_pairs_hook=…)``. Raises ValueError."""
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} stands twice in one object")
        found[name] = value
    return found


def read_text(path: Path, content: bytes | None = None) -> str:
    """The text of a person's file (or ``content``, as if it stood there); a missing one is empty. Raises FileProblems.
    Waits for no FIFO."""
    try:
        if content is None and path.exists() and not path.is_file():
            raise FileProblems([Problem(str(path), 0, "expected a file")])
        text = (path.read_bytes() if content is None else content).decode("utf-8-sig")
        return text.replace("\r\n", "\n")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise FileProblems([Problem(str(path), 0, f"cannot be read: {error.strerror}")]) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise FileProblems([Problem(str(path), line, "expected UTF-8")]) from error


def conform(document: object, keys: Keys) -> dict[str, Any]:
    """The values of an object that did not come from a person's file. Raises Expected, which says all that is wrong."""
    reader = _Reader(keys)
    values: dict[str, Any] = reader.value(document, keys, ())
    if reader.problems:
        raise Expected("; ".join(text for _, text in reader.problems))
    return values


class _Reader:
    """Collects what is wrong with one document."""

    def __init__(self, keys: Keys) -> None:
        self.problems: list[tuple[Location, str]] = []
        self._all = keys

    def value(self, found: object, schema: Schema, location: Location) -> Any:
        """``found`` as ``schema`` wants it; None where it is not so (then there is a problem)."""
        try:
            if isinstance(schema, dict):
                return self._table(found, schema, location)
            if isinstance(schema, TableOf):
                return self._table_of(found, schema, location)
            if not isinstance(schema, list):
                return schema(found)
            if not isinstance(found, list):
                raise Expected("a list of tables")
            return tuple(self.value(item, schema[0], (*location, index)) for index, item in enumerate(found))
        except Expected as error:
            text = f"{_label(location) or 'the file'}: expected {error}, found {_show(found)}"
            self.problems.append((location, text))
            return None

    def _table(self, found: object, keys: Keys, location: Location) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise Expected("a table")
        for name in found:
            if name not in keys:
                self.problems.append(((*location, name), self._unknown(name, keys, location)))
        values = {}
        for name, schema in keys.items():
            if isinstance(schema, Required):
                values[name] = self.value(found.get(name), schema.schema, (*location, name))
            elif name in found:
                values[name] = self.value(found[name], schema, (*location, name))
        return values

    def _table_of(self, found: object, table: TableOf, location: Location) -> dict[str, Any]:
        if not isinstance(found, dict):
            raise Expected("a table")
        for name in found:
            try:
                table.name(name)
            except Expected as error:
                self.problems.append(((*location, name), f"{_label(location)}: expected {error}, found {_show(name)}"))
        return {name: self.value(item, table.schema, (*location, name)) for name, item in found.items()}

    def _unknown(self, name: str, keys: Keys, location: Location) -> str:
        text = f"unknown key {name!r}" + (f" in [{_label(location)}]" if location else "")
        if name in self._all:
            return f"{text}; it belongs at the top level, before any [table]"
        for table, inner in self._all.items():
            if isinstance(inner, dict) and name in inner:
                return f"{text}; it belongs in [{table}]"
        if nearest := difflib.get_close_matches(name, keys, 1):
            return f"{text}; did you mean {nearest[0]!r}?"
        return f"{text}; known are {', '.join(keys)}"


def _label(location: Location) -> str:
    """``("container", "mounts", 0, "host_path")`` as a person reads it: ``container.mounts[1].host_path``."""
    parts = [f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".")


def _show(found: object) -> str:
    """A value as it stands in the file, in at most some 60 characters."""
    if found is None:
        return "nothing"
    if isinstance(found, dict):
        return "a table"
    text = json.dumps(found, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


_TOKEN = re.compile(
    r"""^[ \t]*\[(?P<list>\[)?[ \t]*(?P<table>[\w.-]+)[ \t]*\](?(list)\])  # [table], [[table]]
      | (?P<key>[\w.-]+(?=[ \t]*=) | "(?:\\.|[^"\\\n])*"(?=\s*[:=]))       # key = , "key":
      | (?P<mark>[][{},])
      | '{3}(?s:.*?)'{3} | '[^'\n]*' | \"{3}(?:\\.|[^\\])*?\"{3} | "(?:\\.|[^"\\\n])*" | \#.*""",
    re.VERBOSE | re.MULTILINE,
)


def key_lines(source: str) -> dict[Location, int]:
    """The line (from 1) of the keys and tables of a valid TOML or JSON document, best effort.

    Python's parsers give values without places, so this follows brackets and keys. A quoted key is one name.
    """
    lines: dict[Location, int] = {}
    items: Counter[str] = Counter()
    outer: list[Location] = [()]  # the table, and the brackets that are open in it
    here: Location = ()  # the key or item whose value comes next
    line, end = 1, 0
    for token in _TOKEN.finditer(source):
        line, end = line + source.count("\n", end, token.start()), token.start()
        key, table, mark = token["key"], token["table"], token["mark"]
        if table and len(outer) == 1:
            here = tuple(table.split("."))
            if token["list"]:
                here = (*here, items[table])
                items[table] += 1
            outer = [here]
        elif key:
            here = (*outer[-1], *((key[1:-1],) if key.startswith('"') else key.split(".")))
        elif mark == "{":
            outer.append(here)
        elif mark == "[":
            outer.append(here)
            here = (*here, 0)
        elif mark in ("]", "}") and len(outer) > 1:
            here = outer.pop()
        elif mark == "," and here and isinstance(here[-1], int):
            here = (*here[:-1], here[-1] + 1)
        if table or key or mark == "{":
            lines.setdefault(here, line)
    return lines


def _line(lines: dict[Location, int], location: Location) -> int:
    """The line of ``location``, or of the nearest place around it that has one."""
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 0)
