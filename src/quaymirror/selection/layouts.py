"""Selections from OCI image layouts, by the names that images have there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from .selection import Selection
from .source import SourceAddress


def select_images(
    source: SourceAddress, names: Sequence[str] = (), *, exclude: Iterable[str] = (), since: datetime | None = None
) -> tuple[Selection, ...]:
    """Return selections of the images of `source`, a layout: all, or those that match one of `names`.

    Each name is GLOB:TAG, where GLOB matches the whole name of a repository; without TAG, every tag is selected. Both
    can be several, separated by commas.

    :raises ConfigError: if a name is illegal.
    """
    excluded = tuple(exclude)
    parts = [name.partition(":")[::2] for name in names or ("*",)]
    return tuple(Selection("", globs, tags or "*", excluded, since, source=source) for globs, tags in parts)
