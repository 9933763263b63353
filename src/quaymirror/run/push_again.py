"""Repair of a target registry: images with missing content are pushed again, as they were recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from ..events import Notice, Observer
from ..selection.lockfile import tags_of
from ..selection.rename import Renames, split_name
from ..selection.selection import Pin, Selection
from ..selection.source import SourceAddress
from ..settings import Options
from ..store.records import ImageRecord
from ..store.verify import Verification
from ..targets.kinds import TargetContext, TargetSpec
from .sync import run_sync
from .wiring import connect_target


async def push_again(target: str, spec: TargetSpec, options: Options, observer: Observer) -> Verification:
    """Verify a registry, push the images that lost something again, and return the result after that.

    :raises ConfigError: without a record of pushed images.
    :raises QuaymirrorError: if the target can't be used.
    """
    context = TargetContext(options, connect_target, observer)
    found = await spec.verify(context)
    names = {name for damage in found.damages for name in damage.images}
    selections = selections_of([record for record in await spec.recorded(options) if record.name in names], options)
    if not selections:
        return found

    report = await run_sync(selections, target, options)
    for outcome in report.outcomes:
        if outcome.error is not None:
            observer(Notice(f"{outcome.reference.name} can't be pushed again: {outcome.error.message}"))

    if report.fatal is not None:
        observer(Notice(f"not all images could be pushed again: {report.fatal.message}"))

    return await spec.verify(context)


def selections_of(records: Iterable[ImageRecord], options: Options) -> list[Selection]:
    """Return selections of exactly the recorded images, at the registries that they came from."""
    pins: defaultdict[tuple[SourceAddress | None, str], list[Pin]] = defaultdict(list)
    renames = Renames(options.target.renames)
    for record in records:
        repository, tag = split_name(renames.restore(record.registry, record.name) or record.name)
        source = source_of(record, options)
        organization, name = ("", repository) if source is not None else repository.split("/", 1)
        pins[source, organization].append(Pin(name, tag, record.source))

    return [
        Selection(organization, "*", tags_of(of_it), pinned=sorted(of_it), source=source)
        for (source, organization), of_it in pins.items()
    ]


def source_of(record: ImageRecord, options: Options) -> SourceAddress | None:
    """Return the registry that an image came from, None for the server of the options."""
    if record.registry == options.source.origin.netloc and "/" in record.name:
        return None

    return SourceAddress("registry", record.registry)
