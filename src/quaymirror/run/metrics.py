"""Metrics of runs for Prometheus, as the textfile collector of node_exporter reads them. The door to its client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from ..errors import StoreError
from ..events import Status
from .report import Report

_LABELS = ("target", "job")
_LAST_SUCCESS = "quaymirror_last_success_timestamp_seconds"


def write_metrics(file: Path, runs: Sequence[tuple[Report, int]]) -> None:
    """Write the metrics of `runs`, each with its exit code, in place of what is in `file`.

    When a run failed, the time of the last one that did not is kept from there.

    :raises StoreError: when it can't be written.
    """
    registry = CollectorRegistry()
    metrics = _Metrics(registry)
    earlier = _earlier(file)
    for report, code in runs:
        metrics.add(report, code, earlier)

    try:
        write_to_textfile(str(file), registry)
    except OSError as error:
        raise StoreError(f"--metrics-textfile {file}: {error.strerror}") from None


class _Metrics:
    """One gauge for each number: a run that has ended does not count on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"quaymirror_{name}", words, (*_LABELS, *labels), registry=registry)

        self._started = gauge("run_started_timestamp_seconds", "When the last run began.")
        self._duration = gauge("run_duration_seconds", "How long the last run took.")
        self._code = gauge("run_exit_code", "The exit code of the last run; 0 is success.")
        self._success = gauge("last_success_timestamp_seconds", "When the last run that succeeded ended.")
        self._complete = gauge("run_complete", "Whether the last run found and treated everything selected.")
        self._images = gauge("images", "Images of the last run by what became of them.", "status")
        self._fetched = gauge("fetched_bytes", "Bytes that the last run fetched.")
        self._reused = gauge("reused_bytes", "Bytes that images of the last run needed and were there.")
        self._retries = gauge("retries", "How often the last run tried again.", "host")
        self._paused = gauge("paused_seconds", "How long hosts asked the last run for patience.", "host")

    def add(self, report: Report, code: int, earlier: Mapping[tuple[str, ...], float]) -> None:
        labels = (report.target, ",".join(report.jobs))
        self._started.labels(*labels).set(report.started)
        self._duration.labels(*labels).set(round(report.elapsed, 3))
        self._code.labels(*labels).set(code)
        self._complete.labels(*labels).set(int(report.complete))
        self._fetched.labels(*labels).set(report.bytes_fetched)
        self._reused.labels(*labels).set(sum(outcome.bytes_reused for outcome in report.outcomes))
        for status in Status:
            self._images.labels(*labels, status.value).set(report.counts[status])

        for host, trouble in report.hosts.items():
            self._retries.labels(*labels, host).set(trouble.retries)
            self._paused.labels(*labels, host).set(round(trouble.paused_s, 3))

        succeeded = report.started + report.elapsed if code == 0 else earlier.get(labels)
        if succeeded is not None:
            self._success.labels(*labels).set(succeeded)


def _earlier(file: Path) -> dict[tuple[str, ...], float]:
    """Return the time of the last success by labels, as far as `file` tells."""
    try:
        families = list(text_string_to_metric_families(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}

    samples = (sample for family in families if family.name == _LAST_SUCCESS for sample in family.samples)
    return {tuple(sample.labels.get(label, "") for label in _LABELS): sample.value for sample in samples}
