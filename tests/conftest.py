"""The environment of every test."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from helping import takes_everything
from hypothesis import HealthCheck, settings

from quaymirror.http.helper import Helper

# A loaded machine makes no example wrong.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home directory, in which peers may leave files."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _signals_arrive() -> None:
    """Restore signals that are ignored, also for the processes that the test starts.

    They are in the background and under nohup, and after a test that ran the command in this process.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def _no_settings_of_the_developer(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Keep tests away from the credentials and settings of the developer."""
    for name in list(os.environ):
        if name.startswith(("QUAY", "DOCKER_", "REGISTRY_", "XDG_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)

    monkeypatch.setenv("HOME", str(home))
    # A test that names no server reaches none.
    monkeypatch.setenv("QUAYMIRROR_SERVER", "http://127.0.0.1:9")


@pytest.fixture(params=["this process", "helper"])
def receivers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process receive bodies, and once more its helper all of them."""
    if request.param == "helper":
        monkeypatch.setattr(Helper, "takes", takes_everything)
