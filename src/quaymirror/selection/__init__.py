"""The user's language: what to mirror, and lock files."""
