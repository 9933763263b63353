"""How `quaymirror watch` finds a run: a snapshot of it in the target's own directory, written anew every second."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import anyio
import anyio.to_thread

from ..progress.meters import Meters
from ..ui.snapshot import take_snapshot
from ..ui.state import Rates, RunState

FILE_NAME = "live.json"


class ProgressFile:
    """What has to run beside the run. It writes into `home` once the run has begun, never before."""

    PERIOD_SECONDS = 1.0

    def __init__(self, home: Path | None, state: RunState, meters: Meters) -> None:
        self._home = home
        self._state = state
        self._meters = meters
        self._rates = Rates(meters)
        self._has_ended = False

    async def run(self) -> None:
        """Write a snapshot every second until this is cancelled."""
        while True:
            self._rates.sample()
            await self.write()
            await anyio.sleep(self.PERIOD_SECONDS)

    async def write(self) -> None:
        """Write a snapshot; after that of the end no other one, since another run may follow on the same target.

        It is nobody's loss if that fails: what matters, the run itself is told of.
        """
        run = self._state.run
        if self._home is not None and run is not None and not run.dry_run and not self._has_ended:
            self._has_ended = self._state.finished is not None
            text = take_snapshot(self._state, self._meters, self._rates, now=time.time())
            await anyio.to_thread.run_sync(_write, self._home, text)


def _write(home: Path, text: str) -> None:
    partial = home / f".{FILE_NAME}.{os.getpid()}"
    with suppress(OSError):
        partial.write_text(text, encoding="utf-8")
        partial.replace(home / FILE_NAME)
