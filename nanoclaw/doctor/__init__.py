"""What is wrong with this installation, and the command that cures it. Standard library only; it changes nothing."""
