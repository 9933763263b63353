"""Credentials, auth files, credential helpers and token services."""
