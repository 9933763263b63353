"""Quay's REST API as a catalog."""
