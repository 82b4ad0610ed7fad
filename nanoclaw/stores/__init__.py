"""What the host knows, one module a kind of file. The state table in ../README.md is their contract."""
