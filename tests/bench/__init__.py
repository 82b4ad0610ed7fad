"""The published figures (issue 2): ours beside this machine's own baseline. ``python3 nanoclaw.py bench [NAME…]``."""
