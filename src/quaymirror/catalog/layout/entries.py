"""The images that the index of a layout names, whichever tool wrote it. Pure, but for nested indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import Any

from ...errors import InvalidName, MirrorDamaged, UnsupportedContent
from ...oci import Descriptor, Digest, mediatype
from ...oci.digest_tags import is_digest_tag
from ...oci.reference import is_registry_host, is_repository_name, is_tag
from ...store.documents import CONTAINERD_NAME, REF_NAME, parse_index
from ...untrusted import InvalidDocument
from ...values import dataclass

# An index of indexes of indexes is the deepest that a tool could have a reason for.
_MAX_DEPTH = 3
# Names of registries that need no port to be recognised; others have at least two more components after them.
_WELL_KNOWN = frozenset({"docker.io", "ghcr.io", "quay.io", "gcr.io", "registry.k8s.io", "mcr.microsoft.com"})

ReadIndex = Callable[[Digest], bytes | None]
"""Returns the verified content of a nested index, None if it does not exist; raises MirrorDamaged if it is damaged."""


@dataclass(frozen=True, slots=True)
class ImageName:
    """The name of an image: its registry ("" if unknown), repository ("" if only the tag is known), and tag.

    For an image that is named by its digest, `tag` is an `@` and the digest.
    """

    registry: str
    repository: str
    tag: str


@dataclass(slots=True)
class LayoutImages:
    """Images of a layout by repository and tag. `registries` are the hosts that repositories came from, if known.

    `rejected` describes entries that name no image.
    """

    images: dict[str, dict[str, Descriptor]] = field(default_factory=dict)
    registries: dict[str, str] = field(default_factory=dict)
    loose: dict[str, Descriptor] = field(default_factory=dict)
    """Lists of referrers, by the tags that name their subjects: they belong to every repository that has those."""
    rejected: list[str] = field(default_factory=list)


def parse_images(document: bytes, read_index: ReadIndex, *, repository: str = "") -> LayoutImages:
    """Return the images of an index; those that are named by a tag alone belong to `repository`, if that is given.

    An entry without a name that is an index itself is read by `read_index`.

    :raises InvalidDocument: if the document is not an index.
    """
    found = LayoutImages()
    ambiguous: set[tuple[str, str]] = set()
    for entry in image_entries(document, read_index, found.rejected):
        try:
            node = Descriptor.parse(entry, where="its entry")
            if is_digest_tag(tag := _annotation(entry, REF_NAME) or ""):
                found.loose[tag] = node
                continue

            name = _name_of(entry, repository)
        except (UnsupportedContent, InvalidName) as error:
            found.rejected.append(error.message)
            continue

        tags = found.images.setdefault(name.repository, {})
        if tags.setdefault(name.tag, node).digest != node.digest:
            ambiguous.add((name.repository, name.tag))
        elif name.registry:
            found.registries.setdefault(name.repository, name.registry)

    for owner, tag in sorted(ambiguous):
        del found.images[owner][tag]
        found.rejected.append(f"{owner}:{tag}, which names several images")

    return found


def image_entries(
    document: bytes, read_index: ReadIndex, rejected: list[str], depth: int = 1
) -> Iterator[Mapping[str, Any]]:
    """Iterate over the entries of an index that are images: not over nested indexes that only list others.

    Descriptions of nested indexes that can't be read are added to `rejected`.

    :raises InvalidDocument: if the document is not an index.
    """
    for entry in parse_index(document)["manifests"]:
        is_index = depth < _MAX_DEPTH and entry.get("mediaType") in mediatype.INDEXES
        if _is_named(entry) or not is_index:
            yield entry
            continue

        try:
            content = read_index(Digest.parse(str(entry.get("digest"))))
            nested = [*image_entries(content, read_index, rejected, depth + 1)] if content else []
        except (InvalidName, InvalidDocument, MirrorDamaged) as error:
            rejected.append(f"a nested index: {error}")
        else:
            yield from [each for each in nested if _is_named(each)] or [entry]


def shown_name(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name that a listing shows of an entry, possible or not, and its registry, "" if that is unknown.

    An entry without a name is called by its digest.
    """
    short, full = _annotation(entry, REF_NAME), _annotation(entry, CONTAINERD_NAME)
    own, whole = (parse_name(text) if text is not None else None for text in (short, full))
    registry = next((name.registry for name in (whole, own) if name is not None and name.registry), "")
    text = short or full or str(entry.get("digest"))
    return text.removeprefix(f"{registry}/") if registry else text, registry


def _name_of(entry: Mapping[str, Any], repository: str) -> ImageName:
    """Return the name of an entry.

    :raises UnsupportedContent: if it has none that an image can have in a registry.
    """
    short, full = _annotation(entry, REF_NAME), _annotation(entry, CONTAINERD_NAME)
    digest = str(entry.get("digest"))[:150]
    if short is None and full is None:
        raise UnsupportedContent(f"an entry without a name: {digest}")

    # Other tools give one of these names, or both; then the full one tells the registry.
    own, whole = (_parsed(text, digest) for text in (short, full))
    name = whole if whole is not None and whole.repository else own
    if name is not None and name.repository and (short is None or full is None or _agree(short, name)):
        return name

    if own is None:
        raise UnsupportedContent(f"an impossible name: {(short or full or '')[:100]!r}")

    if own.repository or repository:
        return ImageName(own.registry, own.repository or repository, own.tag)

    raise UnsupportedContent(
        f"{own.tag!r}, a tag without a repository: name that in the target, as registry://HOST/ORG/REPO:{{tag}}"
    )


def _parsed(text: str | None, digest: str) -> ImageName | None:
    """Return the parts of a name, None if no image with this digest can be called like that."""
    name = None if text is None else parse_name(text)
    return None if name is None or name.tag not in (name.tag.lstrip("@"), f"@{digest}") else name


def _agree(short: str, name: ImageName) -> bool:
    """Return True if the short name of an entry does not contradict its full one, `name`."""
    full = f"{name.repository}{name.tag if name.tag.startswith('@') else f':{name.tag}'}"
    return short in (name.tag, full, f"{name.registry}/{full}")


def parse_name(text: str) -> ImageName | None:
    """Return the parts of the name of an image, None if no image can be called like that."""
    if is_tag(text):
        return ImageName("", "", text)

    path, mark, digest = text.partition("@")
    path, _, tag = (path, ":", f"@{digest}") if mark else text.rpartition(":")

    host, slash, rest = path.partition("/")
    has_host = bool(slash) and is_registry_host(host) and _is_host(host, rest)
    registry, repository = (host, rest) if has_host else ("", path)
    is_valid = is_repository_name(repository) and (is_digest(digest) if mark else is_tag(tag))
    return ImageName(registry, repository, tag) if is_valid else None


def is_digest(text: str) -> bool:
    """Return True if `text` is a digest."""
    try:
        Digest.parse(text)
    except InvalidName:
        return False

    return True


def _is_host(text: str, rest: str) -> bool:
    return text == "localhost" or ":" in text or text in _WELL_KNOWN or ("." in text and "/" in rest)


def _is_named(entry: Mapping[str, Any]) -> bool:
    return _annotation(entry, REF_NAME) is not None or _annotation(entry, CONTAINERD_NAME) is not None


def _annotation(entry: Mapping[str, Any], key: str) -> str | None:
    annotations = entry.get("annotations")
    value = annotations.get(key) if isinstance(annotations, dict) else None
    return value if isinstance(value, str) else None
