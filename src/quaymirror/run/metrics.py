"""Metrics of runs for the textfile collector of Prometheus' node_exporter. The only importer of prometheus_client."""

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
    """Replace `file` with the metrics of `runs`, each with its exit code.

    After a failed run the time of the last success is kept.

    :raises StoreError: if it can't be written.
    """
    registry = CollectorRegistry()
    metrics = _Metrics(registry)
    earlier = _last_successes(file)
    for report, code in runs:
        metrics.add(report, code, earlier)

    try:
        write_to_textfile(str(file), registry)
    except OSError as error:
        raise StoreError(f"--metrics-textfile {file}: {error.strerror}") from None


class _Metrics:
    """One gauge per number, because a run that has ended does not count on."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, words: str, *labels: str) -> Gauge:
            return Gauge(f"quaymirror_{name}", words, (*_LABELS, *labels), registry=registry)

        self._started = gauge("run_started_timestamp_seconds", "Start of the last run.")
        self._duration = gauge("run_duration_seconds", "Duration of the last run.")
        self._code = gauge("run_exit_code", "Exit code of the last run; 0 is success.")
        self._success = gauge("last_success_timestamp_seconds", "End of the last successful run.")
        self._complete = gauge("run_complete", "1 if the last run found and processed everything selected.")
        self._images = gauge("images", "Images of the last run by outcome.", "status")
        self._fetched = gauge("fetched_bytes", "Bytes that the last run fetched.")
        self._reused = gauge("reused_bytes", "Bytes that images of the last run needed and did not have to fetch.")
        self._retries = gauge("retries", "Retries of the last run.", "host")
        self._paused = gauge("paused_seconds", "Pauses that hosts asked for during the last run.", "host")

    def add(self, report: Report, code: int, earlier: Mapping[tuple[str, ...], float]) -> None:
        labels = (report.target, ",".join(report.jobs))
        self._started.labels(*labels).set(report.started)
        self._duration.labels(*labels).set(round(report.elapsed, 3))
        self._code.labels(*labels).set(code)
        self._complete.labels(*labels).set(int(report.complete))
        self._fetched.labels(*labels).set(report.bytes_fetched)
        self._reused.labels(*labels).set(report.bytes_reused)
        for status in Status:
            self._images.labels(*labels, status.value).set(report.counts[status])

        for name, host in report.hosts.items():
            self._retries.labels(*labels, name).set(host.retries)
            self._paused.labels(*labels, name).set(round(host.paused_s, 3))

        succeeded = report.started + report.elapsed if code == 0 else earlier.get(labels)
        if succeeded is not None:
            self._success.labels(*labels).set(succeeded)


def _last_successes(file: Path) -> dict[tuple[str, ...], float]:
    """Return the times of the last successes in `file` by labels."""
    try:
        families = list(text_string_to_metric_families(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}

    samples = (sample for family in families if family.name == _LAST_SUCCESS for sample in family.samples)
    return {tuple(sample.labels.get(label, "") for label in _LABELS): sample.value for sample in samples}
