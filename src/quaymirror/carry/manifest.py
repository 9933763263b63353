"""The manifest of an export: its images, the blobs that they need, and the parts that carry them.

Every part has the same manifest, so each of them can be checked on its own, in any order.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NoReturn

from .. import zstd
from ..errors import ConfigError, InvalidName, UnsupportedContent
from ..oci import Descriptor, Digest, Reference, Repository
from ..oci.reference import is_repository_name
from ..store.records import Acceptance, ImageRecord
from ..trust.evidence import MAX_SIGNATURES
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass

VERSION = 1
# Half a million images.
MAX_BYTES = 512 * 1024 * 1024
_HEADER_BYTES = 64 * 1024
_MAX_LABEL = 200
# Per image; a new policy makes another one.
MAX_VERDICTS = 16
_MAX_TEXT = 1000
_LAST_MOMENT = 2.0**37


@dataclass(frozen=True, slots=True)
class Stretch:
    """The bytes of a blob from `start` to before `end`, in the part with the number `part`, from 1."""

    part: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class CarriedBlob:
    """A blob, and the stretches that carry it, in order; none if the receiver is assumed to have it."""

    node: Descriptor
    stretches: tuple[Stretch, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """An export. `created` is POSIX time; `images` have their contents; `parts` is the number of parts.

    `inventories` are the identifiers of those that it answers, and `since` is the export that the receiver is assumed
    to have imported, "" for none. `label` is that of the snapshot. `lookaside` has the signatures by GPG keys for
    manifests, by their repository and digest. `verdicts` are those of signature policies that accepted an image, by its
    name: claims of the sender, which count as much as its signature.
    """

    id: str
    created: float
    parts: int
    images: tuple[ImageRecord, ...]
    blobs: tuple[CarriedBlob, ...]
    inventories: tuple[str, ...] = ()
    since: str = ""
    label: str = ""
    lookaside: Mapping[tuple[str, Digest], tuple[bytes, ...]] = field(default_factory=dict)
    verdicts: Mapping[str, tuple[Acceptance, ...]] = field(default_factory=dict)

    @cached_property
    def by_digest(self) -> Mapping[Digest, CarriedBlob]:
        """The blobs by their digests."""
        return {blob.node.digest: blob for blob in self.blobs}

    @property
    def carried_bytes(self) -> int:
        """The bytes of all blobs that it carries."""
        return sum(blob.node.size for blob in self.blobs if blob.stretches)

    def to_bytes(self) -> bytes:
        """Return it as JSON; the same export has the same bytes."""
        number = {blob.node.digest: index for index, blob in enumerate(self.blobs)}
        document = {
            "version": VERSION,
            "id": self.id,
            "created": _iso(self.created),
            "parts": self.parts,
            "inventories": list(self.inventories),
            "since": self.since,
            "label": self.label,
            "images": [
                {
                    "name": image.name,
                    "registry": image.registry,
                    "source": str(image.source),
                    "platforms": image.platforms,
                    "root": number[image.root.digest],
                    "needs": [number[node.digest] for node in image.contents],
                    **_verdict_fields(self.verdicts.get(image.name, ())),
                }
                for image in self.images
            ],
            "blobs": [
                {
                    "digest": str(blob.node.digest),
                    "size": blob.node.size,
                    "mediaType": blob.node.media_type,
                    "in": [[stretch.part, stretch.start, stretch.end] for stretch in blob.stretches],
                }
                for blob in self.blobs
            ],
        }
        if self.lookaside:
            document["lookaside"] = [
                [repository, number[digest], [b64encode(message).decode() for message in messages]]
                for (repository, digest), messages in self.lookaside.items()
            ]

        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, text: bytes) -> Manifest:
        """Return the manifest in `text`.

        :raises ConfigError: if it is not one, is of a newer version, or contradicts itself.
        """
        try:
            document = parse_object(text, limit=MAX_BYTES)
            if document.get("version") != VERSION:
                raise ConfigError(
                    f"version {document.get('version')!r:.20} of an export is not known: update quaymirror"
                )

            blobs = tuple(_blob(entry, document["parts"]) for entry in document["blobs"])
            images = tuple(_image(entry, blobs) for entry in document["images"])
            manifest = cls(
                id=_identifier(document["id"]),
                created=datetime.fromisoformat(document["created"]).timestamp(),
                parts=int(document["parts"]),
                images=images,
                blobs=blobs,
                inventories=tuple(map(_identifier, document["inventories"])),
                since=document["since"] and _identifier(document["since"]),
                label=str(document["label"])[:_MAX_LABEL],
                lookaside=dict(_signatures(entry, blobs) for entry in document.get("lookaside", [])),
                verdicts={
                    image.name: _verdicts(image, entry["verdicts"])
                    for image, entry in zip(images, document["images"], strict=True)
                    if "verdicts" in entry
                },
            )
        except (InvalidDocument, InvalidName, UnsupportedContent, KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"the manifest of the export makes no sense ({_reason(error)})") from None

        if len(manifest.by_digest) != len(blobs) or len({image.name for image in manifest.images}) != len(
            manifest.images
        ):
            raise ConfigError("the manifest of the export has an entry twice, or none")

        return manifest


@dataclass(frozen=True, slots=True)
class Header:
    """The first member of a part: the export, the number of the part, and the digest of the manifest."""

    id: str
    part: int
    parts: int
    manifest: Digest

    def to_bytes(self) -> bytes:
        """Return it as JSON."""
        fields = {
            "quaymirrorExport": VERSION,
            "id": self.id,
            "part": self.part,
            "parts": self.parts,
            "manifest": str(self.manifest),
        }
        return json.dumps(fields, indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, text: bytes) -> Header:
        """Return the header in `text`.

        :raises ConfigError: if it is not one, or is of a newer version.
        """
        try:
            document = parse_object(text, limit=_HEADER_BYTES)
            version = document["quaymirrorExport"]
            if version != VERSION:
                raise ConfigError(f"version {version!r:.20} of an export is not known: update quaymirror")

            part, parts = int(document["part"]), int(document["parts"])
            if not 1 <= part <= parts:
                raise ConfigError(f"part {part} of {parts} makes no sense")

            return cls(_identifier(document["id"]), part, parts, Digest.parse(document["manifest"]))
        except (InvalidDocument, InvalidName, KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"its header makes no sense ({_reason(error)})") from None


def decompress(content: bytes, limit: int = MAX_BYTES) -> bytes:
    """Return the content of a zstd frame.

    :raises ConfigError: if it is damaged, or has more than `limit` bytes.
    """
    try:
        return zstd.decompress(content, limit)
    except zstd.InvalidZstd as error:
        raise ConfigError(f"it {error}") from None


def reference_of(record: ImageRecord) -> Reference:
    """Return the reference of an image by its name in a mirror.

    :raises InvalidName: if the name is not that of an image.
    """
    name, at, digest = record.name.partition("@")
    if at:
        return Reference(Repository(record.registry, name), None, Digest.parse(digest))

    repository, _, tag = record.name.rpartition(":")
    return Reference(Repository(record.registry, repository), tag, record.source)


def _blob(entry: Any, parts: int) -> CarriedBlob:
    node = Descriptor.parse(entry, where="blobs")
    stretches = tuple(Stretch(*map(_whole, stretch)) for stretch in entry["in"])
    position = 0
    for stretch in stretches:
        if not 1 <= stretch.part <= parts or stretch.start != position or stretch.end < position:
            _refuse(f"the stretches of {node.digest} don't follow one another")

        position = stretch.end

    if stretches and position != node.size:
        _refuse(f"the stretches of {node.digest} are not all of it")

    return CarriedBlob(node, stretches)


def _image(entry: Any, blobs: tuple[CarriedBlob, ...]) -> ImageRecord:
    record = ImageRecord(
        name=entry["name"],
        registry=entry["registry"],
        source=Digest.parse(entry["source"]),
        root=blobs[_whole(entry["root"])].node,
        contents=tuple(blobs[_whole(index)].node for index in entry["needs"]),
        platforms=entry["platforms"],
    )
    reference_of(record)
    if not isinstance(record.platforms, str):
        _refuse("platforms is not a text")

    return record


def _signatures(entry: Any, blobs: tuple[CarriedBlob, ...]) -> tuple[tuple[str, Digest], tuple[bytes, ...]]:
    repository, index, messages = entry
    if not isinstance(repository, str) or not is_repository_name(repository) or len(messages) > MAX_SIGNATURES:
        _refuse("the signatures of a manifest have no repository, or are too many")

    return (repository, blobs[_whole(index)].node.digest), tuple(b64decode(each, validate=True) for each in messages)


def _verdict_fields(verdicts: Iterable[Acceptance]) -> dict[str, Any]:
    """Return the fields about the verdicts of an image: none for most, so that earlier releases write the same."""
    found = [
        {
            "policy": verdict.policy,
            "acceptedBy": verdict.reason[:_MAX_TEXT],
            "judged": _iso(verdict.judged),
            "origin": verdict.origin[:_MAX_TEXT],
        }
        for verdict in verdicts
    ]
    return {"verdicts": found} if found else {}


def _verdicts(image: ImageRecord, entries: Any) -> tuple[Acceptance, ...]:
    """Return the verdicts about an image, whose digest at the source is what a policy judges."""
    if not isinstance(entries, list) or len(entries) > MAX_VERDICTS:
        _refuse(f"the verdicts about an image are no list, or more than {MAX_VERDICTS}")

    verdicts = tuple(
        Acceptance(
            image.name,
            image.source,
            _hexadecimal(entry["policy"], 64, "the fingerprint of a policy"),
            _short_text(entry["acceptedBy"]),
            _moment(entry["judged"]),
            _short_text(entry["origin"]),
        )
        for entry in entries
    )
    if len({verdict.policy for verdict in verdicts}) != len(verdicts):
        _refuse("an image has two verdicts of one policy")

    return verdicts


def _short_text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        _refuse(f"a verdict has something else than a text of at most {_MAX_TEXT:,} characters")

    return value


def _moment(value: object) -> float:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    if moment is None or moment.tzinfo is None or not 0 <= moment.timestamp() <= _LAST_MOMENT:
        _refuse("the time of a verdict is none, or lacks its zone")

    return moment.timestamp()


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        _refuse("a number is not whole")

    return value


def _identifier(value: object) -> str:
    return _hexadecimal(value, 32, "an identifier")


def _hexadecimal(value: object, digits: int, what: str) -> str:
    if not isinstance(value, str) or len(value) != digits or set(value) - set("0123456789abcdef"):
        _refuse(f"{what} has not {digits} hexadecimal digits")

    return value


def _reason(error: Exception) -> str:
    match error:
        case KeyError():
            return f"{error.args[0]} is missing"
        case InvalidName() | UnsupportedContent():
            return error.message
        case InvalidDocument() | ValueError():
            return str(error)
        case _:
            return "a field has another type"


def _refuse(problem: str) -> NoReturn:
    raise ValueError(problem)


def needed_blobs(images: Iterable[ImageRecord]) -> list[Descriptor]:
    """Return the contents of `images`, each once, in the order in which images become complete."""
    return list({node.digest: node for image in images for node in image.contents}.values())
