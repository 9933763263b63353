"""The JSON documents that quaymirror writes for programs, as types. Their schemas are generated from here.

`REPORT_VERSION` is raised with every change that a reader of the report could notice, except for additional fields.
"""

from __future__ import annotations

import typing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NotRequired

from .errors import Failure, Phase, Side
from .events import Status

if TYPE_CHECKING:
    from typing import TypedDict
else:

    class TypedDict(dict):
        """The type of a dictionary, for type checkers; without the original's knowledge of its keys it starts fast."""


REPORT_VERSION = 2
LOCK_VERSION = 1
PLAN_VERSION = 1

Time = Annotated[str, "date-time"]


class SelectionJson(TypedDict):
    """A selection. `glob` and `tag` are separated by commas; `locked` is the number of images of a lock file.

    `source` is the address of its source, if that is not the Quay server; then `organization` may be empty. `images`
    are those of a list, each `repository:tag`. `reading` says how a name with a dot was read.
    """

    organization: str
    glob: str
    tag: str
    exclude: list[str]
    since: Time | None
    locked: int
    source: NotRequired[str]
    exclude_tags: NotRequired[list[str]]
    newest: NotRequired[int]
    labels: NotRequired[list[str]]
    images: NotRequired[list[str]]
    reading: NotRequired[str]


class ErrorJson(TypedDict):
    """An error: the name of its class, one line, the side it came from, and the step during which it happened."""

    type: str
    message: str
    side: Annotated[str, Side]
    phase: Annotated[str, Phase] | None


class RepositoriesJson(TypedDict):
    """Repositories: on the listing, matched by name, unreadable entries, and skipped ones by reason."""

    listed: int
    matched: int
    rejected: int
    skipped: dict[str, int]


class ImagesJson(TypedDict):
    """Images by outcome; repositories without the tag count as skipped. A signature policy refuses images."""

    mirrored: int
    unchanged: int
    skipped: int
    failed: int
    refused: int


class HostJson(TypedDict):
    """Retries and rate limits of a host; `throttled` counts 429s, and 503s with Retry-After. Times are in seconds."""

    retries: int
    retry_wait_s: float
    throttled: int
    pauses: int
    paused_s: float


class ChangesJson(TypedDict):
    """The differences to the last complete run of the same selections, which is `since` and found `before` images."""

    since: str
    started: Time
    before: int
    came: list[str]
    gone: list[str]
    moved: list[str]


class UnmatchedJson(TypedDict):
    """A name of the selection without wildcard that matched nothing, and the nearest existing ones."""

    name: str
    nearest: list[str]


class OutcomeJson(TypedDict):
    """The outcome of one image, `registry/repository:tag`. The digest is null if it is not known.

    Derived images have `findings`: those of the check of the result. `referrers` is the number of signatures and other
    referrers that this run found and that are at the target; `referrer_errors` are those of others, which the next run
    tries again. `accepted` is true for images whose failure is accepted.
    """

    reference: str
    digest: str | None
    status: Annotated[str, Status]
    reason: str | None
    bytes_fetched: int
    bytes_reused: int
    elapsed_s: float
    error: ErrorJson | None
    findings: NotRequired[list[str]]
    referrers: NotRequired[int]
    referrer_errors: NotRequired[list[str]]
    accepted: NotRequired[bool]


class UsageJson(TypedDict):
    """The space that a target takes: its images, the bytes of their content, and the free bytes of its disk."""

    images: int
    bytes: int
    free_bytes: int | None


class WorkerJson(TypedDict):
    """The blobs that one worker of a cluster brought, their bytes from the source, and the seconds that they took."""

    blobs: int
    bytes_fetched: int
    busy_s: float


class ContentJson(TypedDict):
    """A blob or a manifest."""

    mediaType: str  # noqa: N815 - the name in descriptors
    digest: str
    size: int


class PushedImageJson(TypedDict):
    """An image that a shard committed: places in `contents` of its root and of everything that it needs."""

    name: str
    registry: str
    source: str
    platforms: str
    mirrored: float
    root: int
    needs: list[int]


