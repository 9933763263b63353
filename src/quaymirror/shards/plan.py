"""The plan of a run: its images with their digests, and their blobs, for shards that divide the work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from ..auth.files import read_config_file
from ..catalog.base import PinnedImage
from ..documents.plan import PLAN_VERSION, PlanJson, PlannedImageJson
from ..documents.report import ContentJson
from ..errors import ConfigError, InvalidName, UnsupportedContent
from ..http.origin import parse_server
from ..oci import Descriptor, Digest, Platform, Reference, Repository
from ..selection.lockfile import parse_referrers, referrers_json
from ..selection.rename import Rename, Renames
from ..selection.selection import Pin, Selection
from ..selection.source import SourceAddress, is_source, parse_source
from ..untrusted import InvalidDocument, parse_object
from ..values import dataclass
from .share import Share

MAX_PLAN_BYTES = 1024 * 1024 * 1024
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, InvalidName, UnsupportedContent)


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """One image of a plan. `blobs` are the places of its blobs in the plan, empty if they are not known.

    If `is_mirrored`, the target had it when the plan was made.
    """

    image: PinnedImage
    blobs: tuple[int, ...] = ()
    is_mirrored: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan that was read. `document` is all of it."""

    document: PlanJson
    images: Sequence[PlannedImage]
    blobs: Sequence[Descriptor]
    platforms: tuple[Platform, ...]
    renames: tuple[Rename, ...]

    @property
    def id(self) -> str:
        """The id of the run that made the plan."""
        return self.document["run_id"]

    @property
    def selections(self) -> tuple[Selection, ...]:
        """The images of the plan, as selections: one for each source and organization."""
        pins: dict[tuple[SourceAddress | None, str], list[Pin]] = {}
        for planned in self.images:
            reference, source = planned.image.reference, planned.image.source
            organization, name = "", reference.repository.name
            if source is None or source.has_organizations:
                organization, _, name = name.partition("/")

            pin = Pin(name, reference.tag, planned.image.digest, planned.image.referrers)
            pins.setdefault((source, organization), []).append(pin)

        return tuple(
            Selection(organization, "*", "*", pinned=of_it, source=source)
            for (source, organization), of_it in pins.items()
        )


class Division:
    """The division of the work of `plan`, as one shard sees it."""

    def __init__(self, plan: Plan, share: Share, patience: float) -> None:
        self.plan = plan
        self.share = share
        self.patience = patience
        """The seconds without a sign of life after which the blobs of another shard are taken over."""
        self.images: list[PlannedImage] = [one for one in plan.images if share.has(one.image.digest)]
        """The images that this shard commits."""
        self._homes: dict[Digest, PlannedImage] = {}
        for planned in plan.images:
            for place in planned.blobs:
                self._homes.setdefault(plan.blobs[place].digest, planned)

        self._renames = Renames(plan.renames)
        self._needing: dict[Digest, set[int]] = {}

    def blobs(self) -> list[Descriptor]:
        """Return the blobs that this shard brings to the target, in the order of the images that need them."""
        needed = dict.fromkeys(place for one in self.plan.images if not one.is_mirrored for place in one.blobs)
        return [blob for blob in (self.plan.blobs[place] for place in needed) if self.share.has(blob.digest)]

    def home(self, digest: Digest) -> PlannedImage | None:
        """Return the image in whose repository a blob is stored first, from where the others mount it."""
        return self._homes.get(digest)

    def reference_at_target(self, planned: PlannedImage) -> Reference:
        """Return the image under its name at the target."""
        return self._renames.apply(planned.image.reference)

    def pins(self) -> dict[str, Digest]:
        """Return the digests at the source of the images that this shard commits, by their names at the target."""
        named = ((self.reference_at_target(planned).name, planned.image.digest) for planned in self.images)
        return dict(named)

    def needing(self, digest: Digest) -> set[int]:
        """Return the shards that commit an image with a blob."""
        if not self._needing:
            for planned in self.plan.images:
                shard = self.share.owner(planned.image.digest)
                for place in planned.blobs:
                    self._needing.setdefault(self.plan.blobs[place].digest, set()).add(shard)

        return self._needing.get(digest, set())


