"""The part of a cluster's worker: one blob from a source to a registry, asked for by a message, answered by another."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio

from ..__about__ import __version__
from ..errors import ConfigError, Failure, QuaymirrorError
from ..events import ignore
from ..http.limiter import PauseSeen, ignore_pause
from ..progress.meters import Meters
from ..registry.push import RegistryPusher
from ..secret import Secret
from ..selection.source import SourceAddress
from ..settings import Options
from ..targets.kinds import UploadPlace
from ..targets.spool import SpoolSpace
from ..targets.upload import UploadMode, UploadSink
from ..transfer.blob import fetch_blob
from ..transfer.slots import FetchSlots
from ..transfer.stream import BlobJob, BlobProgress
from ..values import dataclass
from .wiring import Accounts, OpenSources, SourceConnections, connect_target

# Options of the coordinator that workers follow. None of them is a secret; paths are those of each worker.
_SHARED = (
    *("server", "allow_foreign_layers", "src_cert_dir", "src_tls_verify", "dest_cert_dir", "dest_tls_verify"),
    *("authfile", "allow_realms", "cafile", "retries", "limit_rate", "max_requests_per_second"),
)
# The scheduler decides how many blobs are in progress.
_MOST_BLOBS = 1024

Settings = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class BlobOrder:
    """The order to bring the blob of `job` from `source` to `place`, in the run `run_id`."""

    run_id: str
    source: SourceAddress
    job: BlobJob
    place: UploadPlace
    settings: Settings
    version: str = __version__

    @property
    def key(self) -> str:
        """The key of the task: an order that a run gives twice is one task. Other runs may have another target."""
        return f"blob-{self.job.blob.digest}-{self.place.repository}-{self.run_id}"


@dataclass(frozen=True, slots=True)
class BlobResult:
    """The result of an order: the `bytes` from the source, all its `requests` since the last result, and a failure.

    Without a failure, the blob is at its place. Requests are counted if their number per second is limited.
    """

    worker: str = ""
    bytes: int = 0
    seconds: float = 0.0
    requests: float = 0.0
    failure: Failure | None = None


def settings_of(options: Options, workers: int) -> Settings:
    """Return the options that each of `workers` follows, its part of the limit on bytes among them."""
    groups = (options.source, options.client, options.target, options.limits)
    values = {name: getattr(group, name) for group in groups for name in _SHARED if hasattr(group, name)}
    if (rate := options.limits.limit_rate) is not None:
        values["limit_rate"] = max(1024, rate // max(1, workers))

    return tuple(sorted(values.items()))


class Site:
    """The connections of one worker to sources and registries, for all orders of a run with the same settings.

    The next run has others: credentials and certificates may have changed in between.
    """

    def __init__(self, settings: Settings, pause_seen: PauseSeen) -> None:
        token = os.environ.get("QUAY_API_TOKEN")
        self.orders: int = 0
        """The number of orders in progress."""
        self._options = Options.of(
            **dict(settings), environment=os.environ, api_token=Secret(token, what="QUAY_API_TOKEN") if token else None
        )
        self._pause_seen = pause_seen
        self._stack = AsyncExitStack()
        self._connections = SourceConnections(self._options, ignore, self._stack, self._paused)
        accounts = Accounts(self._options, ignore)
        self._sources = OpenSources(self._options, ignore, self._connections, self._stack, accounts)
        self._targets: dict[tuple[object, str], tuple[RegistryPusher, UploadMode]] = {}
        self._slots = FetchSlots(1, _MOST_BLOBS)
        self._opening = anyio.Lock()
        self._counted = 0.0

    async def close(self) -> None:
        """Close all connections."""
        await self._stack.aclose()

    async def bring(self, order: BlobOrder, meters: Meters) -> None:
        """Bring a blob to its place, unless it is there: an order is given again if its worker is lost.

        :raises QuaymirrorError: if the source or the registry fails.
        """
        self.orders += 1
        try:
            await self._bring(order, meters)
        finally:
            self.orders -= 1

    async def _bring(self, order: BlobOrder, meters: Meters) -> None:
        async with self._opening:
            source = (await self._sources.open(order.source)).source
            registry, mode = await self._target(order.place)

        repository, blob = order.place.repository, order.job.blob
        if await registry.has_blob(repository, blob):
            return

        sink = UploadSink(registry, repository, blob, mode)
        try:
            await fetch_blob(BlobProgress(order.job, meters), source, sink, self._slots)
        finally:
            await sink.close()

    def take_requests(self) -> float:
        """Return the requests to sources since the last call."""
        before, self._counted = self._counted, self._connections.requests
        return self._counted - before

    def pause(self, host: str, seconds: float, reason: str) -> None:
        """Pause requests to a host of a source, as it has asked another worker."""
        self._pause_seen, told = ignore_pause, self._pause_seen
        try:
            self._connections.limiters(host, "blobs").host.pause(seconds, reason)
        finally:
            self._pause_seen = told

    async def _target(self, place: UploadPlace) -> tuple[RegistryPusher, UploadMode]:
        key = (place.origin, place.namespace)
        if key not in self._targets:
            connecting = connect_target(place.origin, self._options, ignore, namespace=place.namespace)
            client = await self._stack.enter_async_context(connecting)
            self._targets[key] = RegistryPusher(client), UploadMode(SpoolSpace(Path(tempfile.gettempdir())))

        return self._targets[key]

    def _paused(self, host: str, seconds: float, reason: str) -> None:
        self._pause_seen(host, seconds, reason)


class Worker:
    """All that one process of a cluster has open; `pause_seen` tells the coordinators of pauses."""

    def __init__(self, pause_seen: PauseSeen, name: str = "") -> None:
        self._pause_seen = pause_seen
        self._name = name
        self._sites: dict[tuple[str, Settings], Site] = {}
        self._scopes: dict[str, set[anyio.CancelScope]] = {}

    async def carry_out(self, order: BlobOrder) -> BlobResult:
        """Carry out an order; a failure is part of the result."""
        began, meters, failure, site = time.monotonic(), Meters(), None, None
        scopes = self._scopes.setdefault(order.run_id, set())
        with anyio.CancelScope() as scope:
            scopes.add(scope)
            try:
                check_version(order.version)
                site = await self._site(order)
                await site.bring(order, meters)
            except QuaymirrorError as error:
                failure = Failure.of(error)
            finally:
                scopes.discard(scope)

        if scope.cancelled_caught:
            failure = Failure.of(QuaymirrorError("the run has ended"))

        requests = 0.0 if site is None else site.take_requests()
        return BlobResult(self._name, meters.fetched_bytes, time.monotonic() - began, requests, failure)

    async def _site(self, order: BlobOrder) -> Site:
        key = order.run_id, order.settings
        if key not in self._sites:
            # A coordinator that was killed has not said that its run has ended.
            idle = [other for other in self._sites if other[0] != order.run_id and not self._sites[other].orders]
            site = self._sites[key] = Site(order.settings, self._pause_seen)
            site.orders += 1  # so that no order of another run closes it meanwhile
            try:
                for ended in [self._sites.pop(other) for other in idle]:
                    await ended.close()
            finally:
                site.orders -= 1

        return self._sites[key]

    def pause(self, host: str, seconds: float, reason: str) -> None:
        """Pause requests to a host; see `Site.pause`."""
        for site in self._sites.values():
            site.pause(host, seconds, reason)

    def drop(self, run_id: str) -> None:
        """Drop the orders of a run that has ended."""
        for scope in self._scopes.pop(run_id, set()):
            scope.cancel()

    async def close(self) -> None:
        """Close all connections."""
        for site in self._sites.values():
            await site.close()


def check_version(version: str) -> None:
    """Raise `ConfigError` if `version`, that of the coordinator, is not the one of this process."""
    if version != __version__:
        raise ConfigError(f"a worker has quaymirror {__version__}, the coordinator {version}: install the same")