class PushedJson(TypedDict):
    """The images that a shard pushed, as `merge-reports --state` records them."""

    contents: list[ContentJson]
    images: list[PushedImageJson]


class ShardJson(TypedDict):
    """The part of a report that only shards have: shard `index` of `count` of the run that the plan was made by.

    `images` are those of the whole plan; `plan_exit_code` and the lists after it say how its discovery ended.
    """

    plan: str
    server: str
    selections: list[SelectionJson]
    index: int
    count: int
    images: int
    plan_exit_code: int
    failed_checks: list[OutcomeJson]
    unmatched: list[UnmatchedJson]
    repositories: RepositoriesJson
    pushed: PushedJson


class ReportJson(TypedDict):
    """The report of one run.

    `selection` is null for several selections; `complete` is true if everything selected was found and
    processed; `error` ended the run early, `stopped` is the reason of a requested stop. `bytes_fetched` are all
    received bytes, those of failed attempts and images included, in a dry run the ones that would be fetched;
    `bytes_reused` are those that images needed and did not fetch. `usage` is that of the target after the run, null if
    it is not known. Tags of `moved_in_run` moved during the run; those of `left_moved` had moved again at its end, so
    that the set is not consistent. `workers` are those of a cluster, by their addresses. `outcomes` are sorted by
    reference.
    """

    schema_version: Annotated[int, REPORT_VERSION]
    run_id: str
    jobs: list[str]
    selection: SelectionJson | None
    selections: list[SelectionJson]
    server: str
    target: str
    dry_run: bool
    started: Time
    elapsed_s: float
    complete: bool
    exit_code: int
    error: ErrorJson | None
    stopped: str | None
    repositories: RepositoriesJson
    images: ImagesJson
    bytes_fetched: int
    bytes_reused: int
    unmatched: NotRequired[list[UnmatchedJson]]
    hosts: dict[str, HostJson]
    changes: ChangesJson | None
    usage: UsageJson | None
    moved_in_run: NotRequired[list[str]]
    left_moved: NotRequired[list[str]]
    shard: NotRequired[ShardJson]
    workers: NotRequired[dict[str, WorkerJson]]
    outcomes: list[OutcomeJson]


class ReportsJson(TypedDict):
    """The reports of several runs of one command."""

    schema_version: Annotated[int, REPORT_VERSION]
    runs: list[ReportJson]


class ListedReferrerJson(TypedDict):
    """A signature or another referrer of the manifest `subject`; `tag` is its digest tag, null if it has none."""

    digest: str
    subject: str
    artifact_type: str
    tag: str | None


class VerdictJson(TypedDict):
    """The verdict by which a signature policy accepted an image.

    `policy` is the fingerprint of the policy and its keys, and `accepted_by` are the keys or identities that signed the
    image, or the rule that needs none. `origin` is null if the image was judged here.
    Otherwise the verdict is what the sender of an import says: `origin` names the export and its signer, and those from
    which the sender has the verdict.
    """

    policy: str
    accepted_by: str
    judged: Time
    origin: str | None


class ListedImageJson(TypedDict):
    """An image of `list --json`.

    In the listing of a source the size is that of its layers, null for a multi-arch image. In the listing of a mirror
    it is that of everything it needs, null if it has a `problem`; `own_size` is what no other image needs, `updated`
    the time of its last change in the mirror, and `registry` the host that it came from, null if that is unknown. An
    image without a name has its digest as `repository`. `referrers` are those of the image, of its platforms, and of
    these referrers. `info --json` has the `verdicts` of signature policies that accepted the image, if there are any.
    """

    repository: str
    tag: str | None
    digest: str
    updated: Time | None
    size: int | None
    own_size: NotRequired[int | None]
    platforms: NotRequired[list[str]]
    created: NotRequired[str | None]
    registry: NotRequired[str | None]
    media_type: NotRequired[str]
    referrers: NotRequired[list[ListedReferrerJson]]
    verdicts: NotRequired[list[VerdictJson]]
    problem: NotRequired[str]


