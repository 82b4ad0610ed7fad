"""NanoClaw: a personal assistant host. The design is in README.md beside this file."""

__version__ = "0.1.0"
