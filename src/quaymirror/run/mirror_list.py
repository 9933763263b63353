"""The images of a mirror, or of any layout, with sizes, platforms and dates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import anyio.to_thread

from ..catalog.base import PinnedImage
from ..catalog.layout.entries import image_entries, shown_name
from ..catalog.layout.files import check_layout
from ..catalog.layout.opening import open_files, readable_storage
from ..catalog.layout.puller import LayoutPuller
from ..errors import InvalidName, MirrorDamaged, StoreError, UnsupportedContent
from ..oci import Descriptor, Digest, Platform, Reference, Repository
from ..oci.digest_tags import is_digest_tag
from ..oci.reference import is_tag
from ..registry.source import Attempts
from ..selection.bucket import is_bucket
from ..selection.names import match_names
from ..selection.rename import split_name
from ..settings import Options
from ..store import documents
from ..store.acceptances import verdicts_by_root
from ..store.details import Details, read_details
from ..store.reader import LayoutReader
from ..store.records import MirroredImage
from ..store.snapshots import find_snapshot, snapshot_images
from ..store.state import State
from ..store.storage import INDEX
from ..untrusted import InvalidDocument
from ..values import dataclass
from .info import infos_of
from .paths import layout_path

_STATE = Path(".quaymirror", "state.db")
_MAX_INDEX_BYTES = 1024 * 1024 * 1024
# The puller of a layout asks no registry.
_ANY = Repository("localhost", "layout")


@dataclass(frozen=True, slots=True)
class MirrorList:
    """The listed images, sorted by name, and everything that they need together.

    `rejected` describes parts of the index that can't be read.
    """

    images: tuple[MirroredImage, ...]
    blobs: int
    bytes: int
    rejected: tuple[str, ...] = ()


def list_mirror(
    mirror: str | Path, names: Sequence[str] = (), *, at: str | None = None, options: Options | None = None
) -> MirrorList:
    """Return the images of `mirror`: a layout of quaymirror or of another tool, in a directory or an oci-archive.

    `names` (GLOB:TAG, matched against whole names) select images; the default is all. With `at`, an id or a date, they
    are those of an earlier snapshot, without sizes if its content was removed. An image that can't be read has a
    `problem`; the others are listed. `options` say where the state of a mirror in an object store is. It blocks.

    :raises ConfigError: if no layout is at `mirror`, or a name or `at` is illegal.
    :raises MirrorDamaged: if the index is missing or can't be parsed.
    :raises StoreError: if the disk fails.
    """
    path = _located(mirror, options)
    if at is not None and path.is_dir() and (dropped := _dropped_images(path, at, names)) is not None:
        return dropped

    storage = readable_storage(path, at)
    reader, rejected = LayoutReader(storage), list[str]()
    entries = _entries(reader, storage.read(INDEX, _MAX_INDEX_BYTES), path, rejected)
    state, number, (known, blobs, total) = _open_state(path / _STATE, at)
    with closing(state):
        recorded = [image for entry in entries if (image := _recorded(known, entry)) is not None]
        is_recorded = len(recorded) == len(entries)
        images, contents = (recorded, {}) if is_recorded else _walked(reader, entries, known)
        if not is_bucket(str(mirror)):
            images = [image if image.platforms or image.problem else _described(reader, image) for image in images]

        chosen = _chosen(images, names)
        if not is_recorded:
            sizes = {digest: size for image in chosen for digest, size in contents[image.digest].items()}
            blobs, total = len(sizes), sum(sizes.values())
        elif len(chosen) < len(known):
            blobs, total = state.content_of([image.name for image in chosen], number)

    return MirrorList(tuple(chosen), blobs, total, tuple(rejected))


def _dropped_images(path: Path, at: str, names: Sequence[str]) -> MirrorList | None:
    """Return the images of a snapshot whose content was removed, without sizes; None for other snapshots."""
    snapshot, records = snapshot_images(path, at)
    if snapshot.dropped is None:
        return None

    images = [
        MirroredImage(record.name, record.registry, str(record.root.digest), record.root.media_type)
        for record in records
    ]
    return MirrorList(tuple(_chosen(images, names)), 0, 0)


_Entry = Mapping[str, Any]


def _open_state(
    path: Path, at: str | None, *, check: bool = False
) -> tuple[State, int | None, tuple[dict[str, MirroredImage], int, int]]:
    """Open the state, and return it with the number of the set to list and its images."""
    with ExitStack() as stack:
        state, _ = State.open(path, read_only=True, check=check)
        stack.callback(state.close)
        try:
            number = state.published() if at is None else find_snapshot(state.snapshots(), at).number
            found = state.listed_images(number)
        except StoreError:
            if check:
                raise

            # A check reads all of it, which takes longer than a listing: only if it may be damaged.
            return _open_state(path, at, check=True)

        stack.pop_all()
        return state, number, found


def _located(mirror: str | Path, options: Options | None) -> Path:
    """Return the path of a layout, of one in an object store that of its state."""
    place = str(mirror)
    if is_bucket(place):
        return layout_path(place, options)

    check_layout(place.removeprefix("ocidir://"))
    return Path(place.removeprefix("ocidir://"))


def _entries(reader: LayoutReader, content: bytes | None, path: Path, rejected: list[str]) -> list[_Entry]:
    if content is None:
        raise MirrorDamaged(f"{path}/{INDEX} is missing{_advice(path)}")

    try:
        found = image_entries(content, reader.read, rejected)
        return list(filter(_is_image, found) if (path / ".quaymirror").is_dir() else found)
    except InvalidDocument as error:
        raise MirrorDamaged(f"{path}/{INDEX} {error}{_advice(path)}") from None


def _is_image(entry: _Entry) -> bool:
    """Return True if an entry of a mirror is no referrer of an image, and no list of these."""
    tag = (documents.name_of(entry) or "").rpartition(":")[2]
    return not (is_digest_tag(tag) or documents.is_list(entry))


def _advice(path: Path) -> str:
    is_mirror = (path / ".quaymirror").is_dir()
    return f": `quaymirror verify {path} --repair-state` writes it again" if is_mirror else ""


def _recorded(known: Mapping[str, MirroredImage], entry: _Entry) -> MirroredImage | None:
    image = known.get(documents.name_of(entry) or "")
    return image if image is not None and image.digest == entry.get("digest") else None


def _described(reader: LayoutReader, image: MirroredImage) -> MirroredImage:
    """Return an image with its details, which no run has recorded yet; it may have none, as artifacts do."""
    details = read_details(reader, Descriptor(image.media_type, Digest.parse(image.digest), 0)) or Details()
    return image._replace(platforms=details.platforms, created=details.created)


def _chosen(images: Iterable[MirroredImage], names: Sequence[str]) -> list[MirroredImage]:
    found = sorted(images, key=attrgetter("name"))
    if not names:
        return found

    wanted = set(match_names(names, [image.name for image in found]))
    return [image for image in found if image.name in wanted]


def _walked(
    reader: LayoutReader, entries: Iterable[_Entry], known: Mapping[str, MirroredImage]
) -> tuple[list[MirroredImage], dict[str, dict[Digest, int]]]:
    """Return the images of an index that the state does not know, and the sizes of everything that each one needs."""
    images: list[MirroredImage] = []
    contents: dict[str, dict[Digest, int]] = {}
    for entry in entries:
        name, registry = shown_name(entry)
        digest, recorded = str(entry.get("digest")), _recorded(known, entry)
        image = MirroredImage(name, registry, digest, str(entry.get("mediaType") or ""))
        try:
            root = Descriptor.parse(entry, where="its entry")
            if digest not in contents:
                contents[digest] = _content(reader, root)

            if recorded is not None:
                image = image._replace(mirrored=recorded.mirrored, referrers=recorded.referrers)
        except (UnsupportedContent, InvalidName, MirrorDamaged, StoreError) as error:
            contents.setdefault(digest, {})
            image = image._replace(problem=error.message)

        images.append(image)

    uses = Counter(each for image in images for each in contents[image.digest])
    return [image if image.problem else _sized(image, contents[image.digest], uses) for image in images], contents


def _content(reader: LayoutReader, root: Descriptor) -> dict[Digest, int]:
    """Return the sizes of everything that an image needs.

    :raises MirrorDamaged: if a part of it is missing or damaged, as far as that shows without hashing layers.
    """
    problems: list[str] = []

    def unreadable(node: Descriptor, reason: str | None) -> None:
        problems.append(reason or f"{node.digest} is missing or damaged")

    nodes = {node.digest: node for node in reader.walk(root, unreadable)}
    missing = [str(digest) for digest, node in nodes.items() if not node.is_manifest and not reader.has(node)]
    problems += [f"{digest} is missing or damaged" for digest in missing]
    if problems:
        more = f" ({len(problems) - 1:,} more)" if len(problems) > 1 else ""
        raise MirrorDamaged(f"{problems[0]}{more}")

    return {digest: node.size for digest, node in nodes.items()}


def _sized(image: MirroredImage, content: Mapping[Digest, int], uses: Mapping[Digest, int]) -> MirroredImage:
    own = sum(size for digest, size in content.items() if uses[digest] == 1)
    return image._replace(size=sum(content.values()), own_size=own)


def _no_attempts(what: str) -> Attempts:
    raise AssertionError(f"{what} is not transferred")


async def mirror_infos(
    mirror: str | Path,
    names: Sequence[str] = (),
    *,
    at: str | None = None,
    platforms: Sequence[Platform] = (),
    options: Options | None = None,
) -> list[tuple[MirroredImage, list[dict[str, Any]]]]:
    """Return the images of `mirror` with their metadata: one entry, or one per platform of an index.

    With `platforms` only those of an index; for the rest see `list_mirror` and `image_infos`.

    :raises QuaymirrorError: as `list_mirror`.
    """
    listed = await anyio.to_thread.run_sync(partial(list_mirror, mirror, names, at=at, options=options))
    place = str(mirror).removeprefix("ocidir://")
    files = await anyio.to_thread.run_sync(open_files, place)
    puller = LayoutPuller(files, place, _no_attempts)
    found = []
    for image in await anyio.to_thread.run_sync(_judged, _located(mirror, options), listed.images):
        named = parts_of(image)
        if image.problem:
            infos: list[dict[str, Any]] = [{"image": named[0], "tag": named[1], "error": image.problem}]
        else:
            # Images of other tools may have names that no reference can have.
            reference = Reference(_ANY, digest=Digest.parse(image.digest))
            infos = await infos_of(PinnedImage(reference), puller, platforms, named)

        found.append((image, infos))

    return found


def _judged(path: Path, images: Sequence[MirroredImage]) -> list[MirroredImage]:
    """Return `images` with the verdicts of signature policies that accepted them."""
    verdicts = verdicts_by_root(path, {image.name: Digest.parse(image.digest) for image in images if not image.problem})
    return [image._replace(verdicts=verdicts.get(image.name, ())) for image in images]


def parts_of(image: MirroredImage) -> tuple[str, str | None]:
    """Return repository and tag of an image; tools that know no repository name images by their tags alone."""
    if is_tag(image.name):
        return "", image.name

    return split_name(image.name) if ":" in image.name else (image.name, None)


def unmatched(names: Iterable[str], images: Collection[MirroredImage]) -> Iterator[str]:
    """Yield those of `names` without wildcards that no image has."""
    for name in names:
        if not any(mark in name for mark in "*?[") and not match_names([name], [image.name for image in images]):
            yield name