class ChangeCountsJson(TypedDict):
    """Numbers of images that are new, have moved to another digest, or are missing at the source."""

    new: int
    moved: int
    missing: int


class PastRunJson(TypedDict):
    """A run of `history --json`; `selection` is the first selection, `more` has the others.

    `kind` is "sync" or "prune"; a prune has no server and selection. The exit code of a run that was killed, or has not
    ended yet, is null. `changes` are those since the last complete run, `usage` is that of the target after the run,
    and `remark` the first problem, or what a prune did. With `--config`, each run has its `target`.
    """

    id: str
    kind: str
    jobs: list[str]
    started: Time
    elapsed: float
    exit_code: int | None
    complete: bool
    images: ImagesJson
    bytes_fetched: int
    changes: ChangeCountsJson | None
    usage: UsageJson | None
    remark: str
    target: NotRequired[str]
    server: NotRequired[str]
    selection: NotRequired[SelectionJson]
    more: NotRequired[list[SelectionJson]]


class JobStatusJson(TypedDict):
    """A job of `status --json`. Ages are in seconds; null: it never ran, or never succeeded.

    `state` is "ok", "failed", "killed", "running" or "never ran". `problem` is the first thing to look at, "" if none.
    """

    job: str
    target: str
    state: str
    last_run: Time | None
    last_success: Time | None
    age: float | None
    exit_code: int | None
    changes: ChangeCountsJson | None
    usage: UsageJson | None
    problem: str


class NotifiedRunJson(TypedDict):
    """A run of a notification; `problem` is the first thing to look at, "" if none. See `ReportJson`."""

    run_id: str
    jobs: list[str]
    server: str
    target: str
    dry_run: bool
    started: Time
    elapsed_s: float
    exit_code: int
    complete: bool
    images: ImagesJson
    bytes_fetched: int
    bytes_reused: int
    changes: ChangeCountsJson | None
    usage: UsageJson | None
    problem: str


class NotificationJson(TypedDict):
    """The standard input of --notify-command. `result` is the meaning of the exit code.

    `error` ended the command before it had a report, null if none did.
    """

    exit_code: int
    result: str
    error: str | None
    runs: list[NotifiedRunJson]


class LayerJson(TypedDict):
    """A layer of `info --json`, in the order of the manifest."""

    index: int
    digest: str
    size: int
    media_type: str
    compression: str
    diff_id: NotRequired[Any]
    created_by: NotRequired[Any]


class InfoJson(TypedDict):
    """The metadata of an image, with the fields of `occystrap info`. Values of the config are as it has them.

    An index has an object per `platform`, with the digests of the `index` and of the manifest for it (`digest`).
    `mirrored` has what a mirror knows of the image. `provenance` is the statement about a derived image at a registry.
    """

    image: str
    tag: str | None
    digest: NotRequired[str]
    index: NotRequired[str]
    platform: NotRequired[str]
    mirrored: NotRequired[ListedImageJson]
    provenance: NotRequired[dict[str, Any]]
    schema_version: int
    media_type: str | None
    config_digest: str
    config_size: int
    layer_count: int
    total_compressed_size: int
    architecture: Any
    os: Any
    variant: Any
    created: Any
    diff_ids: list[Any]
    history_count: int
    empty_layer_count: int
    labels: dict[str, Any]
    env: list[Any]
    entrypoint: Any
    cmd: Any
    working_dir: Any
    exposed_ports: list[str]
    volumes: list[str]
    layers: list[LayerJson]


class FailedInfoJson(TypedDict):
    """An image of `info --json` whose metadata could not be read."""

    image: str
    tag: str | None
    error: str


class DerivedImageJson(TypedDict):
    """A derived image at `target`, with the digest of its `source`.

    `digest` is its own in a registry or a daemon, null for `files`; `accepted_by` the keys or identities for which a
    signature policy accepted the source, and `provenance` the in-toto statement.
    """

    target: str
    registry: str
    source: str
    digest: str | None
    files: list[str]
    accepted_by: str | None
    provenance: dict[str, Any] | None


