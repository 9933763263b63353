"""Descriptions of stored images: their platforms and dates, from manifests and configs, which may contain anything."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import InvalidName, MirrorDamaged, StoreError, UnsupportedContent
from ..oci import Descriptor, Digest, Index, Manifest, mediatype
from ..text import escape_controls
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from .local_storage import LocalStorage
from .reader import LayoutReader
from .state import State
from .storage import Storage

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
_MAX_TEXT = 100


@dataclass(frozen=True, slots=True)
class Details:
    """The platforms of an image, several for an index, and the date of its creation, "" if it names none."""

    platforms: tuple[str, ...] = ()
    created: str = ""


def read_details(reader: LayoutReader, root: Descriptor) -> Details | None:
    """Return the details of the image `root`, None if its manifest or config is missing or damaged. It blocks."""
    try:
        parsed = reader.manifest(root) if root.is_manifest else None
        if isinstance(parsed, Index):
            return _of_index(reader, parsed)

        return _of_manifest(reader, parsed) if parsed is not None else None if root.is_manifest else Details()
    except (UnsupportedContent, InvalidName):
        return Details()
    except (StoreError, MirrorDamaged):
        return None


def describe_images(storage: Storage, state: State) -> None:
    """Record the details of images that have none yet; an unreadable image is described another time. It blocks.

    In an object store that would take requests, for a convenience only.

    :raises StoreError: if the disk fails.
    """
    roots = state.undescribed() if isinstance(storage, LocalStorage) else {}
    if not roots:
        return

    reader, found = LayoutReader(storage), {}
    for version, digest in roots.items():
        # The media type does not matter: that of the content does.
        details = read_details(reader, Descriptor(mediatype.OCI_INDEX, digest, 0))
        if details is not None:
            found[version] = (",".join(details.platforms), details.created)

    if found:
        state.describe(found)


def _of_manifest(reader: LayoutReader, parsed: Manifest) -> Details | None:
    config = parsed.config
    if config.size > _MAX_CONFIG_BYTES or not config.media_type.endswith("json"):
        return Details()

    content = reader.read(config.digest, _MAX_CONFIG_BYTES)
    if content is None:
        return None

    try:
        document = parse_object(content, limit=_MAX_CONFIG_BYTES, nan_is_text=True)
    except InvalidDocument:
        return Details()

    parts = [_text(document.get(key)) for key in ("os", "architecture", "variant")]
    return Details(("/".join(filter(None, parts)),) if all(parts[:2]) else (), _text(document.get("created")))


def _of_index(reader: LayoutReader, parsed: Index) -> Details:
    children = list(stored_children(reader, parsed))
    platforms = tuple(dict.fromkeys(_clean(str(child.platform)) for child in children))
    first = next((child for child in children if child.media_type in mediatype.MANIFESTS), None)
    details = read_details(reader, first) if first is not None else None
    return Details(platforms, details.created if details is not None else "")


def stored_children(reader: LayoutReader, parsed: Index) -> Iterator[Descriptor]:
    """Iterate over the images of an index that are for a platform; over all of them if none is stored."""
    real = [child for child in parsed.manifests if child.platform is not None and child.platform.os != "unknown"]
    yield from [child for child in real if _is_stored(reader, child.digest)] or real


def _is_stored(reader: LayoutReader, digest: Digest) -> bool:
    try:
        return reader.exists(digest)
    except MirrorDamaged:
        return False


def _text(value: object) -> str:
    return _clean(value) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    # A comma separates platforms in the state.
    return escape_controls(text[:_MAX_TEXT]).replace(",", "")
