"""What every test may rely on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home directory that nobody lives in: peers may leave things there."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Keep tests away from the credentials and settings of whoever runs them."""
    for name in list(os.environ):
        if name.startswith(("QUAY", "DOCKER_", "REGISTRY_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

    monkeypatch.setenv("HOME", str(home))
    # Whatever forgets to name a server reaches none.
    monkeypatch.setenv("QUAYMIRROR_SERVER", "http://127.0.0.1:9")
