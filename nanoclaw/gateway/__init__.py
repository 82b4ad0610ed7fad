"""The only door from a container to the model, and the offline model behind it."""

from nanoclaw.gateway.gateway import Gateway, socket_path_for
from nanoclaw.gateway.placeholder import hash_placeholder, new_placeholder

__all__ = ["Gateway", "hash_placeholder", "new_placeholder", "socket_path_for"]
