"""Quay's REST API, version 1: what an organization holds, and which images were selected of it."""
