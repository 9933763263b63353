"""TLS configuration as in docker and podman (containers-certs.d(5)).

A directory contains `*.crt` (additional certificate authorities) and pairs of `*.cert` and `*.key` (client
certificates).
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from ..errors import ConfigError, from_os_error
from ..process import Process
from ..values import dataclass

_SYSTEM = (Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


@dataclass(frozen=True, slots=True)
class Trust:
    """The user's options for the certificates of one registry.

    `cafile` replaces the system's authorities, `directory` adds to them; without `verify` nothing is verified.
    """

    cafile: Path | None = None
    directory: Path | None = None
    verify: bool = True


def certificate_directory(registry: str, env: Mapping[str, str], *, system: tuple[Path, ...] = _SYSTEM) -> Path | None:
    """Return the first existing certs.d directory for `registry`, a `host[:port]`, or None."""
    config = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else None)
    homes = (*((Path(config, "containers", "certs.d"),) if config else ()), *system)
    names = (registry,) if ":" in registry.rpartition("]")[2] else (registry, f"{registry}:443")
    return next((home / name for home in homes for name in names if (home / name).is_dir()), None)


def tls_context(trust: Trust, *, is_own: bool = True) -> ssl.SSLContext | None:
    """Return the context for `trust`, None for the default one.

    Client certificates are used for the registry itself, not for the hosts it redirects to (`is_own` is False).

    :raises ConfigError: naming the file that is missing or invalid.
    """
    if trust == Trust():
        return None

    context = _context(trust.cafile, verify=trust.verify)
    if trust.directory is not None:
        _load_directory(context, trust.directory, is_own=is_own)

    return context


@lru_cache(maxsize=1)
def system_context() -> ssl.SSLContext:
    """Return the context with the system's authorities, which takes 20 ms and 1 MiB to make: there is one for all.

    :raises OSError: if descriptors have run out, for which OpenSSL would just have no authorities.
    """
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    return context


@contextmanager
def without_authorities() -> Iterator[None]:
    """Let contexts that are made while a library is imported know no authorities, unless other code may use them."""
    if not Process.is_command:
        yield
        return

    load = ssl.SSLContext.set_default_verify_paths
    ssl.SSLContext.set_default_verify_paths = _load_none  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        ssl.SSLContext.set_default_verify_paths = load  # type: ignore[method-assign]


def _load_none(_: ssl.SSLContext) -> None:
    """Load no authorities."""


def _context(cafile: Path | None, *, verify: bool) -> ssl.SSLContext:
    if cafile is None and not verify:
        # Without the system's authorities, which take 10 ms to load.
        return _unverified(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))

    try:
        context = ssl.create_default_context(cafile=cafile)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"{cafile} contains no CA certificates in PEM form") from None

    return context if verify else _unverified(context)


def _unverified(context: ssl.SSLContext) -> ssl.SSLContext:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _load_directory(context: ssl.SSLContext, directory: Path, *, is_own: bool) -> None:
    try:
        files = sorted(directory.iterdir())
    except OSError as error:
        raise from_os_error(error, "read", directory, kind=ConfigError) from None

    for file in files:
        if file.suffix in (".crt", ".cert") and not file.is_file():
            # OpenSSL would wait for a writer of a pipe, and read a device for ever.
            raise ConfigError(f"{file} is not a regular file")

        if file.suffix == ".crt":
            _load_authority(context, file)
        elif file.suffix == ".cert" and is_own:
            _load_pair(context, file)


def _load_authority(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(file)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"{file} contains no CA certificates in PEM form") from None


def _load_pair(context: ssl.SSLContext, file: Path) -> None:
    key = file.with_suffix(".key")
    if not key.is_file():
        raise ConfigError(f"{file} is a client certificate without its key {key.name}")

    def no_password() -> str:
        raise ConfigError(f"{key} is protected by a password, which is not supported")

    try:
        context.load_cert_chain(file, key, no_password)
    except (OSError, ssl.SSLError):
        raise ConfigError(f"{file} and {key.name} are not a client certificate and its key in PEM form") from None
