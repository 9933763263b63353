"""The check of one candidate: which of its tags are selected, and their digests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import field

from ..catalog.base import Catalog, ListedRepository, ListsNewest, PinnedImage, Tag, TagAnswer
from ..errors import AccessDenied, NotFound
from ..events import CandidateSkipped, DigestTagsSeen, Observer, TagsRejected, ignore
from ..oci import Reference
from ..oci.digest_tags import is_digest_tag, selects_digest_tags
from ..selection.grammar import is_pattern
from ..selection.labels import LabelCondition
from ..selection.selection import Selection
from ..values import dataclass
from .listing import Candidate, is_older, report_rejected
from .tag_cache import TagCache
from .unmatched import Matches

LabelCheck = Callable[[PinnedImage, Sequence[LabelCondition]], Awaitable[bool]]
"""Returns True if the labels of an image meet conditions; raises `QuaymirrorError` if they can't be read."""

# Tags of one repository from which on a page of its list is asked for in place of each.
_ENOUGH_FOR_A_PAGE = 2
NO_SUCH_TAG = "no such tag"


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks the candidates of one selection; tags with a valid check in `cache` are not looked up."""

    catalog: Catalog
    selection: Selection
    cache: TagCache
    observer: Observer
    labels: LabelCheck | None = None
    matches: Matches = field(default_factory=Matches)
    dated: bool = False
    """Ask where everything about a tag is known."""

    async def check(self, candidate: Candidate) -> list[PinnedImage] | CandidateSkipped:
        """Return the selected images of `candidate`, at least one, or the reason for none.

        :raises CredentialsRefused: if our credentials are no longer accepted.
        :raises QuaymirrorError: if the server gives no usable answer.
        """
        name = candidate.repository.name
        self.cache.note(candidate)
        found: dict[str, Tag] = {}
        try:
            wanted = self.selection.tags_of(candidate.listed.name)
            known = await self._newest(candidate, wanted) if len(wanted) > 1 else {}
            for one in wanted:
                found |= {tag.name: tag for tag in await self._tags(candidate, one, known)}
        except NotFound:
            return CandidateSkipped(name, "deleted since it was listed")
        except AccessDenied as error:
            if error.status != 401 or not error.codes or not self.catalog.traits.hides_private:
                raise  # without an error of the API, a proxy may have answered

            # Quay answers anonymous clients the same for a deleted repository and for a private one.
            return CandidateSkipped(name, "deleted or private since it was listed")

        self.matches.found(self.selection, candidate.listed.name, found)
        if not found:
            return CandidateSkipped(name, NO_SUCH_TAG)

        return await self._narrowed(candidate, found.values())

    async def _narrowed(self, candidate: Candidate, tags: Iterable[Tag]) -> list[PinnedImage] | CandidateSkipped:
        """Return the images of those of `tags` that no option leaves out, or the reason why all of them are."""
        selection, name = self.selection, candidate.repository.name
        wanted = [tag for tag in tags if selection.is_tag_included(tag.name)]
        if not wanted:
            return CandidateSkipped(name, "its tags are excluded")

        since = selection.since
        recent = [tag for tag in wanted if since is None or not is_older(tag.start, since)]
        if not recent:
            return CandidateSkipped(name, "not updated since")

        if selection.newest is not None:
            recent.sort(key=lambda tag: (tag.start or 0, tag.name), reverse=True)

        images: list[PinnedImage] = []
        for tag in recent:
            # An image that a layout names by its digest has no tag.
            named = None if tag.name.startswith("@") else tag.name
            reference = Reference(candidate.repository, named, tag.digest)
            image = PinnedImage(
                reference,
                tag.start,
                tag.size,
                selection.source,
                tag.is_index,
                tag.is_sparse,
                candidate.listed,
                candidate.at,
            )
            if len(images) == selection.newest:
                break

            if self.labels is None or await self.labels(image, selection.labels):
                images.append(image)

        return images or CandidateSkipped(name, "no image with the label")

    async def _newest(self, candidate: Candidate, wanted: Iterable[str]) -> dict[str, TagAnswer]:
        """Return the answers for those of the `wanted` tags that one page of the list of tags has."""
        names = [one for one in wanted if not is_pattern(one) and self._recall(candidate, one) is None]
        if len(names) < _ENOUGH_FOR_A_PAGE or not isinstance(self.catalog, ListsNewest):
            return {}

        page = await self.catalog.newest_tags(candidate.repository)
        if page is None:
            return {}

        tags = {tag.name: tag for tag in page.tags}
        return {name: TagAnswer(tags.get(name), page.at) for name in names if name in tags or page.is_complete}

    def _recall(self, candidate: Candidate, tag: str) -> TagAnswer | None:
        return self.cache.recall(candidate, tag, dated=self.dated or self.selection.needs_dates)

    async def _tags(self, candidate: Candidate, wanted: str, known: Mapping[str, TagAnswer]) -> Iterable[Tag]:
        """Return the tags that `wanted`, a tag or a glob, matches; `known` are answers by tag."""
        if is_pattern(wanted):
            found = await self.catalog.tags(candidate.repository, wanted)
            report_rejected(candidate.repository.name, found.rejected, self.observer)
            if found.rejected:
                self.observer(TagsRejected(candidate.repository.name, len(found.rejected)))

            return self._without_digest_tags(candidate, wanted, found.tags)

        dated = self.dated or self.selection.needs_dates
        answer = self._recall(candidate, wanted)
        if answer is None:
            answer = known.get(wanted) or await self.catalog.tag(
                candidate.repository, wanted, batch=candidate.batch, dated=dated
            )
            self.cache.remember(candidate, wanted, answer)

        return () if answer.tag is None else (answer.tag,)

    def _without_digest_tags(self, candidate: Candidate, wanted: str, tags: Sequence[Tag]) -> Sequence[Tag]:
        """Return `tags` without those that belong to digests, unless the glob asks for them."""
        if selects_digest_tags(wanted):
            return tags

        images = [tag for tag in tags if not is_digest_tag(tag.name)]
        if len(images) < len(tags):
            self.observer(DigestTagsSeen(candidate.repository.name, len(tags) - len(images)))

        return images


async def check_again(
    image: PinnedImage, selections: Sequence[Selection], catalog: Catalog
) -> PinnedImage | CandidateSkipped:
    """Return the image that the tag of `image` means now, for one whose manifest was not found; one of a lock stays.

    :raises QuaymirrorError: if the server gives no usable answer.
    """
    repository, tag = image.reference.repository, image.reference.tag
    if tag is None or _is_pinned(image, selections):
        return image

    source, name = image.source, repository.name
    organization = ""
    if source is None or source.has_organizations:
        organization, _, name = name.partition("/")

    checker = Checker(catalog, Selection(organization, tags=tag, source=source), TagCache(), ignore, dated=True)
    found = await checker.check(Candidate(repository, ListedRepository(name)))
    return found if isinstance(found, CandidateSkipped) else found[0]


def _is_pinned(image: PinnedImage, selections: Sequence[Selection]) -> bool:
    name, tag, digest = image.reference.repository.name, image.reference.tag, image.digest
    return any(
        (selection.prefix + pin.repository, pin.tag, pin.digest) == (name, tag, digest)
        for selection in selections
        for pin in selection.pinned
    )
