"""Runs to look at: fixed states for golden frames, and references to make events of."""

from __future__ import annotations

from contextlib import ExitStack

from quaymirror import events, oci
from quaymirror.errors import Failure, NotFound, Phase, QuaymirrorError, ReadInterrupted
from quaymirror.progress.meters import Meters
from quaymirror.progress.rates import Rates
from quaymirror.progress.run import RunProgress

MIB = 1024 * 1024


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def image(name: str, tag: str = "2025.1-debian") -> oci.Reference:
    repository = oci.Repository("quay.io", f"kolla/{name}")
    return oci.Reference(repository, tag, oci.Digest.of(name.encode()))


def run_started(**changes: object) -> events.RunStarted:
    fields: dict[str, object] = {
        "run_id": "20261123-r7",
        "server": "https://quay.io",
        "organization": "kolla",
        "glob": "*",
        "tag": "2025.1-debian",
        "target": "/srv/mirror",
        "started": 1_790_000_000.0,
    }
    return events.RunStarted(**(fields | changes))  # type: ignore[arg-type]


def finished(
    reference: oci.Reference,
    status: events.Status = events.Status.MIRRORED,
    error: QuaymirrorError | None = None,
    fetched: int = 0,
) -> events.ImageFinished:
    failure = None if error is None else Failure.of(error)
    return events.ImageFinished(events.Outcome(reference, status, fetched, 3 * fetched, 12.3, None, failure))


class Scene:
    """A run in its middle, with its clock, its meters and the transfers that are open until `close`."""

    def __init__(self, *, transfers: int = 16, images: int = 371) -> None:
        self.clock = Clock()
        self.meters = Meters()
        self.progress = RunProgress(self.clock, self.meters)
        self.rates = Rates()
        self._open = ExitStack()
        if images:
            self._tell(images)
            self._sample()

        self._transfers(transfers)

    def transfer(self, label: str, total: int, done: int) -> None:
        """Show a transfer until `close`."""
        meter = self._open.enter_context(
            self.meters.transfer(label, oci.Digest.of(label.encode(errors="replace")), total)
        )
        meter.done = done

    def close(self) -> None:
        self._open.close()

    def _tell(self, images: int) -> None:
        self.progress.apply(run_started())
        for number in range(1, 6):
            self.progress.apply(events.PageListed(number, 100 if number < 5 else 12, 90 if number < 5 else 11))

        self.progress.apply(events.ListingFinished(5, complete=True))
        for number in range(images):
            self._one(number)

        self.progress.apply(events.RetryScheduled("blob", 1, 2.0, "reset", "cdn02.quay.io"))
        self.progress.apply(events.HostPaused("cdn01.quay.io", 790.0, "429 Too Many Requests"))
        self.progress.apply(events.HostPaced("cdn01.quay.io", "blobs", 26, None, 3))
        self.progress.apply(events.HostPaced("quay.io", "api", 4, 4.81, 12))
        self.progress.apply(events.HostPaced("quay.io", "manifests", 22, None, 0))
        self.progress.apply(events.Notice("12 repositories have no tag at all"))

    def _one(self, number: int) -> None:
        reference = image(f"service-{number:03}")
        if number < 9:
            self.progress.apply(events.CandidateSkipped(f"kolla/old-{number}", "no such tag"))
            return

        self.progress.apply(events.CandidateChecked(reference.repository.name, 1))
        self.progress.apply(events.TagChecked(reference))
        self.progress.apply(events.ImageQueued(reference))
        if number < 340:
            self.progress.apply(events.ImageStarted(reference))

        if number < 340:
            self.progress.apply(events.ImagePlanned(reference, 12, 400 * MIB, 60 * MIB))

        if number < 324:
            self.progress.apply(self._outcome(reference, number))

    def _outcome(self, reference: oci.Reference, number: int) -> events.ImageFinished:
        if number == 100:
            error: QuaymirrorError = NotFound("manifest sha256:6c3c… is gone", phase=Phase.RESOLVE)
            return finished(reference, events.Status.FAILED, error)

        if number == 200:
            late = ReadInterrupted("layer 7a1b… ended after 12 of 48 MiB, six times", phase=Phase.FETCH)
            return finished(reference, events.Status.FAILED, late)

        status = events.Status.UNCHANGED if number % 8 == 0 else events.Status.MIRRORED
        return finished(reference, status, fetched=40 * MIB if status is events.Status.MIRRORED else 0)

    def _sample(self) -> None:
        self.progress.bytes_reused = 28 * 1024 * MIB
        for second in range(754):
            self.clock.now = 1_000.0 + second
            self.meters.fetched_bytes += (12 + second * 7 % 23 + (second // 40) % 5 * 6) * MIB // 2
            self.rates.sample(self.clock.now, self.meters.fetched_bytes)

    def _transfers(self, count: int) -> None:
        for number in range(count):
            reference = image(f"service-{324 + number}")
            size = (3 + number * 37 % 97) * MIB
            self.transfer(reference.name, size, size * (number * 29 % 100) // 100)
