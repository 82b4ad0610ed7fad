"""Strict reading: a document against a table of the keys it may have, with every problem named at its line.

Why: a misspelt key that is ignored costs its owner an evening. Here a file is right as a whole or refused as a whole,
and the refusal says all that is wrong with it, what was expected, and where.

Limits: no coercion and no interpolation. Lines are best effort (``Problem.line`` is 0 where none can be named).
"""

from __future__ import annotations

import difflib
import json
import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanoclaw.config.lines import Location
from nanoclaw.errors import UserError
from nanoclaw.models import Problem

MAX_BYTES = 1024 * 1024


class FileProblems(UserError):
    """A file that a person wrote is refused. ``problems`` holds all that is wrong with it, in the order of lines."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(sorted(problems, key=lambda problem: problem.line))
        super().__init__("\n".join(map(str, self.problems)))


class Expected(Exception):
    """A check refuses a value; the message says what was expected, ``hint`` what was probably meant."""

    def __init__(self, expected: str, hint: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.hint = hint


@dataclass(frozen=True)
class Key:
    """One key: ``check`` returns the value to keep or raises Expected; ``field`` is its name in the result."""

    check: Callable[[object], Any]
    field: str = ""
    required: bool = False


@dataclass(frozen=True)
class Table:
    """A table whose keys go into the same flat result as those around it."""

    keys: Schema


@dataclass(frozen=True)
class Tables:
    """A list of tables: the result's ``field`` is a tuple of ``make(**values)``."""

    keys: Schema
    make: Callable[..., Any]
    field: str
    required: bool = False


Schema = Mapping[str, Key | Table | Tables]


class Report:
    """Collects what is wrong with one file."""

    def __init__(self, path: Path, lines: Mapping[Location, int]) -> None:
        self.path = path
        self.problems: list[Problem] = []
        self._lines = lines

    def add(self, location: Location, text: str) -> None:
        """Add a problem at ``location``, or at the nearest place around it that has a line."""
        while location and location not in self._lines:
            location = location[:-1]
        self.problems.append(Problem(str(self.path), self._lines.get(location, 0), text))

    def finish(self) -> None:
        """Raise FileProblems if there were any."""
        if self.problems:
            raise FileProblems(self.problems)


def read_fields(document: Mapping[str, object], schema: Schema, report: Report) -> dict[str, Any]:
    """The values of ``document`` by field name; keys that are absent are absent. Problems go to ``report``."""
    return _table(document, schema, (), report, schema)


def _table(
    document: Mapping[str, object], schema: Schema, location: Location, report: Report, whole: Schema
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in document:
        if name not in schema:
            report.add((*location, name), _unknown(name, schema, location, whole))
    for name, entry in schema.items():
        here = (*location, name)
        if name not in document:
            if not isinstance(entry, Table) and entry.required:
                report.add(location, f"{label(here)}: {_expected(entry)}, but the key is missing")
            continue
        found = document[name]
        if isinstance(entry, Key):
            try:
                values[entry.field or name] = entry.check(found)
            except Expected as error:
                report.add(here, f"{label(here)}: expected {error.expected}, found {show(found)}{error.hint}")
        elif isinstance(entry, Table) and isinstance(found, dict):
            values |= _table(found, entry.keys, here, report, whole)
        elif isinstance(entry, Tables) and isinstance(found, list) and all(isinstance(item, dict) for item in found):
            values[entry.field] = _tables(found, entry, here, report, whole)
        else:
            report.add(here, f"{label(here)}: {_expected(entry)}, found {show(found)}")
    return values


def _tables(
    found: list[dict[str, object]], entry: Tables, location: Location, report: Report, whole: Schema
) -> tuple[Any, ...]:
    made = []
    for index, item in enumerate(found):
        before = len(report.problems)
        values = _table(item, entry.keys, (*location, index), report, whole)
        if len(report.problems) == before:
            made.append(entry.make(**values))
    return tuple(made)


def _expected(entry: Key | Table | Tables) -> str:
    if isinstance(entry, Key):
        try:
            entry.check(None)
        except Expected as error:
            return f"expected {error.expected}"
    return "expected a table" if isinstance(entry, Table) else "expected a list of tables"


def _unknown(name: str, schema: Schema, location: Location, whole: Schema) -> str:
    where = f" in [{label(location)}]" if location else ""
    if location and name in whole:
        return f"unknown key {name!r}{where}; it belongs at the top level, before any [table]"
    for table, entry in whole.items():
        if not isinstance(entry, Key) and table not in location and name in entry.keys:
            return f"unknown key {name!r}{where}; it belongs in [{table}]"
    if nearest := difflib.get_close_matches(name, schema, 1):
        return f"unknown key {name!r}{where}; did you mean {nearest[0]!r}?"
    return f"unknown key {name!r}{where}; known are {', '.join(schema)}"


def label(location: Location) -> str:
    """``("container", "mounts", 0, "host_path")`` as a person reads it: ``container.mounts[1].host_path``."""
    text = ""
    for part in location:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def show(value: object) -> str:
    """A value as it stands in the file, in at most some 60 characters."""
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def read_text(path: Path) -> str:
    """The text of a person's file; raises FileNotFoundError if there is none, else FileProblems.

    Never blocks on a FIFO, and reads at most MAX_BYTES.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _refused(path, f"expected a file, found {_kind(mode)}")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(content) > MAX_BYTES:
        raise _refused(path, f"expected at most {MAX_BYTES} bytes, found more")
    if content.startswith(b"\xef\xbb\xbf"):
        raise _refused(path, "starts with a byte order mark (BOM); save it as UTF-8 without BOM", 1)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(path, f"expected UTF-8, found the byte 0x{content[error.start]:02x}", line) from error


def _refused(path: Path, text: str, line: int = 0) -> FileProblems:
    return FileProblems([Problem(str(path), line, text)])


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a device or socket"
