"""Images that are digest tags, as earlier releases mirrored them, become referrers of the images they belong to."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ..errors import InvalidName, UnsupportedContent
from ..oci import Descriptor, Digest, Index
from ..oci.artifact import annotations_of, artifact_type_of
from ..oci.digest_tags import SUFFIXES, is_digest_tag
from ..oci.manifest import Manifest
from .reader import LayoutReader
from .records import Attachment, ImageRecord, ReferrerRecord
from .state import State


def adopt_digest_tags(reader: LayoutReader, state: State) -> int:
    """Record images that are digest tags of other recorded images as referrers; return their number. It blocks."""
    names, attachments = [], []
    for name in [record.name for record in state.images()]:
        repository, _, tag = name.rpartition(":")
        record = state.image(name) if is_digest_tag(tag) else None
        if record is None:
            continue

        subject = _subject(tag)
        if subject is not None and state.has_blob(subject):
            found = tuple(_referrers(reader, record, repository, tag, subject))
            if found:
                names.append(name)
                attachments.append(Attachment(repository, time.time(), found))

    if names:
        state.replace_by_referrers(names, attachments)

    return len(names)


def _subject(tag: str) -> Digest | None:
    text = tag.partition(".")[0].replace("-", ":", 1)
    try:
        return Digest.parse(text)
    except InvalidName:
        return None


def _referrers(
    reader: LayoutReader, record: ImageRecord, repository: str, tag: str, subject: Digest
) -> Iterator[ReferrerRecord]:
    """Yield the referrer that a tag names, or those that it lists."""
    root = _read(reader, record.root)
    if root is None:
        return

    if tag.endswith(SUFFIXES):
        yield _referrer(record, root, repository, tag, subject, record.contents)
    elif isinstance(root, Index):
        for child in root.manifests:
            node = _read(reader, child)
            if isinstance(node, Manifest) and node.subject is not None and node.subject.digest == subject:
                yield _referrer(record, node, repository, "", subject, (*node.blobs, node.descriptor))


def _referrer(
    record: ImageRecord,
    node: Manifest | Index,
    repository: str,
    tag: str,
    subject: Digest,
    contents: tuple[Descriptor, ...],
) -> ReferrerRecord:
    return ReferrerRecord(
        subject,
        node.descriptor,
        record.registry,
        repository,
        tag,
        artifact_type_of(node),
        annotations_of(node),
        contents,
    )


def _read(reader: LayoutReader, node: Descriptor) -> Manifest | Index | None:
    try:
        found = reader.manifest(node)
    except (UnsupportedContent, InvalidName):
        return None

    return found if isinstance(found, Manifest | Index) else None
