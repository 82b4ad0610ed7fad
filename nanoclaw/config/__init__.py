"""Strict reading of what people write: config.toml, groups/<folder>.toml, .env and the mount allowlist.

Standard library only, so that doctor can speak before anything is installed.
"""
