"""On which line a key stands: tomllib and json give values without places, and a person needs the place.

Limits: the text must already have been accepted by tomllib or json. This module only follows the structure of a valid
document; what it cannot place is missing from its answer, and the message then names the file alone.
"""

from __future__ import annotations

import re

Location = tuple[str | int, ...]

_TOKEN = re.compile(
    r'''(?P<skip>[ \t\r]+|\#[^\n]*)
      | (?P<string>"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
      | (?P<mark>[\[\]{}=:,.\n])
      | (?P<bare>[^\s\[\]{}=:,.\#"']+)''',
    re.VERBOSE | re.DOTALL,
)


def toml_lines(text: str) -> dict[Location, int]:
    """The line (from 1) of every key, table header and array element of a valid TOML document."""
    return _Walk(text).toml()


def json_lines(text: str) -> dict[Location, int]:
    """The line (from 1) of every key and array element of a valid JSON document."""
    walk = _Walk(text)
    walk.document()
    return walk.lines


class _Walk:
    """One pass over the tokens. ``lines`` keeps the first line seen of each location."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Location, int] = {}
        self._tokens: list[tuple[str, str, int]] = []
        self._at = 0
        self._lengths: dict[Location, int] = {}
        line = 1
        for match in _TOKEN.finditer(text):
            if match.lastgroup != "skip":
                self._tokens.append((match.lastgroup or "", match.group(), line))
            line += match.group().count("\n")
        self._tokens.append(("end", "", line))

    def toml(self) -> dict[Location, int]:
        table: Location = ()
        while self._tokens[self._at][0] != "end":
            if self._take("\n"):
                continue
            if self._take("["):
                array = self._take("[")
                table = self._header(array)
                while not self._take("\n") and self._tokens[self._at][0] != "end":
                    self._at += 1
            else:
                self._assignment(table)
        return self.lines

    def document(self) -> None:
        while self._take("\n"):
            pass
        self.value(())

    def value(self, location: Location) -> None:
        """Step over one value, noting the keys and elements inside it."""
        if self._take("{"):
            while not self._take("}"):
                if not (self._take(",") or self._take("\n")):
                    self._assignment(location)
        elif self._take("["):
            index = 0
            while not self._take("]"):
                if self._take(","):
                    index += 1
                elif not self._take("\n"):
                    self._note((*location, index), self._at)
                    self.value((*location, index))
        else:
            while self._tokens[self._at][1] not in (",", "\n", "]", "}", ""):
                self._at += 1

    def _assignment(self, table: Location) -> None:
        location = table
        for part in self._key():
            location = (*location, part)
            self._note(location, self._at - 1)
        while not (self._take("=") or self._take(":")):
            self._at += 1
        while self._take("\n"):  # JSON may break the line after the colon
            pass
        self.value(location)

    def _header(self, array: bool) -> Location:
        location: Location = ()
        parts = self._key()
        for position, part in enumerate(parts):
            location = (*location, part)
            if array and position == len(parts) - 1:
                self._lengths[location] = self._lengths.get(location, 0) + 1
            self._note(location, self._at - 1)
            if location in self._lengths:
                location = (*location, self._lengths[location] - 1)
                self._note(location, self._at - 1)
        return location

    def _key(self) -> list[str]:
        parts = []
        while self._tokens[self._at][0] in ("bare", "string") or self._tokens[self._at][1] == ".":
            kind, word, _ = self._tokens[self._at]
            if word != ".":
                parts.append(word[1:-1] if kind == "string" else word)
            self._at += 1
        return parts

    def _take(self, mark: str) -> bool:
        kind, word, _ = self._tokens[self._at]
        if kind == "mark" and word == mark:
            self._at += 1
            return True
        return False

    def _note(self, location: Location, token: int) -> None:
        self.lines.setdefault(location, self._tokens[token][2])
