"""Values that the state and the history keep: images, tag checks, runs, and images missing at the source."""

from __future__ import annotations

from collections.abc import Mapping

from ..oci import Descriptor, Digest
from ..values import dataclass


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image that is complete in the mirror. `contents` is everything it needs, `root` included."""

    name: str
    registry: str
    source: Digest
    root: Descriptor
    contents: tuple[Descriptor, ...]
    platforms: str = ""
    run: str = ""
    mirrored: float = 0.0


@dataclass(frozen=True, slots=True)
class DiscoverySnapshot:
    """The result of one discovery for pruning: `found` and `absent` are names of images that the selection covers.

    `absent` are mirrored images that were not found; they count only if the discovery was `complete`.
    """

    scope: str
    found: frozenset[str]
    absent: frozenset[str]
    complete: bool
    authenticated: bool
    moment: float


@dataclass(frozen=True, slots=True)
class AbsentImage:
    """A mirrored image that complete discoveries between `since` and `seen` (POSIX times) did not find any more.

    `uncertain_because` says why it must not be pruned now, '' if it may be. `covered` is the number of images that the
    selection covers.
    """

    name: str
    root: Digest
    size: int
    scope: str
    since: float
    seen: float
    covered: int
    uncertain_because: str = ""


@dataclass(frozen=True, slots=True)
class TagCheck:
    """The server's answer about one tag, and its time by the server's clock (POSIX seconds, as all times here).

    `digest` is None if the tag did not exist; `last_modified` is the repository's, as listed before the check.
    """

    registry: str
    repository: str
    tag: str
    last_modified: int
    checked: int
    digest: Digest | None = None
    start: int | None = None
    size: int | None = None
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class PastRun:
    """One line of the history. `images` counts outcomes by status; `started` is POSIX time, `elapsed` in seconds."""

    id: str
    subject: str
    started: float
    elapsed: float
    exit_code: int
    complete: bool
    images: Mapping[str, int]
    bytes_fetched: int
