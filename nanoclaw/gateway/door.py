"""The host's side of the doors to the model: where calls go (the API, or the offline model), and what was seen of
them."""

from __future__ import annotations

from typing import Any

from nanoclaw.gateway.gateway import Gateway
from nanoclaw.gateway.offline import OfflineModel
from nanoclaw.gateway.witness import Witness
from nanoclaw.stores.journal import Journal
from nanoclaw.stores.settings import Settings


class Door:
    """``gateway``, and ``witness`` of what passed through it. The offline model is started when it is first wanted."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._settings = settings
        self._journal = journal
        self._offline = OfflineModel()
        self._offline_url: str | None = None
        self.witness = Witness()
        self.gateway = Gateway(lambda: settings.environment, self._upstream, self._called)

    def stop(self) -> None:
        self.gateway.shutdown()
        if self._offline_url is not None:
            self._offline.stop()

    def _upstream(self) -> str | None:
        if not self._settings.config.offline:
            return None
        if self._offline_url is None:
            self._offline_url = self._offline.start()
        return self._offline_url

    def _called(self, run_id: str, kind: str, details: dict[str, Any]) -> None:
        if self.witness.saw(run_id, details):
            self._journal.event("model", run=run_id, **details)
