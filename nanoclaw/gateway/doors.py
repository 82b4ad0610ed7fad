"""Whom the gateway lets in, and with which credential a call goes on.

The credential is read afresh for each call and leaves this module only as a header of the call upstream: no error,
event or repr holds it.
"""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from email.message import Message
from typing import Any

from nanoclaw.errors import UserError
from nanoclaw.gateway.accept import Acceptor
from nanoclaw.gateway.upstream import Pool, Upstream, parse_base_url
from nanoclaw.models import Credential, Environment

OAUTH_BETA = "oauth-2025-04-20"

HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"}
    | {"transfer-encoding", "upgrade", "content-length"}
)
_OURS = frozenset(("host", "x-api-key", "authorization", "accept-encoding", "anthropic-beta", "cookie", "expect"))
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class Refusal(Exception):
    """An answer that the gateway gives itself; ``reason`` is for the host's events."""

    def __init__(self, status: int, reason: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.reason = reason


class Door:
    """One run's side of the gateway: whom to let in, and what its calls are doing."""

    def __init__(self, run_id: str, placeholder_hash: str) -> None:
        self.run_id = run_id
        self.placeholder_hash = placeholder_hash
        self.lock = threading.Lock()  # guards the three below
        self.closed = False
        self.connections: set[socket.socket] = set()
        self.body_bytes = 0


class Services:
    """What all doors share: where calls go, with which credential, and who hears of them."""

    def __init__(
        self,
        environment: Callable[[], Environment],
        upstream_override: Callable[[], str | None],
        on_event: Callable[[str, str, dict[str, Any]], None],
        acceptor: Acceptor,
    ) -> None:
        self.environment = environment
        self.upstream_override = upstream_override
        self.on_event = on_event
        self.acceptor = acceptor
        self.pool = Pool()

    def destination(self) -> tuple[Upstream, Credential | None]:
        """Where this call goes, read afresh. An override (the offline model) never gets the credential."""
        override = self.upstream_override()
        if override is not None:
            return parse_base_url(override), None
        try:
            environment = self.environment()
        except UserError:
            raise Refusal(401, "no_credential", "NanoClaw: .env on the host cannot be read") from None
        credential = environment.credential
        if credential is None or not credential.secret:
            raise Refusal(401, "no_credential", "NanoClaw: no credential in .env on the host")
        if not (credential.secret.isascii() and credential.secret.isprintable()):
            raise Refusal(
                401, "no_credential", "NanoClaw: the credential in .env holds characters that no credential has"
            )
        return parse_base_url(environment.base_url), credential


def request_headers(offered: Message, upstream: Upstream, credential: Credential | None) -> list[tuple[str, str]]:
    """The headers of the call upstream: the container's, without what is hop-by-hop or ours to say, and ours."""
    named = {name.strip().lower() for value in offered.get_all("connection", []) for name in value.split(",")}
    headers = [
        (name, value)
        for name, value in offered.items()
        if name.lower() not in HOP_BY_HOP | _OURS | named and _NAME.fullmatch(name) and not _CONTROL.search(value)
    ]
    betas = [b.strip() for value in offered.get_all("anthropic-beta", []) for b in value.split(",")]
    betas = [beta for beta in dict.fromkeys(betas) if beta and beta != OAUTH_BETA and not _CONTROL.search(beta)]
    headers += [("Host", upstream.host_header), ("Accept-Encoding", "identity")]
    if credential is not None and credential.kind == "oauth_token":
        betas.append(OAUTH_BETA)
        headers.append(("Authorization", f"Bearer {credential.secret}"))
    elif credential is not None:
        headers.append(("x-api-key", credential.secret))
    return [*headers, ("anthropic-beta", ",".join(betas))] if betas else headers
