"""The calls of worker processes. This module is cheap to import; occystrap is not, and stays in the worker."""

from __future__ import annotations

from .job import Destination, Emission, Job


def check(destination: Destination, filters: tuple[str, ...]) -> None:
    """Check that occystrap accepts `filters`; see `pipeline.check`."""
    from . import pipeline

    pipeline.check(destination, filters)


def identity(destination: Destination, image: str, tag: str) -> str:
    """Return the digest of an image in a registry or a daemon; see `pipeline.identity`."""
    from . import pipeline

    return pipeline.identity(destination, image, tag)


def emit(job: Job) -> Emission:
    """Pass one image through occystrap; see `pipeline.emit`."""
    from . import pipeline

    return pipeline.emit(job)
