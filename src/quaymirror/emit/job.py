"""The messages to and from worker processes: plain values that can be pickled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path

from ..values import dataclass

Option = str | int | bool
# Filters whose result depends on the layer alone: they print nothing, and look at nothing else of the image.
_OF_LAYERS = frozenset({"exclude", "normalize-timestamps"})


def split_filters(filters: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the first filters, as far as their results can be shared by all images with a layer, and the others."""
    names = [text.partition(":")[0].strip().lower().replace("_", "-") for text in filters]
    count = next((number for number, name in enumerate(names) if name not in _OF_LAYERS), len(names))
    return tuple(filters[:count]), tuple(filters[count:])


@dataclass(frozen=True, slots=True)
class Destination:
    """The destination of one image: a parsed address of occystrap, so that no name is parsed as a part of it.

    `realms` are further hosts whose token services are trusted with its credentials.
    """

    scheme: str
    host: str
    path: str
    options: Mapping[str, Option] = field(default_factory=dict)
    realms: frozenset[str] = frozenset()

    @property
    def unpacks(self) -> bool:
        """Return True if the members of layers become files."""
        return self.scheme in ("oci", "mounts") or bool(self.options.get("expand"))


@dataclass(frozen=True, slots=True)
class StagedLayer:
    """A layer. occystrap calls it by the encoded digest of its compressed form.

    `path` is its decompressed archive, complete and verified, None if the destination has it. If filters have been
    applied to it, `filtered` is the encoded digest of their result, otherwise "".
    """

    name: str
    path: Path | None
    filtered: str = ""

    @property
    def directory(self) -> str:
        """The name of its directory in the output `dir`."""
        return self.filtered or self.name


@dataclass(frozen=True, slots=True)
class Job:
    """One image for one destination. `scratch` is an empty directory on its file system.

    `filters` are those that have not been applied to the layers yet.
    """

    image: str
    tag: str
    config_name: str
    config: bytes = field(repr=False)
    layers: tuple[StagedLayer, ...]
    destination: Destination
    filters: tuple[str, ...]
    scratch: Path


@dataclass(frozen=True, slots=True)
class Emission:
    """The result of a job.

    `files` are at the destination now, with sizes in bytes. `identity` is the digest of the image in a registry or a
    daemon, otherwise "". `printed` are lines that filters wrote to stdout, `log` warnings of occystrap, and `findings`
    the results of its own `verify()` other than errors.
    """

    files: tuple[tuple[Path, int], ...] = ()
    identity: str = ""
    printed: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