class PlanDraft:
    """The images of a plan that is being made, in the order in which they were found."""

    def __init__(self) -> None:
        self._images: dict[str, PinnedImage] = {}
        self._blobs: dict[str, tuple[Descriptor, ...]] = {}
        self._mirrored: set[str] = set()

    def found(self, image: PinnedImage) -> None:
        """Add an image."""
        self._images[image.reference.full_name] = image

    def read(self, image: PinnedImage, blobs: Iterable[Descriptor] | None) -> None:
        """Add the blobs of an image, which may have another digest by now; None: the target has it already."""
        name = image.reference.full_name
        self._images[name] = image
        if blobs is None:
            self._mirrored.add(name)
        else:
            self._blobs[name] = tuple(blobs)

    def content(self) -> tuple[list[ContentJson], list[PlannedImageJson]]:
        """Return the blobs and the images as JSON values."""
        places: dict[Digest, int] = {}
        blobs: list[ContentJson] = []
        images: list[PlannedImageJson] = []
        for name, image in self._images.items():
            for blob in self._blobs.get(name, ()):
                if blob.digest not in places:
                    places[blob.digest] = len(blobs)
                    blobs.append({"mediaType": blob.media_type, "digest": str(blob.digest), "size": blob.size})

            images.append(self._image(name, image, [places[blob.digest] for blob in self._blobs.get(name, ())]))

        return blobs, images

    def _image(self, name: str, image: PinnedImage, places: list[int]) -> PlannedImageJson:
        repository = image.reference.repository
        document: PlannedImageJson = {
            "registry": repository.registry,
            "repository": repository.name,
            "tag": image.reference.tag,
            "digest": str(image.digest),
            "blobs": places if name in self._blobs else None,
        }
        if name in self._mirrored:
            document["mirrored"] = True

        if image.is_sparse:
            document["sparse"] = True

        if image.source is not None:
            document["source"] = str(image.source)

        if image.referrers is not None:
            document["referrers"] = referrers_json(image.referrers)

        return document


def read_plan(file: Path) -> Plan:
    """Return the plan in `file`.

    :raises ConfigError: if it can't be read, or is not a plan.
    """
    try:
        return _plan(parse_object(read_config_file(file, limit=MAX_PLAN_BYTES), limit=MAX_PLAN_BYTES))
    except InvalidDocument as error:
        raise ConfigError(f"{file} is not a plan: it {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{file}: {error.message}") from None
    except _MALFORMED as error:
        text = str(error)[:200]
        raise ConfigError(f"{file} is not a plan of --plan-only: {type(error).__name__}: {text}") from None


def _plan(document: Mapping[str, Any]) -> Plan:
    if document.get("plan_version") != PLAN_VERSION:
        raise ConfigError(f"not a plan of version {PLAN_VERSION}: make one with sync --plan-only")

    blobs = [Descriptor.parse(blob, where=f"blobs[{place}]") for place, blob in enumerate(document["blobs"])]
    sources: dict[str, SourceAddress] = {}
    images = [_image(image, len(blobs), sources) for image in document["images"]]
    parse_server(document["server"])
    _check_discovery(document)
    return Plan(
        cast("PlanJson", document),
        images,
        blobs,
        tuple(Platform.parse(text) for text in document["platforms"]),
        tuple(Rename.parse(text) for text in document["renames"]),
    )


def _check_discovery(document: Mapping[str, Any]) -> None:
    """Raise `TypeError` or `KeyError` if what every report repeats of the discovery has other types."""
    for name, kind in (("run_id", str), ("exit_code", int), ("repositories", dict)):
        if type(document[name]) is not kind:
            raise TypeError(f"{name} is not of the right type")

    for name in ("unmatched", "failed_checks"):
        if not all(isinstance(one, dict) for one in document[name]):
            raise TypeError(f"{name} is not a list of objects")

    counts, skipped = document["repositories"], document["repositories"]["skipped"]
    if not all(type(counts[name]) is int for name in ("listed", "matched", "rejected")) or not isinstance(
        skipped, dict
    ):
        raise TypeError("repositories is not of the right type")


def _image(document: Mapping[str, Any], blobs: int, sources: dict[str, SourceAddress]) -> PlannedImage:
    # Names in a file are checked like those of a server.
    repository = Repository(document["registry"], document["repository"])
    reference = Reference(repository, document["tag"], Digest.parse(document["digest"]))
    places = tuple(document["blobs"] or ())
    if not all(type(place) is int and 0 <= place < blobs for place in places):
        raise ValueError(f"{reference} has blobs that are not in the plan")

    text, source = document.get("source"), None
    if text is not None:
        if not is_source(text):
            raise ValueError(f"unknown source {text[:100]!r}")

        source = sources.setdefault(text, parse_source(text))

    is_sparse, referrers = document.get("sparse") is True, parse_referrers(document)
    image = PinnedImage(reference, source=source, is_sparse=is_sparse, referrers=referrers)
    return PlannedImage(image, places, document.get("mirrored") is True)
