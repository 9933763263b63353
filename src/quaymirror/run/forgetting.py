"""Images that a target registry has lost and the source does not have any more: their records are of no use."""

from __future__ import annotations

from functools import partial

import anyio.to_thread

from ..documents.common import iso
from ..documents.removal import ForgottenJson
from ..errors import ConfigError, NotFound, QuaymirrorError, Scope
from ..events import Observer, ignore
from ..oci import Digest, Repository
from ..settings import Options
from ..store.records import ImageRecord, ReferrerRecord
from ..targets.kinds import TargetContext, find_target
from ..tasks import run_all
from ..values import dataclass
from .push_again import source_of
from .wiring import OpenSources, connect, connect_target

# The name of images from layouts, which are not looked at again.
_NO_REGISTRY = "localhost"


@dataclass(frozen=True, slots=True)
class LostImage:
    """A pushed image that the target has lost. `reason` is why its record is kept, "" if it is forgotten.

    It may also be a referrer that only the source has lost: the registry keeps it.
    """

    name: str
    digest: Digest | None = None
    reason: str = ""

    def to_json(self) -> ForgottenJson:
        """Return the image as JSON values."""
        return {"name": self.name, "digest": str(self.digest or ""), "reason": self.reason or None}


async def forget_lost(
    target: str, options: Options, *, dry_run: bool, observer: Observer = ignore
) -> tuple[LostImage, ...]:
    """Return the images, sorted by name, that runs from this machine have pushed to `target`, and that it has lost.

    Those that the source does not have any more are forgotten, unless in a dry run. Referrers that the source has lost
    are among them, to be kept, since nothing changes at a registry.

    :raises ConfigError: if `target` is no registry, or without a record of pushed images.
    :raises LockHeld: if a run pushes there.
    :raises QuaymirrorError: if the target can't be used.
    """
    spec = find_target(target, options)
    context = TargetContext(options, connect_target, observer)
    lost, unknown = await spec.lost(context)
    found = [LostImage(name, reason=f"the target can't be checked: {reason}") for name, reason in unknown.items()]
    async with connect(options, observer) as sources:
        await run_all(partial(_look, sources, options, record, found) for record in lost)

    gone = [image.name for image in found if not image.reason]
    if gone and not dry_run:
        await spec.forget(context, gone)

    found += map(_retained, await anyio.to_thread.run_sync(spec.retained, options))
    return tuple(sorted(found, key=lambda image: image.name))


def _retained(record: ReferrerRecord) -> LostImage:
    mark = f":{record.tag}" if record.tag else f"@{record.root.digest}"
    since = iso(record.missing or 0.0)[:10]
    reason = f"{record.artifact_type or 'a referrer'}, missing at the source since {since}: stays at the registry"
    return LostImage(f"{record.repository}{mark}", record.root.digest, reason)


async def _look(sources: OpenSources, options: Options, record: ImageRecord, found: list[LostImage]) -> None:
    found.append(LostImage(record.name, record.root.digest, await _reason(sources, options, record)))


async def _reason(sources: OpenSources, options: Options, record: ImageRecord) -> str:
    """Return why the record of an image that the target has lost is needed, "" if it is not."""
    if record.registry == _NO_REGISTRY:
        return "it came from a layout"

    try:
        services = await sources.open(source_of(record, options))
        await services.source.manifest(Repository(record.registry, record.name.rpartition(":")[0]), record.source)
    except NotFound:
        return ""
    except ConfigError:
        raise
    except QuaymirrorError as error:
        if error.scope is Scope.RUN:
            raise

        return f"the source can't be checked: {error.message}"

    return "the source has it: the next run of sync pushes it again"
