"""Secrets from files and standard input: small, regular, and without control characters.

Errors are raised outside of the handlers of decoding errors, since a `UnicodeDecodeError` holds all of its input.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

from ..errors import ConfigError, from_os_error
from ..secret import Secret
from ..values import dataclass

__all__ = ["SmallFile", "read_config_file", "read_secret_file", "read_secret_stdin", "read_small_file"]

SECRET_LIMIT: Final = 64 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class SmallFile:
    """The content of a small regular file; `is_exposed` if others than its owner can read it."""

    data: bytes
    is_exposed: bool


def read_secret_file(path: Path, *, on_notice: Callable[[str], None] | None = None) -> Secret:
    """Return the secret in the file at `path`, without a newline at its end.

    `on_notice` gets a line for a person if group or others can read the file.

    :raises ConfigError: as `read_small_file`, or if the content is not a secret; the message never quotes it.
    """
    file = read_small_file(path, limit=SECRET_LIMIT)
    if file is None:
        raise ConfigError(f"can't read {str(path)!r}: no such file or directory")

    if file.is_exposed and on_notice is not None:
        on_notice(f"{str(path)!r} contains a secret and can be read by others than its owner: chmod 600")

    return _parse_secret(file.data, f"the secret in {str(path)!r}")


def read_secret_stdin(stream: BinaryIO) -> Secret:
    """Return the secret in `stream`, under the rules of `read_secret_file`.

    :raises ConfigError: if it can't be read, is over 64 KiB, not UTF-8, empty, or contains control characters.
    """
    try:
        data = stream.read(SECRET_LIMIT + 1)
    except (OSError, ValueError):
        raise ConfigError("can't read a secret from standard input") from None

    if len(data) > SECRET_LIMIT:
        raise ConfigError(f"the secret on standard input is larger than {SECRET_LIMIT} bytes")

    return _parse_secret(data, "the secret on standard input")


def read_small_file(path: Path, *, limit: int) -> SmallFile | None:
    """Return the content of the regular file at `path`, None if it doesn't exist. A FIFO is refused without waiting.

    :raises ConfigError: if it can't be read, is not a regular file, or is larger than `limit` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{str(path)!r} is not a regular file")

            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(limit + 1)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise from_os_error(error, "read", path, kind=ConfigError) from None

    if len(data) > limit:
        raise ConfigError(f"{str(path)!r} is larger than {limit} bytes")

    return SmallFile(data, is_exposed=bool(mode & (stat.S_IRWXG | stat.S_IRWXO)))


def read_config_file(path: Path, *, limit: int) -> bytes:
    """Return the content of the regular file at `path`. A FIFO is refused without waiting.

    :raises ConfigError: as `read_small_file`, and if it doesn't exist.
    """
    file = read_small_file(path, limit=limit)
    if file is None:
        raise ConfigError(f"can't read {path}: no such file or directory")

    return file.data


def _parse_secret(data: bytes, what: str) -> Secret:
    # An undecodable byte becomes a lone surrogate, which Secret refuses: no UnicodeDecodeError is raised.
    text = data.decode(errors="surrogateescape").removesuffix("\n").removesuffix("\r")
    return Secret(text, what=what)
