"""Requests of agents and scripts: files in, answers out (SPEC 6)."""
