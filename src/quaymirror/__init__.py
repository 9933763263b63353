"""Mirror whole quay.io organizations.

    import quaymirror

    selection = quaymirror.Selection("kolla", "*", "2025.1-debian")
    report = await quaymirror.sync(selection, target="./mirror")
    async for image in quaymirror.discover(selection):
        print(image.reference)

Nothing is global: any number of runs can go on in one process, each in its own task.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import TYPE_CHECKING

from .__about__ import __version__
from .errors import QuaymirrorError
from .events import Event, Observer, Outcome, Status, ignore
from .progress.meters import Meters
from .selection.selection import Selection

if TYPE_CHECKING:
    from .catalog.base import PinnedImage
    from .run.context import Stop
    from .run.report import Report
    from .settings import Options

__all__ = [
    "Event",
    "Meters",
    "Observer",
    "Options",
    "Outcome",
    "PinnedImage",
    "QuaymirrorError",
    "Report",
    "Selection",
    "Status",
    "Stop",
    "__version__",
    "discover",
    "sync",
]

# What these need takes most of the start-up time, and `quaymirror --help` needs none of it.
_LAZY = {
    "PinnedImage": "quaymirror.catalog.base",
    "Report": "quaymirror.run.report",
    "Options": "quaymirror.settings",
    "Stop": "quaymirror.run.context",
}


def __getattr__(name: str) -> object:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


async def sync(
    selection: Selection,
    target: str | Path = "./mirror",
    settings: Options | None = None,
    *,
    observer: Observer = ignore,
    meters: Meters | None = None,
    stop: Stop | None = None,
) -> Report:
    """Mirror every image of `selection` to `target`: the path of an OCI image layout, or what `--to` takes.

    Failures of images, of the source and of the disk during the run are in the report, never raised; cancelling the
    call is safe at any time. `observer` is told of every event, `meters` count bytes, `stop` ends the run early.

    :raises ConfigError: when `target` or `settings` make no sense.
    :raises LockHeld: when another run is at work on `target`.
    :raises StoreError: when `target` can't be opened.
    """
    from .run.sync import run_sync
    from .settings import Options

    return await run_sync(selection, target, settings or Options(), observer=observer, meters=meters, stop=stop)


def discover(
    selection: Selection, settings: Options | None = None, *, observer: Observer = ignore
) -> AsyncGenerator[PinnedImage]:
    """Iterate over the images of `selection`, pinned to the digests their tags have now, in the listing's order.

    Tags are checked concurrently, ahead of the iteration. To leave it early, use `contextlib.aclosing`.

    :raises SelectionEmpty: if the organization is unknown or shows nothing, or if nothing in it matches.
    :raises QuaymirrorError: if the listing breaks off, or a tag can't be checked.
    """
    from .run.find import find_images
    from .settings import Options

    return find_images(selection, settings or Options(), observer=observer)
