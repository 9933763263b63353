"""The file by which `quaymirror watch` finds a run: a snapshot in the target's state directory."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from ..errors import StoreError
from ..progress.images import received_by_image
from ..progress.rates import Rates
from ..progress.run import RunProgress
from ..run.past_runs import PROGRESS_FILE
from ..store.fsops import replace_file
from ..ui.snapshot import take_snapshot


class ProgressFile:
    """The progress file of a run in `directory`, which is written once the run has begun."""

    PERIOD_SECONDS = 1.0

    def __init__(self, directory: Path | None, progress: RunProgress) -> None:
        self._directory = directory
        self._progress = progress
        self._rates = Rates()
        self._has_ended = False
        self._place: tuple[int, int] | None = None

    async def run(self) -> None:
        """Write a snapshot every second until this is cancelled."""
        while True:
            now, meters = self._progress.clock(), self._progress.meters
            self._rates.sample(now, meters.fetched_bytes)
            self._rates.sample_images(now, received_by_image(self._progress.work, meters.in_flight))
            await self.write()
            await anyio.sleep(self.PERIOD_SECONDS)

    async def write(self) -> None:
        """Write a snapshot, but none after that of the end, since another run may follow on the same target.

        Errors are ignored: the run itself reports a failing disk.
        """
        progress = self._progress
        if self._directory is None or not self._is_in_place(self._directory):
            return  # another directory may have replaced the mirror

        if progress.run is None or progress.is_dry_run or self._has_ended:
            return

        self._has_ended = progress.finished is not None
        text = take_snapshot(progress, self._rates.speeds, now=time.time())
        write = partial(
            replace_file, self._directory / PROGRESS_FILE, text.encode(), sync=False, suffix=str(os.getpid())
        )
        with suppress(StoreError):
            await anyio.to_thread.run_sync(write)

    def _is_in_place(self, directory: Path) -> bool:
        try:
            status = directory.stat()
        except OSError:
            return False

        place = (status.st_dev, status.st_ino)
        self._place = self._place or place
        return place == self._place
