"""The referrers of exported images: digest tags, and lists of referrers under the tags that name their subjects.

They travel as images with these tags; the import turns them into referrers again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from ..errors import InvalidName
from ..oci import Descriptor, Digest
from ..oci.digest_tags import is_digest_tag
from ..store.records import ImageRecord

Contents = Callable[[str, Descriptor], Iterable[Descriptor]]


def subject_of(name: str) -> Digest | None:
    """Return the digest that an entry of an index belongs to, None for one that is an image itself."""
    tag = name.rpartition(":")[2]
    if not is_digest_tag(tag):
        return None

    try:
        return Digest.parse(tag.partition(".")[0].replace("-", ":", 1))
    except InvalidName:
        return None


def find_attached(
    images: Iterable[ImageRecord], entries: Iterable[tuple[str, Descriptor]], contents: Contents
) -> list[ImageRecord]:
    """Return what belongs to `images`, and to their referrers, among the `entries` of an index, sorted by name.

    A list without a repository belongs to every repository that has its subject.
    """
    waiting: defaultdict[Digest, list[tuple[str, Descriptor]]] = defaultdict(list)
    for name, root in entries:
        subject = subject_of(name)
        if subject is not None:
            waiting[subject].append((name, root))

    found: dict[str, ImageRecord] = {}
    new = list(images)
    while new:
        owners = {(_repository(image.name), node.digest): image for image in new for node in image.contents}
        new = []
        for (repository, digest), owner in owners.items():
            for name, root in waiting.get(digest, ()):
                own = _repository(name)
                full = f"{repository}:{name.rpartition(':')[2]}"
                if own in ("", repository) and full not in found:
                    needed = tuple(contents(name, root))
                    found[full] = ImageRecord(full, owner.registry, root.digest, root, needed)
                    new.append(found[full])

    return [found[name] for name in sorted(found)]


def _repository(name: str) -> str:
    return name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
