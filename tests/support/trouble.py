"""Runs against a failing server: waits take no time, and the result is always checked."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.lowlevel
import layouts
import pytest
from organizations import TAG, small_image

import quaymirror
from quaymirror import Options, ReferrerMode, Report, Selection
from quaymirror.errors import ExitCode
from quaymirror.events import Event, ignore
from quaymirror.http.retry import RetryPolicy
from quaymirror.http.timeouts import Timeouts
from quaymirror.testing import QuayServer, Registry, SourceManifest

QUICK = Timeouts(connect=0.5, headers=0.5, stall=0.5, total=1.0)
NOVA, GLANCE = f"kolla/nova:{TAG}", f"kolla/glance:{TAG}"


class Impatient:
    """A clock and a sleep that takes no time but advances the clock."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        # Every look takes a moment, so that nothing that waits for a time without sleeping waits for ever.
        self.now += 0.001
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time pass, and other tasks run."""
        self.now += seconds
        await anyio.lowlevel.checkpoint()

    def policy(self, **options: Any) -> RetryPolicy:
        """Return the policy that waits like this."""
        return RetryPolicy(clock=self, sleep=self.sleep, **options)


def two_images(nova: SourceManifest | None = None) -> Registry:
    """Return an organization of `nova`, for faults, and `glance`, without."""
    registry = Registry()
    registry.organization("kolla").repository("nova").push(TAG, nova or small_image("nova", 400_000))
    registry.organization("kolla").repository("glance").push(TAG, small_image("glance"))
    return registry


async def mirror(
    server: QuayServer | str, path: Path, observer: Callable[[Event], None] = ignore, **options: Any
) -> Report:
    """Mirror all of kolla, and check that the layout is complete and that messages are lines.

    Referrers are left out: faults are scripted by the number of a request.
    """
    url = server if isinstance(server, str) else server.url
    usual: dict[str, Any] = {
        "referrers": ReferrerMode.NONE,
        "retries": 3,
        "timeouts": QUICK,
        "retry": Impatient().policy(),
    }
    settings = Options.of(server=url, **(usual | options))
    report = await quaymirror.sync(Selection("kolla", "*", TAG), path, settings, observer=observer)
    if path.exists() and report.exit_code is not ExitCode.DAMAGED:
        layouts.check(path)

    assert all(message.isprintable() for message in messages(report)), messages(report)
    return report


def messages(report: Report) -> list[str]:
    """Return everything that went wrong."""
    errors = [*(outcome.error for outcome in report.outcomes), *(check.error for check in report.failed_checks)]
    return [error.message for error in (*errors, report.fatal) if error is not None]


def resolving(monkeypatch: pytest.MonkeyPatch, answers: dict[str, list[tuple[str, int]] | OSError]) -> None:
    """Let names mean these addresses."""
    honest = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        answer = answers.get(str(host))
        if answer is None:
            return honest(host, port, *args, **options)

        if isinstance(answer, OSError):
            raise answer

        return [entry for address, at in answer for entry in honest(address, at, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
