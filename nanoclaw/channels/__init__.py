"""Channels: adapters for messaging platforms, one small file each. README.md in this directory is their contract."""
