"""Values that the state and the history keep: images, tag checks, runs, and images missing at the source."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, NamedTuple

from ..events import ChangeCounts
from ..oci import Descriptor, Digest, mediatype
from ..oci.digest_tags import fallback_tag
from ..values import dataclass


@dataclass(frozen=True, slots=True)
class ReferrerRecord:
    """A manifest that refers to `subject`: a signature, an attestation, an SBOM.

    `repository` has it, in the names of the target, and `tag` is the digest tag that leads to it there, "" for none.
    `contents` is everything that it needs, `root` included. The source has lacked it since `missing`, if that is not
    None.
    """

    subject: Digest
    root: Descriptor
    registry: str
    repository: str
    tag: str = ""
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    contents: tuple[Descriptor, ...] = ()
    found: float = 0.0
    missing: float | None = None


class ReferrerCheck(NamedTuple):
    """A lookup of the referrers of an image: its time, the stamp of the repository then, and the types looked for."""

    checked: float
    stamp: int | None
    choice: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """The referrers of one image of `repository`, as found at `moment`.

    All digest tags of the subjects in `tagged` were found, and all other referrers of those in `listed`. `checks` are
    by registry, repository at the source, and digest.
    """

    repository: str
    moment: float
    referrers: tuple[ReferrerRecord, ...] = ()
    tagged: frozenset[Digest] = frozenset()
    listed: frozenset[Digest] = frozenset()
    checks: Mapping[tuple[str, str, str], ReferrerCheck] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name in messages."""
        return f"referrers in {self.repository}"

    @property
    def contents(self) -> tuple[Descriptor, ...]:
        """Everything that the referrers need."""
        return tuple({node.digest: node for record in self.referrers for node in record.contents}.values())


@dataclass(frozen=True, slots=True)
class ReferrerList:
    """The index of the referrers of `subject`, which a layout has under the fallback tag."""

    subject: Digest
    descriptor: Descriptor
    content: bytes

    @classmethod
    def of(cls, subject: Digest, entries: Sequence[Mapping[str, Any]]) -> ReferrerList:
        """Return the list of these descriptors."""
        index = {"schemaVersion": 2, "mediaType": mediatype.OCI_INDEX, "manifests": list(entries)}
        content = json.dumps(index, separators=(",", ":"), ensure_ascii=False).encode()
        return cls(subject, Descriptor(mediatype.OCI_INDEX, Digest.of(content), len(content)), content)

    @property
    def tag(self) -> str:
        """The tag that clients look for."""
        return fallback_tag(self.subject)


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image that is complete in the mirror. `contents` is everything it needs, `root` included.

    `attached` are its referrers, None if nothing is known of them.
    """

    name: str
    registry: str
    source: Digest
    root: Descriptor
    contents: tuple[Descriptor, ...]
    platforms: str = ""
    run: str = ""
    mirrored: float = 0.0
    attached: Attachment | None = None

    @property
    def manifests(self) -> list[Digest]:
        """The digests of its manifests and indexes, the root first."""
        others = (node.digest for node in self.contents if node.is_manifest and node.digest != self.root.digest)
        return [self.root.digest, *others]


class ListedReferrer(NamedTuple):
    """A referrer of an image, or of its platforms or referrers, as a listing shows it; `tag` is "" for none."""

    digest: str
    subject: str
    artifact_type: str
    tag: str = ""


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The verdict that accepted an image: it concerns this name with the digest `root`, and the policy with this
    fingerprint.

    `reason` are the keys or identities that signed the image. `judged` is the POSIX time at which that was found out:
    here, or at the mirror from which it came with the exports in `origin`, "" for here.
    """

    name: str
    root: Digest
    policy: str
    reason: str
    judged: float
    origin: str = ""


class MirroredImage(NamedTuple):
    """An image as a listing of a mirror shows it. `name` is its digest if it has no name, `registry` "" if unknown.

    `size` counts all bytes that it needs, `own_size` those that no other image of the listed set needs; both are None
    if `problem` says why the image can't be read, or if its content was removed. `mirrored` is the POSIX time of its
    last change in the mirror, 0.0 if that is unknown; `created` is what its config says. `verdicts` are looked up for
    the metadata of an image only.
    """

    name: str
    registry: str
    digest: str
    media_type: str
    size: int | None = None
    own_size: int | None = None
    platforms: tuple[str, ...] = ()
    created: str = ""
    mirrored: float = 0.0
    problem: str = ""
    referrers: tuple[ListedReferrer, ...] = ()
    verdicts: tuple[Acceptance, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The set of images that a mirror held after a run, or after a command that changed it.

    `number` counts from 1, `created` and `dropped` are POSIX times; retention gave up the content at `dropped`, None
    while it is kept. `run` is the id of the run, '' for none; `complete` is True if that run mirrored everything.
    """

    id: str
    number: int
    created: float
    images: int
    cause: str
    run: str = ""
    label: str = ""
    protected: bool = False
    complete: bool = True
    dropped: float | None = None


class Span(NamedTuple):
    """A blob, by an id, that the snapshots with the numbers from `since` to before `until` need."""

    blob: int
    size: int
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class Hold:
    """A name that no sync moves and no pruning removes, since a POSIX time."""

    name: str
    reason: str
    since: float


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
class Usage:
    """The space that a target takes: its images, the bytes of their content, and the free bytes of its disk."""

    images: int
    bytes: int
    free_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LabelVerdict:
    """The decision whether the labels of the image with `digest` meet `conditions`, a text."""

    digest: Digest
    conditions: str
    holds: bool


@dataclass(frozen=True, slots=True)
class PastRun:
    """One line of the history. `images` counts outcomes by status; `started` is POSIX time, `elapsed` in seconds.

    `kind` is "sync" or "prune". `jobs` are the names of its jobs, `changes` those since the last complete run, `usage`
    is that of the target after the run, and `remark` its first problem, or what a prune did. A run that has not `ended`
    is in progress, or was killed.
    """

    id: str
    subject: str
    started: float
    elapsed: float
    exit_code: int
    complete: bool
    images: Mapping[str, int]
    bytes_fetched: int
    kind: str = "sync"
    jobs: tuple[str, ...] = ()
    ended: bool = True
    changes: ChangeCounts | None = None
    usage: Usage | None = None
    remark: str = ""
