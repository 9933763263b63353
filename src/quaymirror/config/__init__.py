"""The configuration file: its jobs, and the place of every mistake. Its options are declared in settings."""