class DerivedInfoJson(TypedDict):
    """A derived image of `info --json`, by its receipt."""

    image: str
    tag: str
    derived: DerivedImageJson


class DamageJson(TypedDict):
    """Content and the images that need it. `kind` is "missing", "damaged", "replaced" (a tag at a registry that points
    elsewhere), or "unlisted" (a referrer at a registry that clients can't find).
    """

    kind: str
    digest: str
    images: list[str]


class FilesJson(TypedDict):
    """A number of files and their size."""

    files: int
    bytes: int


class RefusalJson(TypedDict):
    """An image that a signature policy refuses, with a reason per key or identity."""

    image: str
    digest: str
    reasons: list[str]


class SignaturesJson(TypedDict):
    """The verdicts of a signature policy: the number of images that it accepts, and those that it refuses."""

    accepted: int
    refused: list[RefusalJson]


class VerificationJson(TypedDict):
    """The result of `verify --json`. `fast` is true if only manifests were hashed.

    `refused` is the number of images of a registry that could not be checked, because access was denied. `signatures`
    are the verdicts, with --signature-policy.
    """

    images: int
    blobs: int
    bytes: int
    fast: bool
    refused: int
    damages: list[DamageJson]
    orphans: FilesJson
    partials: FilesJson
    signatures: NotRequired[SignaturesJson]


class GoneJson(TypedDict):
    """An image that is gone from the source since a POSIX time. `doubt` is the reason to keep it, if any."""

    name: str
    digest: str
    gone_since: float
    doubt: NotRequired[str | None]


class OrphanJson(TypedDict):
    """A blob that no image needs."""

    digest: str
    size: int


class BlobsJson(TypedDict):
    """A number of blobs and their size."""

    blobs: int
    bytes: int


class SnapshotJson(TypedDict):
    """A snapshot of `snapshots --json`. `own_bytes` are those that nothing else needs.

    `content_removed` is the time when retention gave up its content, null while it is kept; `complete` is false if the
    run did not mirror everything.
    """

    id: str
    created: Time
    images: int
    bytes: int
    own_bytes: int
    cause: str
    run: str | None
    label: str | None
    protected: bool
    complete: bool
    content_removed: Time | None


class SnapshotIdJson(TypedDict):
    """The id of a snapshot, and when it was made."""

    id: str
    created: Time


DiffJson = typing.TypedDict(
    "DiffJson",
    {
        "from": SnapshotIdJson | None,
        "to": SnapshotIdJson | None,
        "came": list[str],
        "moved": list[str],
        "gone": list[str],
    },
)
"""The differences between two snapshots, or a mirror and its source (null); names are `repository:tag`."""


class HoldJson(TypedDict):
    """A held name of `hold --json`."""

    name: str
    reason: str
    since: Time


class DroppedSnapshotJson(TypedDict):
    """A snapshot whose content retention gives up, and the bytes that go with it, at once or later."""

    id: str
    created: Time
    freed_bytes: int


class RetentionJson(TypedDict):
    """The number of snapshots whose content is kept, and those whose content is not."""

    kept: int
    drop: list[DroppedSnapshotJson]


class LostReferrerJson(TypedDict):
    """A referrer that the source does not have any more, and the digest it belongs to."""

    subject: str
    digest: str


class PruneJson(TypedDict):
    """The plan of `prune --json`: images to untag and to keep for now, blobs to remove now and later.

    `referrers` are signatures and the like that are missing at the source, while their images are not.
    """

    untag: list[GoneJson]
    waiting: list[GoneJson]
    remove: list[OrphanJson]
    later: BlobsJson
    partials: FilesJson
    freed_bytes: int
    kept_for_imports_bytes: int
    referrers: list[LostReferrerJson]
    snapshots: RetentionJson


class CheckJson(TypedDict):
    """The result of `check --json`: the number of images that were looked for, and the references that are missing."""

    images: int
    missing: list[str]


