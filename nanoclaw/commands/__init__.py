"""One module a command: what the command line asks for. Each imports what it needs when it is called."""
