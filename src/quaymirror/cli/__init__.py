"""The command line: words into settings, an observer, an exit code. No logic."""