class RemovalJson(TypedDict):
    """The images of `remove --json`: those that are removed, or would be, and those that jobs would mirror again.

    `snapshot` is the id of the snapshot with the rest, null if nothing was removed.
    """

    removed: list[str]
    mirrored_again: list[str]
    snapshot: str | None


class ForgottenJson(TypedDict):
    """An image that a registry has lost, or a referrer that only the source has lost.

    `reason` is why its record is kept, null if it is forgotten.
    """

    name: str
    digest: str
    reason: str | None


class PartJson(TypedDict):
    """The file of a part, and its size in bytes."""

    file: str
    size: int


class CountJson(TypedDict):
    """A number of blobs."""

    blobs: int


class ExportJson(TypedDict):
    """An export: the names of its images, the blobs that it carries and assumes at the receiver, and its parts."""

    version: int
    id: str
    images: list[str]
    carried: BlobsJson
    assumed: CountJson
    parts: list[PartJson]


class ImportedVerdictsJson(TypedDict):
    """Verdicts about signatures that came with exports: the number of those that were recorded, and that of the images
    whose verdicts were ignored, because no allowed signer has signed the export.
    """

    recorded: int
    ignored: int


class ImportJson(TypedDict):
    """The result of an import: names of images by outcome, and everything that is missing.

    `waiting` has the numbers of the parts that an image waits for, `lacking` the images that need a digest which the
    sender assumed here.
    """

    version: int
    exports: list[str]
    imported: list[str]
    unchanged: list[str]
    held: list[str]
    waiting: dict[str, list[int]]
    lacking: dict[str, list[str]]
    problems: list[str]
    verdicts: ImportedVerdictsJson
    stored: BlobsJson
    exit_code: int


class LockedReferrerJson(TypedDict):
    """A manifest that belongs to `subject`; `tag` is the digest tag that leads to it."""

    subject: str
    digest: str
    artifact_type: str
    tag: NotRequired[str]


class LockedImageJson(TypedDict):
    """The digest of a tag, and the referrers that the target has of the image; without these, they are not known."""

    repository: str
    tag: str
    digest: str
    referrers: NotRequired[list[LockedReferrerJson]]


class LockJson(TypedDict):
    """A lock file: the digests that the selected tags of a server had, for `platforms` if some were chosen."""

    lock_version: Annotated[int, LOCK_VERSION]
    server: str
    images: list[LockedImageJson]
    platforms: NotRequired[list[str]]


class PlannedImageJson(TypedDict):
    """An image of a plan. `blobs` are places in those of the plan, null if they are not known.

    `mirrored`: the target had it when the plan was made. `source` is an address of another source than `server`.
    `referrers` are those of a lock file.
    """

    registry: str
    repository: str
    tag: str | None
    digest: str
    blobs: list[int] | None
    mirrored: NotRequired[bool]
    sparse: NotRequired[bool]
    source: NotRequired[str]
    referrers: NotRequired[list[LockedReferrerJson]]


class PlanJson(TypedDict):
    """A plan for shards. `exit_code` is how the discovery ended, without the images; `run_id` is that of the planning.

    `platforms` and `renames` are the options that every shard has to have in common.
    """

    plan_version: Annotated[int, PLAN_VERSION]
    run_id: str
    created: Time
    server: str
    selections: list[SelectionJson]
    platforms: list[str]
    renames: list[str]
    exit_code: int
    repositories: RepositoriesJson
    unmatched: list[UnmatchedJson]
    failed_checks: list[OutcomeJson]
    blobs: list[ContentJson]
    images: list[PlannedImageJson]


def iso(moment: float) -> str:
    """Return a POSIX time as text."""
    return datetime.fromtimestamp(moment, UTC).isoformat()


def error_json(error: Failure | None) -> ErrorJson | None:
    """Return an error as JSON values, None for none."""
    if error is None:
        return None

    phase = error.phase.value if error.phase else None
    return {"type": error.name, "message": error.message, "side": error.side.value, "phase": phase}
