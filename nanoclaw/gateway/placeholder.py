"""The placeholder: what a container holds instead of the credential. It opens this run's door and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Literal

_PREFIX = {"api_key": "sk-ant-api03", "oauth_token": "sk-ant-oat01"}


def new_placeholder(kind: Literal["api_key", "oauth_token"]) -> str:
    """A fresh placeholder that looks like a credential of ``kind`` to the agent's CLI, and like none to a person."""
    return f"{_PREFIX[kind]}-nanoclaw-placeholder-{secrets.token_urlsafe(32)}"


def hash_placeholder(placeholder: str) -> str:
    """What may be kept of a placeholder on disk: its sha256 in hex."""
    return hashlib.sha256(placeholder.encode("utf-8", "surrogateescape")).hexdigest()


def matches(offered: str, placeholder_hash: str) -> bool:
    """Whether ``offered`` is the placeholder with this hash; takes the same time either way."""
    return hmac.compare_digest(hash_placeholder(offered), placeholder_hash)
