"""Images as `list --json` and `info --json` show them."""

from __future__ import annotations

from typing import Any, NotRequired

from .common import Time, TypedDict


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
