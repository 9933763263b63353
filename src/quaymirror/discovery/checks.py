"""The check of one candidate: which of its tags are selected, and their digests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..catalog.base import Catalog, ListedRepository, PinnedImage, Tag
from ..errors import AccessDenied, NotFound
from ..events import CandidateSkipped, Observer, ignore
from ..oci import Reference
from ..selection.grammar import is_pattern
from ..selection.selection import Selection
from ..values import dataclass
from .listing import Candidate, is_older, report_rejected
from .tag_cache import TagCache

NO_SUCH_TAG = "no such tag"


@dataclass(frozen=True, slots=True)
class Checker:
    """Checks the candidates of one selection; tags with a valid check in `cache` are not looked up."""

    catalog: Catalog
    selection: Selection
    cache: TagCache
    observer: Observer

    async def check(self, candidate: Candidate) -> list[PinnedImage] | CandidateSkipped:
        """Return the selected images of `candidate`, at least one, or the reason for none.

        :raises CredentialsRefused: if our credentials are no longer accepted.
        :raises QuaymirrorError: if the server gives no usable answer.
        """
        name = candidate.repository.name
        found: dict[str, Tag] = {}
        try:
            for wanted in self.selection.tags:
                found |= {tag.name: tag for tag in await self._tags(candidate, wanted)}
        except NotFound:
            return CandidateSkipped(name, "deleted since it was listed")
        except AccessDenied as error:
            if error.status != 401 or not error.codes or not self.catalog.traits.hides_private:
                raise  # without an error of the API, a proxy may have answered

            # Quay answers anonymous clients the same for a deleted repository and for a private one.
            return CandidateSkipped(name, "deleted or private since it was listed")

        if not found:
            return CandidateSkipped(name, NO_SUCH_TAG)

        since = self.selection.since
        recent = [tag for tag in found.values() if since is None or not is_older(tag.start, since)]
        images = [
            PinnedImage(
                Reference(candidate.repository, tag.name, tag.digest), tag.start, tag.size, self.selection.source
            )
            for tag in recent
        ]
        return images or CandidateSkipped(name, "not updated since")

    async def _tags(self, candidate: Candidate, wanted: str) -> Iterable[Tag]:
        """Return the tags that `wanted`, a tag or a glob, matches."""
        if is_pattern(wanted):
            found = await self.catalog.tags(candidate.repository, wanted)
            report_rejected(candidate.repository.name, found.rejected, self.observer)
            return found.tags

        dated = self.selection.since is not None
        answer = self.cache.recall(candidate, wanted, dated=dated)
        if answer is None:
            answer = await self.catalog.tag(candidate.repository, wanted, batch=candidate.batch, dated=dated)
            self.cache.remember(candidate, wanted, answer)

        return () if answer.tag is None else (answer.tag,)


async def check_again(
    image: PinnedImage, selections: Sequence[Selection], catalog: Catalog
) -> PinnedImage | CandidateSkipped:
    """Return the image that the tag of `image` means now, for one whose manifest was not found; one of a lock stays.

    :raises QuaymirrorError: if the server gives no usable answer.
    """
    repository, tag = image.reference.repository, image.reference.tag
    if tag is None or any(selection.pinned for selection in selections):
        return image

    source, name = image.source, repository.name
    organization = ""
    if source is None or source.has_organizations:
        organization, _, name = name.partition("/")

    checker = Checker(catalog, Selection(organization, tags=tag, source=source), TagCache(), ignore)
    found = await checker.check(Candidate(repository, ListedRepository(name)))
    return found if isinstance(found, CandidateSkipped) else found[0]
