"""Credentials for a registry, from auth files and credential helpers: the first match wins, any failure is an error."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import anyio
from anyio import to_thread

from ..errors import ConfigError, Failure
from ..secret import Credentials
from ..values import dataclass
from .authfile import AuthFile, normalize_registry
from .helper import ask_helper

__all__ = ["CredentialStore"]

# docker and podman call Docker Hub by other names than that of its registry.
_ALIASES = {"registry-1.docker.io": ("docker.io", "index.docker.io")}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Location:
    """The path of an auth file; `is_required` if the user named it."""

    path: Path
    is_required: bool = False


def locations(authfile: Path | None, env: Mapping[str, str]) -> tuple[Location, ...]:
    """Return the locations in order. A file that the user named, by option or `$REGISTRY_AUTH_FILE`, is the only one.

    An empty variable counts as unset; without `HOME` the locations below it are omitted.
    """
    named = authfile or _directory(env, "REGISTRY_AUTH_FILE")
    if named is not None:
        return (Location(named, is_required=True),)

    home = _directory(env, "HOME")
    runtime = _directory(env, "XDG_RUNTIME_DIR")
    config = _directory(env, "XDG_CONFIG_HOME") or (home and home / ".config")
    docker = _directory(env, "DOCKER_CONFIG") or (home and home / ".docker")
    candidates = (
        runtime and runtime / "containers" / "auth.json",
        config and config / "containers" / "auth.json",
        docker and docker / "config.json",
    )
    return tuple(Location(path) for path in candidates if path is not None)


class CredentialStore:
    """The credentials that the user keeps for podman, skopeo and docker.

    Looks into `authfile`, else `$REGISTRY_AUTH_FILE`; only if neither is given into
    `$XDG_RUNTIME_DIR/containers/auth.json`, `${XDG_CONFIG_HOME:-~/.config}/containers/auth.json` and
    `${DOCKER_CONFIG:-~/.docker}/config.json`. In each file `credHelpers` is before `credsStore` before `auths`
    (containers-auth.json(5), docker-credential-helpers protocol). `env` replaces the environment: the
    variables above, `HOME`, and what helpers are run with.

    A file is read once and a helper asked once per registry, also when many ask at the same time or it failed.
    """

    def __init__(self, *, authfile: Path | None, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._locations = locations(authfile, env)
        self._files: defaultdict[Location, _Once[AuthFile | None]] = defaultdict(_Once)
        self._answers: defaultdict[tuple[str, str], _Once[Credentials | None]] = defaultdict(_Once)

    async def find(self, registry: str, repository: str | None = None) -> Credentials | None:
        """Return the credentials for `repository` of `registry`, a `host[:port]`; None to be anonymous.

        :raises ConfigError: if `registry` is no `host[:port]`, if a file that was asked for is missing, or any file
            or helper on the way is broken (see `AuthFile` and `ask_helper`): never anonymous by accident.
        """
        normal = normalize_registry(registry)
        if normal is None:
            raise ConfigError("a registry is written host[:port], without scheme, user and path")

        for name in (normal, *_ALIASES.get(normal, ())):
            if (found := await self._find_at(name, repository)) is not None:
                return found

        return None

    async def _find_at(self, registry: str, repository: str | None) -> Credentials | None:
        for location in self._locations:
            load = partial(AuthFile.load, location.path, is_required=location.is_required)
            file = await self._files[location].run(partial(to_thread.run_sync, load))
            credentials = await self._find_in(file, registry, repository) if file is not None else None
            if credentials is not None:
                return credentials

        return None

    async def _find_in(self, file: AuthFile, registry: str, repository: str | None) -> Credentials | None:
        for name in file.helpers_for(registry):
            ask = partial(ask_helper, name, registry, env=self._env)
            credentials = await self._answers[name, registry].run(ask)
            if credentials is not None:
                return credentials

        return file.inline_credentials(registry, repository)

    def __repr__(self) -> str:
        return f"<CredentialStore {', '.join(str(location.path) for location in self._locations)}>"


def _directory(env: Mapping[str, str], name: str) -> Path | None:
    value = env.get(name)
    return Path(value) if value else None


class _Once(Generic[T]):
    """Work that is done once: later and concurrent callers get the result of the first.

    A failure is a result; if the first caller is cancelled, the next one does the work.
    """

    __slots__ = ("_lock", "_results")

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._results: list[T | Failure] = []

    async def run(self, work: Callable[[], Awaitable[T]]) -> T:
        async with self._lock:
            if not self._results:
                try:
                    self._results.append(await work())
                except ConfigError as error:
                    self._results.append(Failure.of(error))

        result = self._results[0]
        if isinstance(result, Failure):
            raise result.error()

        return result
