"""What holds back every run at the moment: ``state/held.json``, for status, doctor, and the next host, which shall not
knock at a model that asked for patience. No file: nothing does."""

from __future__ import annotations

import logging
from datetime import datetime

from nanoclaw.files.atomic import BrokenFile, read_json, why_unreadable, write_json
from nanoclaw.models import Held
from nanoclaw.moments import utc
from nanoclaw.paths import Home

log = logging.getLogger("nanoclaw")


class HeldFile:
    """Written by the one that knows, ``conditions.Conditions``."""

    def __init__(self, home: Home) -> None:
        self._path = home.state / "held.json"

    def write(self, held: Held | None) -> None:
        """Raises OSError."""
        if held is None:
            self._path.unlink(missing_ok=True)
            return
        until = None if held.until is None else utc(held.until)
        value = {"cause": held.cause, "detail": held.detail, "since": utc(held.since), "until": until}
        write_json(self._path, {**value, "account": held.account})

    def read(self) -> Held | None:
        """What an earlier host left; None where that is nothing, or nothing that can be read."""
        try:
            value = read_json(self._path)
            if value is None:
                return None
            until = None if value["until"] is None else datetime.fromisoformat(value["until"]).timestamp()
            since = datetime.fromisoformat(value["since"]).timestamp()
            return Held(str(value["cause"]), str(value["detail"]), since, until, str(value.get("account", "")))
        except (BrokenFile, OSError, LookupError, TypeError, ValueError, OverflowError) as error:
            log.warning("held.json not used: %s", why_unreadable(error))
            return None
