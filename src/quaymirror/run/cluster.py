"""The scheduler and the workers of a Dask cluster, as a run uses them; the only importer of distributed."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from ..__about__ import __version__
from ..errors import ConfigError, ConnectFailed, QuaymirrorError, Scope, Side, reason_of
from ..http import failures
from ..http.limiter import PauseSeen, ignore_pause
from ..tasks import background
from .cluster_worker import BlobOrder, BlobResult, Worker

# Within these times a scheduler has to answer, and a first worker has to be there.
_CONNECT_SECONDS = 10.0
_FIRST_WORKER_SECONDS = 30.0
# The period of looks at the workers, and the time after which a cluster without any counts as lost.
_LOOK_SECONDS = 2.0
_LOST_SECONDS = 60.0
_END_SECONDS = 3.0
# The topic of messages about pauses, and the name of the plugin that closes connections.
_PAUSES = "quaymirror-pauses"
_PLUGIN = "quaymirror"
_LOST = "its scheduler or all of its workers are lost"
_NO_ANSWER = "no answer of a scheduler"
_TLS_HELP = "set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__TLS__CLIENT__CERT and …__TLS__CLIENT__KEY"


class Cluster:
    """The workers of the cluster at `address`. `pause_seen` gets the pauses that hosts ask of any of them."""

    def __init__(self, address: str, client: Any) -> None:
        self.address: str = address
        self.pause_seen: PauseSeen = ignore_pause
        self.threads: int = 0
        """The threads of all workers, each of which brings one blob at a time."""
        self.workers: int = 0
        """The number of workers."""
        self._client = client
        self._lost = anyio.Event()
        self._unfinished = 0

    @classmethod
    @asynccontextmanager
    async def open(cls, address: str, run_id: str) -> AsyncIterator[Cluster]:
        """Connect to a scheduler, for the run `run_id`.

        :raises ConfigError: if distributed is not installed, TLS is not configured, or a worker has another version.
        :raises ConnectFailed: if the scheduler can't be reached, or has no workers.
        """
        cluster = cls(address, _make_client(address))
        try:
            await cluster._reach()
            await cluster._begin()
            async with background(cluster._watch):
                yield cluster
        finally:
            await cluster._close(run_id)

    async def bring(self, order: BlobOrder) -> BlobResult:
        """Let a worker carry out `order`; if the worker is lost, another one does.

        :raises QuaymirrorError: if that keeps failing, or the cluster is lost.
        """
        if self._lost.is_set():
            raise self._failure(_LOST)

        self._unfinished += 1
        error: BaseException | None = None
        result: BlobResult | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._give_up, tasks.cancel_scope)
            try:
                future = self._client.submit(bring_blob, order, key=order.key, pure=False)
                try:
                    result = await future
                finally:
                    future.release()
            except Exception as raised:  # of any kind: of the worker or of the client
                error = raised

            tasks.cancel_scope.cancel()

        self._unfinished -= 1
        if result is None:
            is_lost = error is None or self._client.status != "running"
            raise self._failure(_LOST if is_lost else f"{type(error).__name__}: {error}")

        return result

    async def pause(self, host: str, seconds: float, reason: str) -> None:
        """Let all workers pause their requests to `host`."""
        with suppress(Exception):  # of a lost scheduler, as in `_look`
            await self._client.run(pause, host, seconds, reason, on_error="ignore")

    def _failure(self, reason: str) -> QuaymirrorError:
        return ConnectFailed(f"the cluster at {self.address}: {reason[:200]}", scope=Scope.IMAGE, side=Side.TARGET)

    async def _reach(self) -> None:
        # A server of another kind may take the connection and say nothing. Of a refusal, the client tells in time.
        with anyio.move_on_after(1.5 * _CONNECT_SECONDS) as scope:
            try:
                await self._client
            except Exception as error:  # of any kind: the answer may be that of another server
                raise self._unreachable(_reason(error)) from None

        if scope.cancelled_caught:
            raise self._unreachable(_NO_ANSWER)

    def _unreachable(self, reason: str) -> QuaymirrorError:
        message = f"the scheduler at {self.address} can't be reached: {reason}"
        return ConnectFailed(message, scope=Scope.RUN, side=Side.TARGET)

    async def _close(self, run_id: str) -> None:
        with anyio.move_on_after(_END_SECONDS, shield=True), suppress(Exception):  # of a lost scheduler, as in `_look`
            if self._unfinished:
                await self._client.run(drop, run_id, on_error="ignore")

        with anyio.move_on_after(_END_SECONDS, shield=True), suppress(Exception):
            await self._client.close()

    async def _begin(self) -> None:
        with anyio.move_on_after(_FIRST_WORKER_SECONDS):
            while not self.threads:
                await self._look()
                if not self.threads:
                    await anyio.sleep(_LOOK_SECONDS / 10)

        if not self.threads:
            raise ConnectFailed(
                f"no workers at {self.address}: start dask worker there", scope=Scope.RUN, side=Side.TARGET
            )

        for worker, text in (await self._versions()).items():
            if text != __version__:
                has = f"quaymirror {text}" if isinstance(text, str) else f"no usable quaymirror ({text})"
                raise ConfigError(f"the worker {worker} has {has}: it needs {__version__}, as here")

        self._client.subscribe_topic(_PAUSES, self._paused)

    async def _versions(self) -> Mapping[str, object]:
        with anyio.move_on_after(_CONNECT_SECONDS):
            try:
                found: Mapping[str, object] = await self._client.run(version, on_error="return")
            except Exception as error:  # of any kind: of a client that has lost its scheduler
                raise self._unreachable(_reason(error)) from None

            return found

        raise ConnectFailed(f"the workers at {self.address} do not answer", scope=Scope.RUN, side=Side.TARGET)

    async def _paused(self, event: tuple[float, tuple[str, float, str]]) -> None:
        host, seconds, reason = event[1]
        self.pause_seen(host, seconds, reason)
        await self.pause(host, seconds, reason)

    async def _watch(self) -> None:
        seen = anyio.current_time()
        while True:
            await anyio.sleep(_LOOK_SECONDS)
            await self._look()
            if self.threads:
                seen = anyio.current_time()
                self._lost = anyio.Event() if self._lost.is_set() else self._lost
            elif anyio.current_time() - seen >= _LOST_SECONDS or self._client.status == "closed":
                # A client that could not connect again has closed itself.
                self._lost.set()

    async def _look(self) -> None:
        threads: Mapping[str, int] = {}
        with anyio.move_on_after(_CONNECT_SECONDS):
            # A scheduler that does not answer is one without workers: it may come back. Without a connection, the
            # client raises errors of any kind.
            with suppress(Exception):
                threads = await self._client.nthreads()

        self.threads, self.workers = sum(threads.values()), len(threads)

    async def _give_up(self, scope: anyio.CancelScope) -> None:
        await self._lost.wait()
        scope.cancel()


def _make_client(address: str) -> Any:
    try:
        from distributed import Client, Security
    except ImportError:
        raise ConfigError("--cluster needs the extra 'cluster': pip install 'quaymirror[cluster]'") from None

    # What matters of its messages is said here.
    for name in logging.getLogger().manager.loggerDict:
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)

    security = Security()
    try:
        has_certificates = security.get_connection_args("client").get("ssl_context") is not None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{address}: can't use the certificates of Dask's configuration: {error}") from None

    if address.startswith("tls:") and not has_certificates:
        raise ConfigError(f"{address} needs certificates: {_TLS_HELP}")

    return Client(address, security=security, asynchronous=True, set_as_default=False, timeout=_CONNECT_SECONDS)


def _reason(error: BaseException) -> str:
    """Return the reason at the end of the chain of causes, which is that of the system."""
    while error.__cause__ is not None:
        error = error.__cause__

    no_tls = "it does not use TLS: give it certificates, and start it with --protocol tls"
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {failures.reason(error)}"
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER"):
            return no_tls
        # Its greeting arrived before TLS began (Tornado, `IOStream.start_tls`).
        case ValueError() if "convert to SSL" in str(error):
            return no_tls
        case ssl.SSLError():
            return f"TLS fails: {failures.reason(error)}"
        case ConnectionResetError():
            return f"{reason_of(error)}: if it uses TLS, write tls://"
        case OSError():
            return reason_of(error)
        case _:
            return str(error)[:200] or _NO_ANSWER


def version() -> str:
    """Return the version of quaymirror in the process of a worker."""
    return __version__


async def bring_blob(order: BlobOrder) -> BlobResult:
    """Carry out an order, in the event loop of a worker."""
    from distributed import get_worker

    return await (await _join(get_worker())).carry_out(order)


def pause(host: str, seconds: float, reason: str, dask_worker: Any) -> None:
    """Pause requests to a host, in the event loop of a worker."""
    if plugin := dask_worker.plugins.get(_PLUGIN):
        plugin.own.pause(host, seconds, reason)


def drop(run_id: str, dask_worker: Any) -> None:
    """Drop the orders of a run, in the event loop of a worker."""
    if plugin := dask_worker.plugins.get(_PLUGIN):
        plugin.own.drop(run_id)


async def _join(worker: Any) -> Worker:
    """Return all that is open in the process of a worker, until it ends."""
    if _PLUGIN not in worker.plugins:
        from distributed import WorkerPlugin

        def tell(*seen: object) -> None:
            worker.log_event(_PAUSES, seen)

        class Plugin(WorkerPlugin):  # type: ignore[misc]
            own = Worker(tell, worker.address)

            async def teardown(self, worker: Any) -> None:
                await self.own.close()

        await worker.plugin_add(Plugin(), _PLUGIN)

    own: Worker = worker.plugins[_PLUGIN].own
    return own
