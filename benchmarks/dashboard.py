"""What the dashboard costs: seconds of CPU for a frame, and for the events of 3,000 images.

python benchmarks/dashboard.py
"""

from __future__ import annotations

import contextlib
import os
import pty
import threading
import time

from rich.console import Console

from quaymirror import events
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.ui.dashboard import Screen
from quaymirror.ui.state import Rates, RunState

_IMAGES = 3_000
_TRANSFERS = 32
_FRAMES = 200
_HERTZ = 4


def main() -> None:
    """Tell the cost at several sizes of the terminal."""
    state, meters = RunState(), events.Meters()
    story = tell_a_story()
    began = time.process_time()
    for event in story:
        state.apply(event)

    print(f"{len(story):,} events of {_IMAGES:,} images: {time.process_time() - began:.3f} s")
    with contextlib.ExitStack() as stack:
        for number in range(_TRANSFERS):
            label, digest = f"kolla/image-{number}:2025.1", Digest.of(b"%d" % number)
            stack.enter_context(meters.transfer(label, digest, 50_000_000 + number)).done = 10_000_000

        for size in ((80, 24), (200, 50)):
            seconds = frame_seconds(state, meters, size)
            print(f"{size[0]}x{size[1]}: {1000 * seconds:.2f} ms a frame, {100 * _HERTZ * seconds:.2f} % of a core")


def frame_seconds(state: RunState, meters: events.Meters, size: tuple[int, int]) -> float:
    """Return the CPU seconds of one frame on a terminal that somebody reads."""
    ours, theirs = pty.openpty()
    reader = threading.Thread(target=drain, args=(ours,), daemon=True)
    reader.start()
    with os.fdopen(theirs, "w") as file:
        rates = Rates(meters)
        with Screen(Console(file=file, force_terminal=True, width=size[0], height=size[1])) as screen:
            began = time.thread_time()
            for number in range(_FRAMES):
                meters.fetched_bytes += 1_000_000
                rates.sample()
                screen.show(state, meters, rates, time.monotonic() + number)

            return (time.thread_time() - began) / _FRAMES


def drain(descriptor: int) -> None:
    """Read until nobody writes any more."""
    with contextlib.suppress(OSError):
        while os.read(descriptor, 65536):
            pass


def tell_a_story() -> list[events.Event]:
    """Return the events of a run when two thirds of it are done."""
    told: list[events.Event] = [
        events.RunStarted("6fb1c0de", "quay.io", "kolla", "*", "2025.1", "/srv/mirror", time.time()),
        events.PageListed(1, _IMAGES, _IMAGES),
        events.ListingFinished(1, complete=True),
    ]
    for number in range(_IMAGES):
        reference = Reference(Repository("quay.io", f"kolla/image-{number}"), "2025.1", Digest.of(b"%d" % number))
        told += [
            events.CandidateChecked(reference.repository.name, 1),
            events.TagChecked(reference),
            events.ImageQueued(reference),
        ]
        if number < _IMAGES * 2 // 3:
            told += [events.ImageStarted(reference), events.ImagePlanned(reference, 12, 400_000_000, 60_000_000)]
            outcome = events.Outcome(reference, events.Status.MIRRORED, 60_000_000, 340_000_000, 9.0)
            told += [events.BlobFinished(Digest.of(b"%d" % number), 60_000_000), events.ImageFinished(outcome)]

    return told


if __name__ == "__main__":
    main()
