"""Files, locks and crash safety: how the host reads and writes, and nothing of what it writes about."""
