"""From the words of the user to selections: organizations, addresses, pasted references and lists of images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from ..errors import ConfigError
from ..http.origin import Origin
from ..values import dataclass
from .grammar import quoted
from .image_list import ListedImages
from .references import DOCKER, QUAY, PastedReference, is_pasted, is_path, read_reference
from .selection import Pin, Selection
from .source import SourceAddress

# The registry of Docker Hub has another host than its images.
_DOCKER_HOST = "registry-1.docker.io"
_WHOLE = "is a whole selection: no GLOB or TAG can follow it (--select narrows a layout)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """The options that narrow any selection."""

    exclude: tuple[str, ...] = ()
    since: datetime | None = None
    exclude_tags: tuple[str, ...] = ()
    newest: int | None = None
    labels: tuple[str, ...] = ()

    @property
    def values(self) -> Mapping[str, Any]:
        """The values by the names of a selection's parameters."""
        return {
            "exclude": self.exclude,
            "since": self.since,
            "exclude_tags": self.exclude_tags,
            "newest": self.newest,
            "labels": self.labels,
        }


def select_words(
    word: str, globs: Sequence[str], tags: Sequence[str], server: Origin, narrowing: Narrowing, *, now: datetime
) -> Selection:
    """Return the selection of `ORG [GLOB] [TAG]`; `word`, the first, may be an address or a reference instead.

    :raises ConfigError: if a part is illegal, or globs or tags follow a whole selection.
    """
    if is_path(word) or is_pasted(word):
        if globs or tags:
            raise ConfigError(f"{quoted(word)} {_WHOLE}")

        if is_path(word):
            return Selection.parse_uri(f"ocidir://{word}", now=now, **narrowing.values)

        return select_reference(read_reference(word, server.netloc), server, narrowing)

    if "://" not in word:
        return Selection(word, _joined(globs, "*"), _joined(tags, "latest"), **narrowing.values)

    if globs or tags:
        raise ConfigError(f"an address {_WHOLE}")

    return Selection.parse_uri(word, now=now, **narrowing.values)


def select_reference(image: PastedReference, server: Origin, narrowing: Narrowing) -> Selection:
    """Return the selection of exactly `image`; without a tag and a digest it is `latest`.

    :raises ConfigError: if its name is illegal.
    """
    selections = _exact([image], server, narrowing)
    return selections[0]


def select_list(images: ListedImages, server: Origin, narrowing: Narrowing) -> tuple[Selection, ...]:
    """Return selections of exactly the images of a list: for each organization or registry one, or two with digests.

    :raises ConfigError: if a name is illegal.
    """
    return _exact(images.images, server, narrowing, unnamed=images.unnamed)


def _exact(
    images: Iterable[PastedReference], server: Origin, narrowing: Narrowing, unnamed: Sequence[str] = ()
) -> tuple[Selection, ...]:
    pins: dict[tuple[SourceAddress | None, str], list[Pin]] = {}
    tags: dict[tuple[SourceAddress | None, str], list[tuple[str, str]]] = {}
    readings: dict[tuple[SourceAddress | None, str], str] = {}
    for image in images:
        source = _source(image, server)
        organization, _, name = image.name.partition("/")
        if source is not None and not source.has_organizations:
            organization, name = "", image.name

        key = (source, organization)
        readings.setdefault(key, image.reading)
        if image.digest is not None:
            pins.setdefault(key, []).append(Pin(name, image.tag, image.digest))
        else:
            tags.setdefault(key, []).append((name, image.tag or "latest"))

    selections = []
    for (source, organization), found in tags.items():
        names, reading = sorted({name for name, _ in found}), readings[source, organization]
        words: dict[str, Any] = {"source": source, "exact": found, "reading": reading, "unnamed": unnamed}
        wanted = sorted({tag for _, tag in found})
        selections.append(Selection(organization, names, wanted, **narrowing.values, **words))
        unnamed = ()

    for (source, organization), pinned in pins.items():
        # Digests are selected as they are: nothing narrows them.
        reading = readings[source, organization]
        names = sorted({pin.repository for pin in pinned})
        selections.append(
            Selection(organization, names, "*", pinned=pinned, source=source, unnamed=unnamed, reading=reading)
        )
        unnamed = ()

    return tuple(selections)


def _source(image: PastedReference, server: Origin) -> SourceAddress | None:
    """Return the source of an image: Quay at its host, or any other registry; None for the server of the options."""
    if not image.registry:
        return None

    if image.registry == QUAY:
        return SourceAddress("quay", QUAY)

    if image.registry == DOCKER:
        return SourceAddress("registry", _DOCKER_HOST)

    # As docker does, registries on this machine are asked by plain HTTP.
    host = Origin.of(f"https://{image.registry}").netloc
    return SourceAddress("registry", host, insecure=_is_local(host))


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or name.startswith("127.")


def _joined(words: Sequence[str], default: str) -> str:
    return ",".join(words) if words else default
