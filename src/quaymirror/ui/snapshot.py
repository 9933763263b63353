"""What another process has to know of a run to show it: the state, the meters and the rates as JSON, and back.

A snapshot is as small as the state is. Its times are of the clock of the run, which counts from the start of the
machine: `age` is how far the other process has to move them.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import QuaymirrorError
from ..events import HostPaced, RunFinished, RunStarted, Status
from ..oci import Digest
from ..progress.meters import Meter, Meters, Progress
from .descriptions import ImageFailure
from .jsonl import members
from .state import Pause, Rates, RunState
from .validation import built, expect, expect_printable, field_types

VERSION = 2
# More images in work than any run has.
_MOST_WORK = 10_000
# What is no plain value in the state, and is written by itself.
_OTHERS = {"clock", "run", "finished", "images", "paused", "paces", "failures", "last_failures", "_work"}


class SnapshotError(ValueError):
    """What was read is no snapshot of this version."""


def take_snapshot(state: RunState, meters: Progress, rates: Rates, *, now: float) -> str:
    """Return the snapshot of this moment; `now` is POSIX time."""
    plain = {part.name: getattr(state, part.name) for part in fields(RunState) if part.name not in _OTHERS}
    document = {
        "snapshot_version": VERSION,
        "time": now,
        "clock": state.clock(),
        "state": {name: list(value) if isinstance(value, deque) else value for name, value in plain.items()},
        "run": None if state.run is None else members(state.run),
        "finished": None if state.finished is None else members(state.finished),
        "images": {status.value: state.images[status] for status in Status},
        "paused": [members(pause) for pause in state.paused.values()],
        "paces": [members(pace) for pace in state.paces.values()],
        "failures": [members(failure) for failure in state.failures],
        "last_failures": [members(failure) for failure in state.last_failures],
        "work": state.work_sums(),
        "fetched_bytes": meters.fetched_bytes,
        "reused_bytes": meters.reused_bytes,
        "in_flight": [[meter.label, str(meter.digest), meter.total, meter.done] for meter in meters.in_flight],
        "rates": rates.summary(state),
    }
    return json.dumps(document, separators=(",", ":"))


@dataclass(slots=True)
class Snapshot:
    """A run as it was at `time` (POSIX), ready to be drawn. `clock` is the time of its own clock then."""

    state: RunState
    meters: Meters
    rates: FixedRates
    time: float
    clock: float


class FixedRates(Rates):
    """Rates as somebody else has seen them."""

    def __init__(self, meters: Meters, summary: Mapping[str, Any]) -> None:
        super().__init__(meters)
        self._summary = summary

    @property
    def current(self) -> float | None:
        """Bytes a second over the last few seconds."""
        return self._number("current")

    @property
    def steady(self) -> float | None:
        """Bytes a second over the last minute."""
        return self._number("steady")

    @property
    def history(self) -> tuple[float, ...]:
        """Bytes a second, a value for each five seconds."""
        return tuple(float(value) for value in self._summary["history"])

    def eta(self, state: RunState) -> float | None:
        """Return the seconds that were left."""
        return self._number("eta")

    def _number(self, name: str) -> float | None:
        value = self._summary[name]
        return None if value is None else float(value)


def read_snapshot(text: str | bytes) -> Snapshot:
    """Return what `text` holds.

    :raises SnapshotError: when it is no snapshot, or one of another version.
    """
    try:
        document = json.loads(text)
        if document["snapshot_version"] != VERSION:
            raise SnapshotError(f"version {document['snapshot_version']}")

        state = _state(document)
        meters = _StillMeters(document)
        times = [document["time"], document["clock"]]
        expect(times, list[float])
        return Snapshot(state, meters, _rates(meters, document["rates"]), *times)
    except (
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        RecursionError,
        QuaymirrorError,
    ) as error:
        raise SnapshotError(f"no snapshot of a run: {type(error).__name__}") from None


def _rates(meters: Meters, summary: dict[str, Any]) -> FixedRates:
    expect(summary["history"], list[float])
    expect([summary[name] for name in ("current", "steady", "eta")], list[float | None])
    return FixedRates(meters, summary)


def _state(document: Mapping[str, Any]) -> RunState:
    clock, types = float(document["clock"]), field_types(RunState)
    state = RunState(lambda: clock)
    # What is in a state is safe to print as it is; of a file, nobody knows.
    expect_printable([document[part] for part in ("state", "paused", "paces", "failures", "last_failures")])
    for name, value in document["state"].items():
        expect(value, None if name in _OTHERS else types.get(name))
        known = getattr(state, name)
        if isinstance(known, Counter):
            known.update(value)
        elif isinstance(known, deque):
            known.extend(value)
        else:
            setattr(state, name, value)

    run, finished = document["run"], document["finished"]
    expect(document["images"], dict[str, int])
    expect(document["work"], list[int])
    state.run = None if run is None else built(RunStarted, run)
    state.finished = None if finished is None else _finished(finished["elapsed"], finished["exit_code"])
    state.images.update({Status(name): count for name, count in document["images"].items()})
    state.paused = {pause["host"]: built(Pause, pause) for pause in document["paused"]}
    paces = [built(HostPaced, pace) for pace in document["paces"]]
    state.paces = {(pace.host, pace.kind): pace for pace in paces}
    state.failures = [built(ImageFailure, failure) for failure in document["failures"]]
    state.last_failures.extend(built(ImageFailure, failure) for failure in document["last_failures"])
    state.restore_work(*(min(count, _MOST_WORK) for count in document["work"][:2]), *document["work"][2:])
    return state


def _finished(elapsed: Any, exit_code: Any) -> RunFinished:
    expect(elapsed, float)
    expect(exit_code, int)
    return RunFinished(elapsed, exit_code)


class _StillMeters(Meters):
    """Transfers as they were."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        super().__init__()
        expect_printable(document["in_flight"])
        for label, digest, total, done in document["in_flight"]:
            meter = Meter(str(label), Digest.parse(digest), total, done)
            self._open[id(meter)] = meter

        self.fetched_bytes, self.reused_bytes = document["fetched_bytes"], document["reused_bytes"]
        amounts = [number for meter in self.in_flight for number in (meter.total, meter.done)]
        expect([self.fetched_bytes, self.reused_bytes, *amounts], list[int])
