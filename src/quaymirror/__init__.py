"""Mirror whole quay.io organizations.

    import quaymirror

    selection = quaymirror.Selection("kolla", "*", "2025.1-debian")
    report = await quaymirror.sync(selection, target="./mirror")
    async for image in quaymirror.discover(selection):
        print(image.reference)

The names in `__all__` and the package `quaymirror.testing` are the public interface; all other modules are private and
change without notice. No state is global: any number of runs can go on in one process, each in a task of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .__about__ import __version__

if TYPE_CHECKING:
    from . import errors, events
    from .carry.export import ExportOptions, ExportResult, export_mirror
    from .carry.inventory import Inventory
    from .carry.progress import CarryProgress
    from .carry.receive import ImportOptions, ImportResult, import_parts
    from .carry.take_stock import request_missing, take_inventory
    from .catalog.base import PinnedImage
    from .errors import ExitCode, Failure, Phase, QuaymirrorError, Scope, Side
    from .events import Event, Observer, Outcome, Status, ignore
    from .http.retry import RetryPolicy
    from .http.timeouts import Timeouts
    from .oci import Digest, Platform, Reference, Repository
    from .progress.meters import Meters
    from .referrers.choice import ReferrerMode
    from .run.changes import Difference
    from .run.checkout import check_out
    from .run.context import Stop
    from .run.forgetting import LostImage, forget_lost
    from .run.info import image_infos
    from .run.jobs import Job, JobResult, run_jobs
    from .run.merge_reports import MergedReports, merge_reports
    from .run.mirror_list import MirrorList, list_mirror, mirror_infos
    from .run.past_runs import JobStatus, job_statuses
    from .run.planning import plan_shards, sync_shard
    from .run.pruning import prune_layout
    from .run.removal import Removal, remove_images, unselected_names
    from .run.report import Report
    from .run.snapshots import (
        ListedSnapshot,
        Rollback,
        diff_snapshots,
        held_names,
        hold_names,
        list_snapshots,
        protect_snapshot,
        roll_back,
        unhold_names,
    )
    from .run.source_diff import diff_source
    from .run.verify import verify
    from .secret import Credentials, Secret
    from .selection.selection import Selection
    from .serve.options import ServeOptions
    from .serve.serving import serve_mirrors
    from .settings import (
        ClientOptions,
        DiscoveryOptions,
        Limits,
        Options,
        OutputOptions,
        PruneOptions,
        PublishOptions,
        SourceOptions,
        TargetOptions,
    )
    from .shards.share import Share
    from .store.fsops import Fsync
    from .store.prune import PrunePlan
    from .store.records import Hold, MirroredImage, Snapshot
    from .store.verify import Verification

__all__ = [
    "CarryProgress",
    "ClientOptions",
    "Credentials",
    "Difference",
    "Digest",
    "DiscoveryOptions",
    "Event",
    "ExitCode",
    "ExportOptions",
    "ExportResult",
    "Failure",
    "Fsync",
    "Hold",
    "ImportOptions",
    "ImportResult",
    "Inventory",
    "Job",
    "JobResult",
    "JobStatus",
    "Limits",
    "ListedSnapshot",
    "LostImage",
    "MergedReports",
    "Meters",
    "MirrorList",
    "MirroredImage",
    "Observer",
    "Options",
    "Outcome",
    "OutputOptions",
    "Phase",
    "PinnedImage",
    "Platform",
    "PruneOptions",
    "PrunePlan",
    "PublishOptions",
    "QuaymirrorError",
    "Reference",
    "ReferrerMode",
    "Removal",
    "Report",
    "Repository",
    "RetryPolicy",
    "Rollback",
    "Scope",
    "Secret",
    "Selection",
    "ServeOptions",
    "Share",
    "Side",
    "Snapshot",
    "SourceOptions",
    "Status",
    "Stop",
    "TargetOptions",
    "Timeouts",
    "Verification",
    "__version__",
    "check_out",
    "diff_snapshots",
    "diff_source",
    "discover",
    "errors",
    "events",
    "export_mirror",
    "forget_lost",
    "held_names",
    "hold_names",
    "ignore",
    "image_infos",
    "import_parts",
    "job_statuses",
    "list_mirror",
    "list_snapshots",
    "merge_reports",
    "mirror_infos",
    "missing_images",
    "plan_shards",
    "protect_snapshot",
    "prune_layout",
    "push",
    "remove_images",
    "request_missing",
    "roll_back",
    "run_jobs",
    "serve_mirrors",
    "sync",
    "sync_shard",
    "take_inventory",
    "unhold_names",
    "unselected_names",
    "verify",
]

# Names are imported when they are used: all of them together take most of the start-up time of `quaymirror --help`.
_MODULES = {
    "carry.export": ("ExportOptions", "ExportResult", "export_mirror"),
    "carry.inventory": ("Inventory",),
    "carry.progress": ("CarryProgress",),
    "carry.receive": ("ImportOptions", "ImportResult", "import_parts"),
    "carry.take_stock": ("request_missing", "take_inventory"),
    "catalog.base": ("PinnedImage",),
    "errors": ("ExitCode", "Failure", "Phase", "QuaymirrorError", "Scope", "Side"),
    "events": ("Event", "Observer", "Outcome", "Status", "ignore"),
    "http.retry": ("RetryPolicy",),
    "http.timeouts": ("Timeouts",),
    "oci": ("Digest", "Platform", "Reference", "Repository"),
    "progress.meters": ("Meters",),
    "run.changes": ("Difference",),
    "run.check_images": ("missing_images",),
    "run.checkout": ("check_out",),
    "referrers.choice": ("ReferrerMode",),
    "run.context": ("Stop",),
    "run.forgetting": ("LostImage", "forget_lost"),
    "run.info": ("image_infos",),
    "run.jobs": ("Job", "JobResult", "run_jobs"),
    "run.merge_reports": ("MergedReports", "merge_reports"),
    "run.mirror_list": ("MirrorList", "list_mirror", "mirror_infos"),
    "run.past_runs": ("JobStatus", "job_statuses"),
    "run.planning": ("plan_shards", "sync_shard"),
    "run.pruning": ("prune_layout",),
    "run.removal": ("Removal", "remove_images", "unselected_names"),
    "run.report": ("Report",),
    "run.snapshots": (
        "ListedSnapshot",
        "Rollback",
        "diff_snapshots",
        "held_names",
        "hold_names",
        "list_snapshots",
        "protect_snapshot",
        "roll_back",
        "unhold_names",
    ),
    "run.source_diff": ("diff_source",),
    "run.verify": ("verify",),
    "secret": ("Credentials", "Secret"),
    "selection.selection": ("Selection",),
    "shards.share": ("Share",),
    "serve.options": ("ServeOptions",),
    "serve.serving": ("serve_mirrors",),
    "settings": (
        "ClientOptions",
        "DiscoveryOptions",
        "Limits",
        "Options",
        "OutputOptions",
        "PruneOptions",
        "PublishOptions",
        "SourceOptions",
        "TargetOptions",
    ),
    "store.fsops": ("Fsync",),
    "store.records": ("Hold", "MirroredImage", "Snapshot"),
    "store.prune": ("PrunePlan",),
    "store.verify": ("Verification",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names} | {"errors": "", "events": ""}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    module = _MODULE_OF[name]
    return getattr(import_module(f".{module}", __name__), name) if module else import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return __all__


async def sync(
    selection: Selection,
    target: str | Path = "./mirror",
    options: Options | None = None,
    *,
    observer: Observer | None = None,
    meters: Meters | None = None,
    stop: Stop | None = None,
) -> Report:
    """Mirror every image of `selection` to `target`: the path of an OCI image layout, or an address as for `--to`.

    Failures of images, of the source and of the disk during the run are in the report, never raised; cancelling the
    call is safe at any time. `observer` is called with every event, `meters` count bytes, `stop` ends the run early.

    :raises ConfigError: if `target` or `options` are not legal.
    :raises LockHeld: if another run holds the lock of `target`.
    :raises StoreError: if `target` can't be opened.
    """
    from .events import ignore
    from .progress.meters import Meters
    from .progress.run import RunProgress
    from .run.sync import run_sync
    from .settings import Options

    options, progress = options or Options(), RunProgress(meters=meters or Meters())
    return await run_sync(selection, target, options, observer=observer or ignore, progress=progress, stop=stop)


async def push(
    mirror: str | Path,
    target: str | Path,
    options: Options | None = None,
    *,
    names: Sequence[str] = (),
    at: str | None = None,
    observer: Observer | None = None,
    meters: Meters | None = None,
    stop: Stop | None = None,
) -> Report:
    """Load the images of `mirror`, the path of any OCI image layout or of an oci-archive, into `target`; see `sync`.

    `names` (GLOB:TAG, matched against whole names such as `kolla/nova-api:2025.1`) select images; the default is all.
    With `at`, an id or a date, they are those of an earlier snapshot. Blobs of a mirror that are being pushed are not
    pruned meanwhile.

    :raises ConfigError: if no layout is at `mirror`, or `target`, `names` or `options` are not legal.
    :raises LockHeld: if another run holds the lock of `target`.
    :raises StoreError: if `target` can't be opened.
    """
    from .events import ignore
    from .progress.meters import Meters
    from .progress.run import RunProgress
    from .run.sync import run_sync
    from .selection.layouts import select_images
    from .selection.source import parse_layout
    from .settings import Options

    options, progress = options or Options(), RunProgress(meters=meters or Meters())
    source = parse_layout(str(mirror))
    if at is not None:
        from anyio.to_thread import run_sync as in_thread

        from .run.snapshots import snapshot_source

        source = await in_thread(snapshot_source, str(mirror), at, options)

    selections = select_images(source, names)
    return await run_sync(selections, target, options, observer=observer or ignore, progress=progress, stop=stop)


def discover(
    selection: Selection, options: Options | None = None, *, observer: Observer | None = None
) -> AsyncGenerator[PinnedImage]:
    """Iterate over the images of `selection`, pinned to the digests of their tags, in the order of the listing.

    Tags are checked concurrently, ahead of the iteration. To leave it early, use `contextlib.aclosing`.

    :raises SelectionEmpty: if the organization is unknown or shows nothing, or if nothing in it matches.
    :raises QuaymirrorError: if the listing breaks off, or a tag can't be checked.
    """
    from .events import ignore
    from .run.info import find_images
    from .settings import Options

    return find_images(selection, options or Options(), observer=observer or ignore)
