"""Metrics of runs for the textfile collector of Prometheus' node_exporter. The only importer of prometheus_client."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from ..errors import StoreError
from ..events import Status
from ..store.fsops import replace_file
from .report import Report

_LABELS = ("target", "job")
_LAST_SUCCESS = "quaymirror_last_success_timestamp_seconds"


def write_metrics(file: Path, runs: Sequence[tuple[Report, int]]) -> None:
    """Replace `file` with the metrics of `runs`, each with its exit code.

    After a failed run the time of the last success is kept.

    :raises StoreError: if it can't be written.
    """
    metrics, earlier = _Metrics(), _last_successes(file)
    for report, code in runs:
        metrics.add(report, code, earlier)

    try:
        replace_file(file, generate_latest(metrics.registry), sync=False, suffix=str(os.getpid()))
    except StoreError as error:
        raise error.replace(f"--metrics-textfile: {error.message}") from None


class _Metrics:
    """Gauges, because the numbers of a run that has ended do not count on."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(f"quaymirror_{name}", text, (*_LABELS, *labels), registry=self.registry)
            for name, text, *labels in (
                ("run_started_timestamp_seconds", "Start of the last run."),
                ("run_duration_seconds", "Duration of the last run."),
                ("run_exit_code", "Exit code of the last run; 0 is success."),
                ("last_success_timestamp_seconds", "End of the last successful run."),
                ("run_complete", "1 if the last run found and processed everything selected."),
                ("images", "Images of the last run by outcome.", "status"),
                ("fetched_bytes", "Bytes that the last run fetched."),
                ("reused_bytes", "Bytes that images of the last run needed and did not have to fetch."),
                ("retries", "Retries of the last run.", "host"),
                ("paused_seconds", "Pauses that hosts asked for during the last run.", "host"),
            )
        }

    def add(self, report: Report, code: int, earlier: Mapping[tuple[str, ...], float]) -> None:
        labels = (report.target, ",".join(report.jobs))

        def record(name: str, value: float, *more: str) -> None:
            self._gauges[name].labels(*labels, *more).set(value)

        record("run_started_timestamp_seconds", report.started)
        record("run_duration_seconds", round(report.elapsed, 3))
        record("run_exit_code", code)
        record("run_complete", int(report.complete))
        record("fetched_bytes", report.bytes_fetched)
        record("reused_bytes", report.bytes_reused)
        for status in Status:
            record("images", report.counts[status], status.value)

        for name, host in report.hosts.items():
            record("retries", host.retries, name)
            record("paused_seconds", round(host.paused_s, 3), name)

        succeeded = report.started + report.elapsed if code == 0 else earlier.get(labels)
        if succeeded is not None:
            record("last_success_timestamp_seconds", succeeded)


def _last_successes(file: Path) -> dict[tuple[str, ...], float]:
    """Return the times of the last successes in `file` by labels."""
    try:
        families = list(text_string_to_metric_families(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}

    samples = (sample for family in families if family.name == _LAST_SUCCESS for sample in family.samples)
    return {tuple(sample.labels.get(label, "") for label in _LABELS): sample.value for sample in samples}
