"""The referrers of the images of one run: their finders, one per source, and the rotation."""

from __future__ import annotations

from ..catalog.kinds import Services
from ..referrers.choice import ReferrerChoice
from ..referrers.find import ReferrerFinder
from ..referrers.rotation import Rotation
from ..settings import DiscoveryOptions
from ..store.records import Attachment
from ..transfer.image import TransferContext
from ..transfer.referrers import Referrers
from ..transfer.target import Target


class RunReferrers:
    """Makes the transfers of referrers that `options` want, one for each source."""

    def __init__(self, options: DiscoveryOptions) -> None:
        self._choice = ReferrerChoice(options.referrers, options.artifact_types)
        self._every = options.referrers_every
        self._rotation: Rotation | None = None

    async def of(self, services: Services, context: TransferContext) -> Referrers | None:
        """Return the transfers from a source; None if no referrers are wanted, or the target keeps none."""
        target = context.target.attachable()
        if target is None or self._choice.is_none:
            return None

        if self._rotation is None:
            self._rotation = Rotation(await target.referrer_checks(), self._every, self._choice.fingerprint)

        finder = ReferrerFinder(services.source, services.catalog, self._choice)
        return Referrers(finder, self._rotation, target, context)

    async def save(self, target: Target) -> None:
        """Record the images that were adopted; see `Rotation.adopted`.

        :raises StoreError: if the state can't be written.
        """
        attachable, rotation = target.attachable(), self._rotation
        if attachable is not None and rotation is not None and rotation.adopted:
            await attachable.attach(Attachment("", 0.0, checks=rotation.adopted))
            rotation.adopted = {}
