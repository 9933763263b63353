"""The transfer of the referrers of images."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import field, replace
from functools import partial

from ..catalog.base import PinnedImage
from ..errors import QuaymirrorError, Scope, Side
from ..oci import Descriptor, Digest, Reference
from ..oci.artifact import annotations_of
from ..oci.manifest import Index, Manifest, Node, Opaque
from ..referrers.choice import ReferrerChoice
from ..referrers.find import Found, Referrer, ReferrerFinder
from ..referrers.rotation import Due, Key, Listed, Rotation
from ..selection.selection import LockedReferrer
from ..store.records import Attachment, ReferrerRecord
from ..values import dataclass
from .image import BroughtReferrers, ImageTransfer, TransferContext
from .slots import ImageSlot
from .target import ReferrerTarget


class Referrers:
    """Brings the referrers of images from one source to the target; see `ReferrerTransfers`."""

    def __init__(
        self,
        finder: ReferrerFinder,
        choice: ReferrerChoice,
        rotation: Rotation,
        target: ReferrerTarget,
        context: TransferContext,
    ) -> None:
        self._finder = finder
        self._choice = choice
        self._rotation = rotation
        self._target = target
        # A referrer is taken whole: platforms are those of images.
        self._context = replace(context, platforms=())

    async def find(self, image: PinnedImage, named: Reference, manifests: Sequence[Node]) -> Found:
        """Find the referrers of an image with these manifests."""
        subjects = [node.descriptor.digest for node in reversed(manifests) if not isinstance(node, Opaque)]
        if image.referrers is not None:
            return await self._find_locked(image, named, subjects, self._chosen(image.referrers))

        return await self._find(image, subjects, Due.ALL)

    async def bring_to_new(self, image: PinnedImage, named: Reference, found: Found) -> BroughtReferrers:
        """Bring the referrers of an image whose commit follows."""
        return await self._bring(image, named, found, Due.ALL if image.referrers is None else None)

    async def bring_to_stored(self, image: PinnedImage, named: Reference) -> BroughtReferrers | None:
        """Bring the referrers of a stored image if it is their turn, and record them.

        Those of a lock file are brought if they are not recorded.
        """
        if image.referrers is not None:
            return await self._bring_lacking(image, named, self._chosen(image.referrers))

        key, listed = _key(image), _listed(image)
        if self._rotation.is_unknown(key) and image.listed is not None:
            self._rotation.spread(key, listed)
            return None

        due = self._rotation.due(key, listed, is_new=False)
        if due is Due.NOTHING:
            return None

        found = await self._find(image, await self._target.stored_subjects(named), due)
        brought = await self._bring(image, named, found, due)
        await self._target.attach(brought.attachment)
        return brought

    def _chosen(self, locked: Sequence[LockedReferrer]) -> list[LockedReferrer]:
        return [each for each in locked if self._choice.wants_any(each.tag, each.artifact_type)]

    async def _bring_lacking(
        self, image: PinnedImage, named: Reference, locked: Sequence[LockedReferrer]
    ) -> BroughtReferrers | None:
        """Bring and record those of the `locked` referrers of a stored image that are not recorded."""
        records = await self._target.stored_referrers({each.subject for each in locked})
        here = {
            (each.subject, each.root.digest, each.tag)
            for each in records
            if each.repository == named.repository.name and each.missing is None
        }
        lacking = [each for each in locked if (each.subject, each.digest, each.tag) not in here]
        if not lacking:
            return None

        subjects = [*await self._target.stored_subjects(named), *(digest for _, digest, _ in here)]
        brought = await self._bring(image, named, await self._find_locked(image, named, subjects, lacking))
        await self._target.attach(brought.attachment)
        return brought

    async def _find_locked(
        self, image: PinnedImage, named: Reference, subjects: Sequence[Digest], locked: Sequence[LockedReferrer]
    ) -> Found:
        """Return the `locked` referrers of `subjects`. It is no lookup: a run without the lock file finds others."""
        return await self._finder.find_locked(
            image.reference.repository,
            subjects,
            locked,
            read_stored=self._context.target.read_manifest,
            recover=partial(self._context.target.recover_manifest, named),
        )

    async def _find(self, image: PinnedImage, subjects: Sequence[Digest], due: Due) -> Found:
        return await self._finder.find(
            image.reference.repository,
            subjects,
            self._choice,
            read_stored=self._context.target.read_manifest,
            tags_only=due is Due.TAGS,
        )

    async def _bring(
        self, image: PinnedImage, named: Reference, found: Found, due: Due | None = None
    ) -> BroughtReferrers:
        """Bring all of `found`; `due` is the lookup to record, None for none."""
        order = sorted(found.referrers, key=_place)
        transfers = _Transfers(self._context, self._target, image, named, found)
        for referrer in order:
            await transfers.bring(referrer)

        key, listed, checks = _key(image), _listed(image), {}
        if due is not None:
            checks[key] = self._rotation.checked(key, listed, due, succeeded=not found.failures)

        attachment = Attachment(
            repository=named.repository.name,
            moment=listed.at,
            referrers=tuple(transfers.records),
            tagged=frozenset(found.tagged),
            listed=frozenset(found.listed),
            checks=checks,
        )
        return BroughtReferrers(attachment, tuple(found.failures), transfers.fetched_bytes)


@dataclass(slots=True)
class _Transfers:
    """The transfers of the referrers of one image, one after the other: they are small, and depend on each other."""

    context: TransferContext
    target: ReferrerTarget
    image: PinnedImage
    named: Reference
    found: Found
    records: list[ReferrerRecord] = field(default_factory=list)
    fetched_bytes: int = 0

    async def bring(self, referrer: Referrer) -> None:
        """Bring one referrer, unless the run ends; its failure is one of the image's referrers."""
        if self.found.is_ended:
            self.found.fail(referrer)
            return

        node = referrer.node
        pinned = Reference(self.image.reference.repository, None, node.descriptor.digest)
        try:
            async with ImageSlot(self.context.slots) as slot:
                transfer = ImageTransfer(PinnedImage(pinned, source=self.image.source), self.context, slot)
                transfer.known = node
                plan = await transfer.bring(self.named)
                await self._put(referrer)
        except QuaymirrorError as error:
            if error.scope is Scope.RUN and error.side is not Side.SOURCE:
                raise

            self.found.fail(referrer, error)
            return

        self.fetched_bytes += transfer.fetched_bytes
        self.records.append(_record(referrer, node, self.image, self.named, plan.contents))

    async def _put(self, referrer: Referrer) -> None:
        node, target, tag = referrer.node, self.target, referrer.tag
        put = partial(target.put_referrer, self.named, referrer.subject, node.descriptor, node.raw, tag=tag)
        failure = await self.context.flights.run(target.referrer_key(self.named, node.descriptor, tag), put)
        if failure is not None:
            raise failure.error()


def _record(
    referrer: Referrer, node: Manifest | Index, image: PinnedImage, named: Reference, contents: tuple[Descriptor, ...]
) -> ReferrerRecord:
    return ReferrerRecord(
        subject=referrer.subject,
        root=node.descriptor,
        registry=image.reference.repository.registry,
        repository=named.repository.name,
        tag=referrer.tag,
        artifact_type=referrer.artifact_type,
        annotations=annotations_of(node),
        contents=contents,
    )


def _place(referrer: Referrer) -> tuple[bool, Digest, str, Digest]:
    """Return the place in the order of transfers: digest tags come after all others."""
    return bool(referrer.tag), referrer.subject, referrer.tag, referrer.node.descriptor.digest


def _key(image: PinnedImage) -> Key:
    return image.reference.repository.registry, image.reference.repository.name, str(image.digest)


def _listed(image: PinnedImage) -> Listed:
    listed = image.listed
    at = time.time() if image.listed_at is None else float(image.listed_at)
    return Listed(at=at) if listed is None else Listed(listed.stamp, listed.updated, at)
