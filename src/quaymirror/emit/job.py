"""What a worker process is told, and what it answers: plain values that can be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

Option = str | int | bool


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one image goes: an address of occystrap's, taken apart, so that no name is ever parsed as a part of one.

    `realms` are hosts whose token services may have the credentials for it, beside itself.
    """

    scheme: str
    host: str
    path: str
    options: Mapping[str, Option] = field(default_factory=dict)
    realms: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StagedLayer:
    """A layer by occystrap's `name` for it: its compressed digest, encoded.

    `path` is its decompressed archive, complete and verified; None: it is at the destination already.
    """

    name: str
    path: Path | None


@dataclass(frozen=True, slots=True)
class Job:
    """One image for one destination. `scratch` is a directory of the job's own on the destination's file system."""

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
    """What came of a job.

    `files` stand at the destination now, with their sizes in bytes; `identity` is the digest that a registry or a
    daemon has the image under, "" elsewhere; `printed` are the lines that filters wrote to
    stdout, `log` the warnings that occystrap logged, `findings` what its own `verify()` had to say, errors excepted.
    """

    files: tuple[tuple[Path, int], ...] = ()
    identity: str = ""
    printed: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
