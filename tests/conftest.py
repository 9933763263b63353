"""What every test may rely on."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests away from the credentials and settings of whoever runs them."""
    for name in list(os.environ):
        if name.startswith(("QUAY", "DOCKER_", "REGISTRY_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

    monkeypatch.setenv("HOME", "/nonexistent")
