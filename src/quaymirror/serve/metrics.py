"""Metrics of a server for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .access_log import Record
from .registry import ServedRegistry

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# Manifests from memory take less than a millisecond, a large layer on a slow line an hour.
_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10, 60, 600)


class ServerMetrics:
    """Counters of requests, and gauges of the mirrors that are served."""

    def __init__(self, registry: ServedRegistry) -> None:
        self._served = registry
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "quaymirror_serve_requests", "Requests by kind and status.", ("kind", "status"), registry=self._registry
        )
        self._bytes = Counter("quaymirror_serve_sent_bytes", "Bytes of bodies that were sent.", registry=self._registry)
        self._seconds = Histogram(
            "quaymirror_serve_seconds", "Durations of requests.", ("kind",), buckets=_BUCKETS, registry=self._registry
        )
        self._children: dict[tuple[str, int], tuple[Counter, Histogram]] = {}
        self._connections = Gauge("quaymirror_serve_connections", "Open connections.", registry=self._registry)
        self._images = Gauge("quaymirror_serve_images", "Published images.", ("mirror",), registry=self._registry)
        self._loaded = Gauge(
            "quaymirror_serve_loaded_timestamp_seconds",
            "When the published images were read last.",
            ("mirror",),
            registry=self._registry,
        )
        self._readable = Gauge(
            "quaymirror_serve_readable", "1 if the mirror can be read.", ("mirror",), registry=self._registry
        )

    def add(self, kind: str, record: Record) -> None:
        """Count a request."""
        children = self._children.get((kind, record.status))
        if children is None:  # looking them up takes longer than counting
            children = self._requests.labels(kind, str(record.status)), self._seconds.labels(kind)
            self._children[kind, record.status] = children

        children[0].inc()
        children[1].observe(record.seconds)
        self._bytes.inc(record.bytes)

    def text(self, connections: int) -> bytes:
        """Return all metrics in the text format."""
        self._connections.set(connections)
        for mirror in self._served.mirrors:
            name = str(mirror.storage)
            published = mirror.published
            self._images.labels(name).set(sum(len(published.images(each)) for each in published.repositories))
            self._loaded.labels(name).set(mirror.loaded_at)
            self._readable.labels(name).set(0 if mirror.problem else 1)

        return generate_latest(self._registry)
