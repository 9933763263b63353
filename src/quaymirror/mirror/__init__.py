"""A run: settings in, a report out, and everything between them wired together."""
