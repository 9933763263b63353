"""Credential helpers: programs that store docker's passwords (docker-credential-helpers protocol)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from subprocess import DEVNULL
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, Process

from ..errors import ConfigError, from_os_error
from ..secret import Credentials, Secret
from ..untrusted import InvalidDocument, parse_object
from ..values import pattern
from .authfile import normalize_server

__all__ = ["ask_helper", "helper_environment"]

ANSWER_LIMIT: Final = 64 * 1024
TIME_LIMIT_S: Final = 30.0

_NAME = pattern(r"[A-Za-z0-9_.-]+")
_NOT_FOUND: Final = b"credentials not found in native keychain"
_PRIVATE_PREFIXES: Final = ("QUAYMIRROR_", "QUAY_API_TOKEN")

# docker stores the credentials for Docker Hub under this name.
_SERVERS = {"index.docker.io": "https://index.docker.io/v1/"}


async def ask_helper(
    name: str, registry: str, *, env: Mapping[str, str], time_limit_s: float = TIME_LIMIT_S
) -> Credentials | None:
    """Return the answer of `docker-credential-<name> get` for `registry`, a normalized `host[:port]`; None if unknown.

    The program is looked up in the absolute directories of `env`'s `PATH` and gets `env` without our own secrets.
    Messages contain nothing that it prints, since it may be a secret; its standard error is dropped.

    :raises ConfigError: naming the helper: an invalid name, a missing program, a failure, no answer within 30 s, more
        than 64 KiB, or anything but the protocol's JSON for this server. The next source must not be tried then
        (CVE-2021-41092).
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"not a valid name of a credential helper: {name[:100]!r}")

    program = f"docker-credential-{name}"
    path = _find_program(program, env)
    code, answer = await _run_get(path, registry, env=helper_environment(env), time_limit_s=time_limit_s)
    if code == 0:
        return _parse_answer(answer, program, registry)

    if answer.strip() == _NOT_FOUND:
        return None

    raise ConfigError(f"credential helper {program} failed for {registry} (exit status {code})")


def helper_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` without the variables that hold our own secrets."""
    return {key: value for key, value in env.items() if not key.startswith(_PRIVATE_PREFIXES)}


def _find_program(program: str, env: Mapping[str, str]) -> str:
    # A relative or empty entry of PATH means the working directory, which others may control.
    directories = [entry for entry in env.get("PATH", os.defpath).split(os.pathsep) if entry.startswith("/")]
    path = shutil.which(program, path=os.pathsep.join(directories)) if directories else None
    if path is None:
        raise ConfigError(f"credential helper {program} is not in PATH")

    return path


async def _run_get(path: str, registry: str, *, env: Mapping[str, str], time_limit_s: float) -> tuple[int, bytes]:
    program = os.path.basename(path)  # noqa: PTH119
    try:
        with anyio.fail_after(time_limit_s):
            async with await anyio.open_process([path, "get"], stderr=DEVNULL, env=env) as process:
                return await _converse(process, registry, program)
    except TimeoutError:
        raise ConfigError(f"credential helper {program} gave no answer in {time_limit_s:g} s") from None
    except OSError as error:
        raise from_os_error(error, "run", f"credential helper {program}", kind=ConfigError) from None


async def _converse(process: Process, registry: str, program: str) -> tuple[int, bytes]:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both are pipes")

    try:
        await process.stdin.send(_SERVERS.get(registry, registry).encode())
        await process.stdin.aclose()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # It did not read its question: its answer shows whether that matters.

    answer = await _receive(process.stdout)
    if len(answer) > ANSWER_LIMIT:
        # It may have ended already.
        with suppress(ProcessLookupError):
            process.kill()

        raise ConfigError(f"credential helper {program} answered more than {ANSWER_LIMIT} bytes")

    return await process.wait(), answer


async def _receive(stream: ByteReceiveStream) -> bytes:
    """Return all of `stream`, or its beginning if that exceeds the limit."""
    answer = bytearray()
    async for chunk in stream:
        answer += chunk
        if len(answer) > ANSWER_LIMIT:
            break

    return bytes(answer)


def _parse_answer(answer: bytes, program: str, registry: str) -> Credentials:
    try:
        document = parse_object(answer, limit=ANSWER_LIMIT)
    except InvalidDocument as error:
        raise ConfigError(f"the answer of credential helper {program} for {registry} {error}") from None

    server, username, secret = (document.get(key, "") for key in ("ServerURL", "Username", "Secret"))
    if not (isinstance(server, str) and isinstance(username, str) and isinstance(secret, str) and secret):
        raise ConfigError(f"credential helper {program} gave an invalid answer for {registry}")

    # Some helpers (gcloud's) omit ServerURL; one that names another server answers another question.
    if server and normalize_server(server) != registry:
        raise ConfigError(f"credential helper {program} answered for another server than {registry}")

    where = f"credential helper {program}, answer for {registry}"
    try:
        return Credentials(username, Secret(secret), where)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.message}") from None
