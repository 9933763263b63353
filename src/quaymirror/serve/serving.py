"""Serving of mirrors, from the words of a user to the end of the server."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import IO

import anyio
import anyio.to_thread

from ..errors import ConfigError, QuaymirrorError
from ..run.paths import layout_path
from ..settings import Options
from ..store.snapshots import open_at
from ..store.storage import Lease
from ..tasks import background
from .access_log import AccessLog, Say
from .earlier import EarlierSets
from .live import LiveRun
from .metrics import ServerMetrics
from .mirror import ServedMirror
from .nginx import write_nginx
from .options import ServeOptions
from .pages import Pages
from .passwords import PasswordFile
from .registry import ServedRegistry, check_names
from .server import HttpServer, quiet_loop
from .site import Site

_REFRESH_SECONDS = 1.0
_FIRST_TRIES = 50
_FIRST_PAUSE_SECONDS = 0.1
_PREFIXED = re.compile(r"(?P<prefix>[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*)=(?P<mirror>.+)", re.DOTALL)


async def serve_mirrors(
    mirrors: Sequence[str],
    options: ServeOptions | None = None,
    *,
    say: Say = lambda _: None,
    ready: Callable[[str], None] = lambda _: None,
    stop: anyio.Event | None = None,
) -> None:
    """Serve `mirrors`, each `MIRROR` or `PREFIX=MIRROR`, as a read-only registry until `stop` is set.

    Images of a sync that ends meanwhile appear by themselves. No pull is interrupted by a sync or a prune: images that
    clients may be pulling are leased. `ready` is called with the URL when the server listens, `say` with a line about
    every problem.

    :raises ConfigError: if a mirror or an option can't be used, or the port is in use.
    :raises MirrorDamaged: if the index of a mirror can't be parsed.
    :raises StoreError: if a mirror can't be read.
    """
    options = options or ServeOptions()
    async with serving(mirrors, options, say=say) as server:
        ready(server.url)
        await (stop or anyio.Event()).wait()


async def write_nginx_files(mirror: str, directory: Path, options: ServeOptions | None = None) -> int:
    """Write a configuration of nginx that serves the images that `mirror` has now, without access rules.

    Return the number of images. Of `options`, `listen` and `at` are used.

    :raises ConfigError: if a mirror, an option or a path can't be used.
    :raises StoreError: if the disk fails.
    """
    options = options or ServeOptions()
    served = await anyio.to_thread.run_sync(_mirror, mirror, options)
    await anyio.to_thread.run_sync(served.refresh)
    if served.problem:
        raise ConfigError(f"can't serve {served.storage}: {served.problem}")

    check_names([served])
    root = _parse(mirror, options)[1]
    return await anyio.to_thread.run_sync(write_nginx, served, root, directory, options.listen)


@asynccontextmanager
async def serving(mirrors: Sequence[str], options: ServeOptions, *, say: Say) -> AsyncIterator[HttpServer]:
    """Serve `mirrors` during the context; see `serve_mirrors`."""
    served = [await anyio.to_thread.run_sync(_mirror, word, options) for word in mirrors]
    passwords = PasswordFile(options.htpasswd) if options.htpasswd is not None else None
    with ExitStack() as stack:
        leases = [stack.enter_context(mirror.storage.leasing()) for mirror in served]
        for mirror, lease in zip(served, leases, strict=True):
            await _load(mirror, lease)

        check_names(served)
        registry = ServedRegistry(served)
        runs = [LiveRun(_parse(word, options)[1]) for word in mirrors]
        pages = Pages(
            registry, runs, address=options.listen, is_secure=options.tls_cert is not None, at=options.at or ""
        )
        site = Site(registry, ServerMetrics(registry), passwords=passwords, pages=pages.answer)
        log = AccessLog(say, _log_file(options.access_log, stack))
        quiet_loop(asyncio.get_running_loop())
        refresher = _Refresher(registry, leases, passwords, say)
        async with HttpServer(site, options, log) as server, background(partial(refresher.run, server)):
            if options.warning:
                say(options.warning)

            try:
                yield server
            finally:
                pages.stop()


class _Refresher:
    """Reads again whatever has changed on disk, every second, and tells of each new problem once."""

    def __init__(
        self, registry: ServedRegistry, leases: Sequence[Lease], passwords: PasswordFile | None, say: Say
    ) -> None:
        self._registry = registry
        self._leases = leases
        self._passwords = passwords
        self._say = say
        self._told: dict[object, str] = {}

    async def run(self, server: HttpServer) -> None:
        for mirror in self._registry.mirrors:
            self._tell_once((mirror, "lease"), _without_lease(mirror))

        while True:
            await anyio.sleep(_REFRESH_SECONDS)
            for mirror, lease in zip(self._registry.mirrors, self._leases, strict=True):
                await self._registry.in_thread(mirror, partial(mirror.refresh, lease))
                self._tell_once(mirror, mirror.problem)
                self._tell_once((mirror, "lease"), _without_lease(mirror))

            for refresh in (server.refresh, *([self._passwords.refresh] if self._passwords else [])):
                self._tell_once(refresh, await anyio.to_thread.run_sync(_problem_of, refresh))

            server.forget()

    def _tell_once(self, subject: object, problem: str) -> None:
        if problem and self._told.get(subject) != problem:
            self._say(problem)

        self._told[subject] = problem


def _problem_of(refresh: Callable[[], object]) -> str:
    try:
        refresh()
    except QuaymirrorError as error:
        return f"{error.message}; the earlier one stays in use"

    return ""


def _without_lease(mirror: ServedMirror) -> str:
    if not mirror.unleased:
        return ""

    return f"{mirror.storage} is served without a lease, so a prune may interrupt pulls: {mirror.unleased}"


def _parse(word: str, options: ServeOptions) -> tuple[str, Path]:
    """Return the prefix and the path of a mirror."""
    match = _PREFIXED.fullmatch(word)
    prefix, target = (match["prefix"], match["mirror"]) if match is not None else ("", word)
    return prefix, layout_path(target, Options.of(state=options.state, environment=os.environ))


def _mirror(word: str, options: ServeOptions) -> ServedMirror:
    prefix, path = _parse(word, options)
    return ServedMirror(open_at(path, options.at), prefix, earlier=EarlierSets(path))


async def _load(mirror: ServedMirror, lease: Lease) -> None:
    """Read the index for the first time, which waits while blobs are being deleted."""
    for _ in range(_FIRST_TRIES):
        if await anyio.to_thread.run_sync(mirror.refresh, lease):
            return

        if mirror.problem:
            raise ConfigError(f"can't serve {mirror.storage}: {mirror.problem}")

        await anyio.sleep(_FIRST_PAUSE_SECONDS)

    raise ConfigError(f"can't serve {mirror.storage}: its blobs are being deleted; try again when prune has ended")


def _log_file(name: str | None, stack: ExitStack) -> IO[str] | None:
    if name is None:
        return None

    if name == "-":
        return sys.stdout

    try:
        return stack.enter_context(Path(name).open("a", encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"can't write the access log {name}: {error.strerror}") from None
