"""Cursors: how far each group's chat was handed to its agent, one small file a group, so that one broken file stops
one group.

``handed`` is the last seq handed to an agent, ``done`` the highest below which everything is finished. Between them
lie claims of a living run. ``finished`` are ranges above ``handed`` that are finished already: they appear when an
earlier claim of a run failed and a later one did not, and keep its messages from being answered twice.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from nanoclaw.files.atomic import BrokenFile, JsonFile
from nanoclaw.files.locks import Locks
from nanoclaw.files.stamps import Stamp, stamp_of
from nanoclaw.paths import Home, check_folder
from nanoclaw.stores.transcripts import Position


@dataclass(frozen=True)
class Retry:
    """``count`` failures in a row; not again before ``not_before`` (Unix time, s). ``kept_through``: the retries
    are used up, only a message with a larger seq tries again."""

    count: int
    not_before: float
    kept_through: int | None = None


@dataclass(frozen=True)
class Cursor:
    """``jid``: the chat whose seqs these are. ``place`` is where ``handed`` ends in the transcript (a hint).
    ``judged``: the last run whose end was counted here. ``said``: the causes that the chat was told of since all was
    well last. ``note``: what the next prompt must mention. ``reset``: a person moved it while this run
    had so many claims, which do not raise it any more. ``skipped``: lines behind ``handed`` up to
    ``skipped_place`` that woke nobody and are beyond the context that a prompt shows. ``cancelled``: the last ranges of
    seqs that a person's stop took from the agent."""

    jid: str | None = None
    place: Position = Position()
    done: int = 0
    finished: tuple[tuple[int, int], ...] = ()
    retry: Retry | None = None
    judged: str | None = None
    said: tuple[str, ...] = ()
    note: str | None = None
    reset: tuple[str, int] | None = None
    skipped: int = 0
    skipped_place: Position | None = None
    cancelled: tuple[tuple[int, int], ...] = ()

    @property
    def handed(self) -> int:
        return self.place.seq

    def is_finished(self, seq: int) -> bool:
        """True for a seq behind ``handed`` that a later claim finished already."""
        return any(first <= seq <= through for first, through in self.finished)

    def at(self, place: Position) -> Cursor:
        """This cursor moved to a place; what was skipped before it is forgotten."""
        finished = tuple(r for r in self.finished if r[1] > place.seq)
        return replace(self, place=place, finished=finished, skipped=0, skipped_place=None)


class Cursors:
    """All cursors of a home, by folder. Thread-safe."""

    def __init__(self, home: Home, locks: Locks) -> None:
        self._home = home
        self._locks = locks
        self._files: dict[str, JsonFile] = {}
        self._ours: dict[str, Stamp] = {}

    def get(self, folder: str) -> Cursor | None:
        """None where there is none yet; raises BrokenFile when a person broke it."""
        with self._locks.hold("cursor", folder):
            file = self._file(folder)
            value = file.read()
            if file.broken is not None:
                raise file.broken
            return None if value is None else _from_json(file, value)

    def put(self, folder: str, cursor: Cursor) -> None:
        """Store durably; raises BrokenFile."""
        with self._locks.hold("cursor", folder):
            file = self._file(folder)
            file.write(_to_json(cursor))
            self._ours[folder] = stamp_of(file.path)

    def is_foreign(self, folder: str) -> bool:
        """Did another hand than ours write, or take away, the file that stands there? True once for each change."""
        with self._locks.hold("cursor", folder):
            stamp = stamp_of(self._file(folder).path)
            foreign = folder not in self._ours or self._ours[folder] != stamp
            self._ours[folder] = stamp
            return foreign

    def update(self, folder: str, **changes: Any) -> Cursor:
        """Change some fields of a group's cursor; writes nothing where nothing changes."""
        with self._locks.hold("cursor", folder):
            cursor = self.get(folder) or Cursor()
            changed = replace(cursor, **changes)
            if changed != cursor:
                self.put(folder, changed)
            return changed

    def _file(self, folder: str) -> JsonFile:
        if folder not in self._files:
            self._files[folder] = JsonFile(self._home.cursors / f"{check_folder(folder)}.json")
        return self._files[folder]


def _to_json(cursor: Cursor) -> dict[str, Any]:
    value = {"handed": cursor.handed, **asdict(cursor)}
    return {key: item for key, item in value.items() if item not in (None, (), 0) or key in ("handed", "done")}


def _from_json(file: JsonFile, value: dict[str, Any]) -> Cursor:
    """``handed`` is what a person edits; the place is only believed when it agrees."""
    try:
        handed, done = value["handed"], value.get("done", 0)
        place = _position(value.get("place")) or Position()
        if type(handed) is not int or type(done) is not int or handed < 0:
            raise TypeError
        found: dict[str, Any] = {key: value.get(key) for key in ("jid", "judged", "note")}
        said = value.get("said", ())
        found["said"] = (said,) if isinstance(said, str) else tuple(str(cause) for cause in said)
        for key in ("finished", "cancelled"):
            found[key] = tuple((int(first), int(through)) for first, through in value.get(key, ()))
        if retry := value.get("retry"):
            found["retry"] = Retry(int(retry["count"]), float(retry["not_before"]), retry.get("kept_through"))
        if reset := value.get("reset"):
            found["reset"] = (str(reset[0]), int(reset[1]))
        if place.seq != handed:
            return Cursor(place=Position(handed), done=done, **found)
        skipped, behind = int(value.get("skipped", 0)), _position(value.get("skipped_place"))
        return Cursor(place=place, done=done, skipped=skipped, skipped_place=behind, **found)
    except (LookupError, TypeError, ValueError, OverflowError):
        raise BrokenFile(file.path, 0, 'expected at least {"handed": NUMBER, "done": NUMBER}') from None


def _position(value: Any) -> Position | None:
    return None if value is None else Position(int(value["seq"]), int(value["segment"]), int(value["offset"]))
