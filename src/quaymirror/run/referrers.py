"""The referrers of the images of one run: their finders, one per source, and the rotation."""

from __future__ import annotations

from collections.abc import Sequence

from ..events import Notice, Observer
from ..oci.digest_tags import selects_digest_tags
from ..referrers.choice import ReferrerChoice, with_bundles
from ..referrers.find import ReferrerFinder
from ..referrers.rotation import Rotation
from ..selection.selection import Selection
from ..settings import DiscoveryOptions
from ..store.records import Attachment
from ..text import counted
from ..transfer.image import TransferContext
from ..transfer.referrers import Referrers
from ..transfer.target import ReferrerTarget, Target


class RunReferrers:
    """Makes the transfers of referrers that `options` want, one for each source.

    If a signature policy judges images (`are_judged`), their signatures are wanted in any case.
    """

    def __init__(
        self,
        options: DiscoveryOptions,
        selections: Sequence[Selection],
        observer: Observer,
        *,
        are_judged: bool = False,
    ) -> None:
        self._observer = observer
        self._keeps_tags = any(selects_digest_tags(tag) for selection in selections for tag in selection.tags)
        self._choice = ReferrerChoice(options.referrers, options.artifact_types)
        if are_judged:
            self._choice = with_bundles(self._choice)  # signatures that were judged are kept

        self._every = options.referrers_every
        self._rotation: Rotation | None = None

    async def of(self, finder: ReferrerFinder, context: TransferContext) -> Referrers | None:
        """Return the transfers of what `finder` finds; None if none are wanted or kept, and in a dry run."""
        target = context.target.attachable()
        if target is None or self._choice.is_none or context.counted is not None:
            return None

        if self._rotation is None:
            await self._adopt(target)
            self._rotation = Rotation(await target.referrer_checks(), self._every, self._choice.fingerprint)

        return Referrers(finder, self._choice, self._rotation, target, context)

    async def _adopt(self, target: ReferrerTarget) -> None:
        if not self._keeps_tags and (count := await target.adopt_tags()):
            names = counted(count, "image was a digest tag and is", "images were digest tags and are")
            self._observer(Notice(f"{names} kept with the images they belong to"))

    async def finish(self, target: Target) -> None:
        """Record the images that were adopted (see `Rotation.adopted`), and settle the stored referrers.

        :raises StoreError: if the state can't be written.
        :raises QuaymirrorError: if a registry loses entries of its lists.
        """
        attachable, rotation = target.attachable(), self._rotation
        if attachable is None or rotation is None:
            return

        if rotation.adopted:
            await attachable.attach(Attachment("", 0.0, checks=rotation.adopted))
            rotation.adopted = {}

        await attachable.settle_referrers()
