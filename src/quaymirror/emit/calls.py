"""The calls of worker processes. This module is cheap to import; occystrap is not, and stays in the worker."""

from __future__ import annotations

from pathlib import Path

from ..oci import Digest
from .inflate import inflate
from .job import Destination, Emission, Job


def check(destination: Destination, filters: tuple[str, ...]) -> None:
    """Check that occystrap accepts `filters`; see `pipeline.check`."""
    from . import pipeline

    pipeline.check(destination, filters)


def identity(destination: Destination, image: str, tag: str) -> str:
    """Return the digest of an image in a registry or a daemon; see `pipeline.identity`."""
    from . import pipeline

    return pipeline.identity(destination, image, tag)


def prepare_layer(
    blob: Path, final: Path, diff_id: Digest, filters: tuple[str, ...] = (), image: str = ""
) -> tuple[int, str]:
    """Decompress a layer to `final` and apply `filters`; return its size and, with filters, its encoded digest.

    Errors name the `image`. See `inflate` and `pipeline.filter_layer`.
    """
    size = inflate(blob, final, diff_id)
    if not filters:
        return size, ""

    from . import pipeline

    return pipeline.filter_layer(final, filters, image)


def emit(job: Job) -> Emission:
    """Pass one image through occystrap; see `pipeline.emit`."""
    from . import pipeline

    return pipeline.emit(job)
