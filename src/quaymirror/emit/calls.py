"""What workers are asked to do. The module is cheap to import; occystrap is not, and stays in the worker."""

from __future__ import annotations

from .job import Destination, Emission, Job


def check(destination: Destination, filters: tuple[str, ...]) -> None:
    """Make sure that occystrap understands `filters`; see `pipeline.check`."""
    from . import pipeline

    pipeline.check(destination, filters)


def identity(destination: Destination, image: str, tag: str) -> str:
    """Return the digest that a registry or a daemon has an image under; see `pipeline.identity`."""
    from . import pipeline

    return pipeline.identity(destination, image, tag)


def emit(job: Job) -> Emission:
    """Send one image through occystrap; see `pipeline.emit`."""
    from . import pipeline

    return pipeline.emit(job)
