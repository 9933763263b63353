"""Errors that end a run, or concern the local disk."""

from __future__ import annotations

import os

from .base import ExitCode, Phase, QuaymirrorError, Scope, Side, reason_of


class LockHeld(QuaymirrorError):
    """Another run works on the same mirror. Exit code 7."""

    exit_code = ExitCode.LOCKED
    scope = Scope.RUN
    side = Side.STORE


class SelectionEmpty(QuaymirrorError):
    """The selection matched no image. Exit code 9."""

    exit_code = ExitCode.EMPTY
    scope = Scope.RUN


class DiscoveryIncomplete(QuaymirrorError):
    """The listing could not be read to its end, or is not trustworthy. Exit code 5."""

    scope = Scope.RUN
    phase: Phase | None = Phase.DISCOVER


class EmitFailed(QuaymirrorError):
    """A filter or an output of occystrap failed, or its result did not pass its own check."""

    side = Side.TARGET
    phase: Phase | None = Phase.STORE


class MirrorDamaged(QuaymirrorError):
    """Content of the mirror doesn't match its digest, so that nothing can be built on it. Exit code 8."""

    advice = "to fetch damaged content again, run quaymirror verify MIRROR --repair"
    exit_code = ExitCode.DAMAGED
    is_lasting = True
    scope = Scope.RUN
    side = Side.STORE


class StoreError(QuaymirrorError):
    """The local disk failed: full, read-only, or an I/O error. Exit code 6."""

    exit_code = ExitCode.STORAGE
    scope = Scope.RUN
    side = Side.STORE


class BucketFailed(StoreError):
    """An object store does not answer, or fails. Exit code 5."""

    exit_code = ExitCode.UNAVAILABLE
    side = Side.TARGET


class BucketDenied(BucketFailed):
    """An object store refuses the credentials, or the access. Exit code 4."""

    exit_code = ExitCode.CREDENTIALS
    advice = "set the variables of the object store, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


class DoesNotFit(QuaymirrorError):
    """An image, or one of its blobs, is larger than the free space: it fails alone, since smaller ones may fit."""

    exit_code = ExitCode.PARTIAL
    side = Side.STORE
    phase: Phase | None = Phase.STORE


def _lacks_directory() -> bool:
    """Return True if the current directory was removed, so that relative paths lead nowhere."""
    try:
        os.getcwd()  # noqa: PTH109 - as Path does
    except FileNotFoundError:
        return True

    return False


def from_system(error: BaseException) -> StoreError | None:
    """Return the error for a failure of the system that was not expected where it happened, None if it is none.

    The machine then lacks a resource, or a file or program is not the expected one.
    """
    match error:
        case FileNotFoundError(filename=None) if _lacks_directory():
            return StoreError("the current directory does not exist any more: change to another one")
        case OSError():
            path = "" if error.filename is None else f"can't use {error.filename}: "
            return StoreError(f"{path}{reason_of(error)}")
        case MemoryError():
            return StoreError("there is not enough memory")
        case RuntimeError(args=[str(text), *_]) if "can't start new thread" in text:
            return StoreError("can't start a thread: too many of them, or not enough memory")
        case _:
            return None
