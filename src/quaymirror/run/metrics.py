"""Metrics of runs for the textfile collector of Prometheus' node_exporter. The only importer of prometheus_client."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from ..__about__ import __version__
from ..errors import StoreError
from ..events import Status
from ..store.fsops import replace_file
from ..store.lock import turn
from .report import Report

_LABELS = ("target", "mirror_job")
# The label of version 0.1, which Prometheus itself uses for the scraped job.
_EARLIER = {"job": "mirror_job"}
_PREFIX = "quaymirror_"
_STARTED = "run_started_timestamp_seconds"
# A job that has not run for that long has another name, or does not exist any more.
_KEPT_SECONDS = 90 * 86400.0
_LAST_SUCCESS = "last_success_timestamp_seconds"
# Gauges by name: their help, and their own labels.
_GAUGES = {
    _STARTED: ("Start of the last run.",),
    "run_duration_seconds": ("Duration of the last run.",),
    "run_exit_code": ("Exit code of the last run; 0 is success.",),
    _LAST_SUCCESS: ("End of the last successful run, 0 before the first one.",),
    "run_complete": ("1 if the last run found and processed everything selected.",),
    "images": ("Images of the last run by outcome.", "status"),
    "changed_images": ("Images that were new, had moved or were missing at the source in the last run.", "change"),
    "fetched_bytes": ("Bytes that the last run fetched.",),
    "reused_bytes": ("Bytes that images of the last run needed and did not have to fetch.",),
    "target_images": ("Images in the target.",),
    "target_bytes": ("Bytes of everything that images in the target need.",),
    "target_free_bytes": ("Free bytes of the target's disk.",),
    "retries": ("Retries of the last run.", "host"),
    "paused_seconds": ("Pauses that hosts asked for during the last run.", "host"),
}


def write_metrics(file: Path, runs: Sequence[tuple[Report, int]]) -> None:
    """Put the metrics of `runs`, each with its exit code, into `file`; those of other jobs and targets stay there.

    Those of jobs whose last run began more than 90 days before are dropped. After a failed run the time of the last
    success is kept.

    :raises StoreError: if it can't be written.
    """
    try:
        # Several processes may write to the file.
        with turn(file.with_name(f".{file.name}.lock")):
            metrics = _Metrics({_labels(report) for report, _ in runs})
            earlier = list(_samples(file))
            stale = _stale(earlier, max((report.started for report, _ in runs), default=0.0))
            for sample in earlier:
                if _key(sample) not in stale:
                    metrics.keep(sample)

            for report, code in runs:
                metrics.add(report, code)

            replace_file(file, generate_latest(metrics.registry), sync=False, suffix=str(os.getpid()))
    except StoreError as error:
        raise error.replace(f"--metrics-textfile: {error.message}") from None


class _Metrics:
    """Gauges, because the numbers of a run that has ended do not count on."""

    def __init__(self, replaced: Collection[tuple[str, ...]]) -> None:
        self._replaced = replaced
        self.registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(f"{_PREFIX}{name}", text, (*_LABELS, *labels), registry=self.registry)
            for name, (text, *labels) in _GAUGES.items()
        }
        self._successes: dict[tuple[str, ...], float] = {}
        build = Gauge(f"{_PREFIX}build_info", "The version of quaymirror.", ("version",), registry=self.registry)
        build.labels(__version__).set(1)

    def keep(self, sample: Sample) -> None:
        """Take over a sample of an earlier run, unless its job and target are replaced."""
        name, labels = sample.name.removeprefix(_PREFIX), _renamed(sample)
        if name not in _GAUGES or {*labels} != {*_LABELS, *_GAUGES[name][1:]}:
            return

        key = _key(sample)
        if name == _LAST_SUCCESS:
            self._successes[key] = sample.value

        if key not in self._replaced:
            self._gauges[name].labels(**labels).set(sample.value)

    def add(self, report: Report, code: int) -> None:
        """Record the samples of `report`."""
        labels = _labels(report)

        def record(name: str, value: float, *more: str) -> None:
            self._gauges[name].labels(*labels, *more).set(value)

        record(_STARTED, report.started)
        record("run_duration_seconds", round(report.elapsed, 3))
        record("run_exit_code", code)
        record("run_complete", int(report.complete))
        record("fetched_bytes", report.bytes_fetched)
        record("reused_bytes", report.bytes_reused)
        for status in Status:
            record("images", report.counts[status], status.value)

        if (changes := report.change_counts) is not None:
            for change in ("new", "moved", "missing"):
                record("changed_images", getattr(changes, change), change)

        if (usage := report.usage) is not None:
            record("target_images", usage.images)
            record("target_bytes", usage.bytes)
            if usage.free_bytes is not None:
                record("target_free_bytes", usage.free_bytes)

        for name, host in report.hosts.items():
            record("retries", host.retries, name)
            record("paused_seconds", round(host.paused_s, 3), name)

        succeeded = report.started + report.elapsed if code == 0 else self._successes.get(labels, 0.0)
        record(_LAST_SUCCESS, succeeded)


def _labels(report: Report) -> tuple[str, str]:
    return report.target, ",".join(report.jobs)


def _renamed(sample: Sample) -> dict[str, str]:
    return {_EARLIER.get(label, label): value for label, value in sample.labels.items()}


def _key(sample: Sample) -> tuple[str, ...]:
    """Return the target and the job of a sample, "" for what it lacks."""
    labels = _renamed(sample)
    return tuple(labels.get(label, "") for label in _LABELS)


def _stale(samples: Iterable[Sample], now: float) -> set[tuple[str, ...]]:
    """Return the targets and jobs whose last run is too long ago."""
    starts = {_key(sample): sample.value for sample in samples if sample.name == _PREFIX + _STARTED}
    return {key for key, started in starts.items() if started < now - _KEPT_SECONDS}


def _samples(file: Path) -> Iterator[Sample]:
    """Yield the samples in `file`, none if it can't be read."""
    try:
        families = list(text_string_to_metric_families(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return

    for family in families:
        yield from family.samples
