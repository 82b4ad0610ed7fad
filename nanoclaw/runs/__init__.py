"""Runs: one container's life, from the claim on disk to the verdict."""
