"""Container images generated from a seed: real archives, configurations and manifests, reproducible byte for byte.

A layer is a real tar archive with real files, so any tool that reads images can read these. File contents are random
bytes, so a layer asked to be 10 MB is about 10 MB on the wire whatever its compression.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Compression = Literal["gzip", "zstd", "none"]
MediaFamily = Literal["oci", "docker"]

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
IN_TOTO = "application/vnd.in-toto+json"

DEFAULT_CREATED = "2025-01-01T00:00:00Z"
_FILES_PER_LAYER = 3
# A stored deflate block is an order of magnitude faster to make, and random bytes don't shrink anyway. Small layers
# are deflated all the same, or the padding of their tar archive would outweigh their content.
_STORE_FROM_BYTES = 1 << 20
_ARCHIVE_OVERHEAD_BYTES = 400


@dataclass(frozen=True, slots=True)
class Blob:
    """Content and its digest."""

    digest: str
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, data: bytes) -> Blob:
        """Return the blob whose content is *data*."""
        return cls(digest_of(data), data)

    @property
    def size(self) -> int:
        """Length in bytes."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class Layer:
    """A compressed tar archive; ``diff_id`` is the digest of the archive before compression (image-spec, config)."""

    blob: Blob
    diff_id: str
    compression: Compression = "gzip"

    def media_type(self, media: MediaFamily) -> str:
        """Return the media type that a manifest of family *media* gives this layer."""
        suffixes = {"gzip": {"oci": "+gzip", "docker": ".gzip"}, "zstd": {"oci": "+zstd", "docker": ".zstd"}}
        base = OCI_LAYER if media == "oci" else DOCKER_LAYER
        return base + suffixes.get(self.compression, {}).get(media, "")


@dataclass(frozen=True, slots=True)
class SourceManifest:
    """A manifest or index as it is served: exact bytes, with everything it refers to.

    An image's ``blobs`` are its configuration and then its layers; an index has ``children`` and no blobs.
    """

    raw: bytes = field(repr=False)
    media_type: str
    digest: str
    blobs: tuple[Blob, ...] = field(default=(), repr=False)
    children: tuple[SourceManifest, ...] = field(default=(), repr=False)

    @property
    def is_index(self) -> bool:
        """Return whether this is an OCI index or a Docker manifest list."""
        return self.media_type in (OCI_INDEX, DOCKER_LIST)

    @property
    def document(self) -> dict[str, Any]:
        """The parsed JSON, a fresh copy on each access."""
        parsed: dict[str, Any] = json.loads(self.raw)
        return parsed

    @property
    def layers_size(self) -> int:
        """Sum of the layers' compressed sizes in bytes, the configuration not counted."""
        sizes = [layer.get("size") for layer in self.document.get("layers") or ()]
        return sum(size for size in sizes if isinstance(size, int))

    def walk(self) -> Iterator[SourceManifest]:
        """Yield this manifest and all manifests below it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def all_blobs(self) -> dict[str, Blob]:
        """Return every blob of this manifest and its children, by digest."""
        return {blob.digest: blob for manifest in self.walk() for blob in manifest.blobs}


def digest_of(data: bytes) -> str:
    """Return the ``sha256:`` digest of *data*."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def make_layer(seed: int | str, size: int, *, compression: Compression = "gzip") -> Layer:
    """Return a tar archive of a few files, about *size* bytes once compressed.

    Raises:
        RuntimeError: *compression* is ``zstd`` and neither the standard library nor ``zstandard`` provides it.
    """
    archive = _archive(seed, max(0, size - _ARCHIVE_OVERHEAD_BYTES))
    data = _compress(archive, compression)
    return Layer(Blob.of(data), digest_of(archive), compression)


def _archive(seed: int | str, size: int) -> bytes:
    rng = random.Random(f"layer {seed} {size}")
    share = size // _FILES_PER_LAYER
    sizes = [share] * (_FILES_PER_LAYER - 1) + [size - share * (_FILES_PER_LAYER - 1)]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        _add_file(archive, "etc/quaymirror-layer", f"seed {seed}\n".encode())
        for number, length in enumerate(sizes):
            _add_file(archive, f"var/lib/quaymirror/{number}.bin", rng.randbytes(length))
    return buffer.getvalue()


def _add_file(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(data))


def _compress(data: bytes, compression: Compression) -> bytes:
    if compression == "none":
        return data
    if compression == "zstd":
        return _zstd(data)
    level = 0 if len(data) >= _STORE_FROM_BYTES else 1
    return gzip.compress(data, compresslevel=level, mtime=0)


def _zstd(data: bytes) -> bytes:
    try:
        import zstandard
    except ImportError as missing:
        raise RuntimeError("zstd layers need the 'zstandard' package: pip install zstandard") from missing
    compressed: bytes = zstandard.ZstdCompressor(level=1).compress(data)
    return compressed


def make_image(
    layers: Sequence[Layer],
    *,
    platform: str = "linux/amd64",
    media: MediaFamily = "oci",
    created: str = DEFAULT_CREATED,
    labels: Mapping[str, str] | None = None,
    config_extra: Mapping[str, Any] | None = None,
    manifest_extra: Mapping[str, Any] | None = None,
) -> SourceManifest:
    """Return an image of *layers* with a complete configuration.

    *config_extra* and *manifest_extra* are merged over the top level of either document, say to add ``annotations``,
    a ``subject``, or nonsense.
    """
    document = _config_document(layers, platform, created, labels or {}) | dict(config_extra or {})
    config = Blob.of(_json(document))
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST if media == "oci" else DOCKER_MANIFEST,
        "config": _descriptor(OCI_CONFIG if media == "oci" else DOCKER_CONFIG, config),
        "layers": [_descriptor(layer.media_type(media), layer.blob) for layer in layers],
    }
    return _manifest(manifest | dict(manifest_extra or {}), blobs=(config, *(layer.blob for layer in layers)))


def _config_document(layers: Sequence[Layer], platform: str, created: str, labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        "created": created,
        **_platform(platform),
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=en_US.UTF-8"],
            "Entrypoint": ["dumb-init", "--single-child", "--"],
            "Labels": dict(labels),
        },
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [
            {"created": created, "created_by": f"COPY layer{number} / # buildkit"} for number, _ in enumerate(layers)
        ],
    }


def make_index(
    children_with_platforms: Iterable[tuple[SourceManifest, str | None]],
    *,
    media: MediaFamily = "oci",
    annotations: Mapping[str, str] | None = None,
) -> SourceManifest:
    """Return an index of ``(manifest, platform)`` pairs; a platform is ``os/architecture[/variant]``, or None."""
    pairs = [*children_with_platforms]
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX if media == "oci" else DOCKER_LIST,
        "manifests": [_child_descriptor(child, platform) for child, platform in pairs],
    }
    if annotations:
        document["annotations"] = dict(annotations)
    return _manifest(document, children=tuple(child for child, _ in pairs))


def _child_descriptor(child: SourceManifest, platform: str | None) -> dict[str, Any]:
    descriptor: dict[str, Any] = {"mediaType": child.media_type, "digest": child.digest, "size": len(child.raw)}
    if platform is None:
        return descriptor
    descriptor["platform"] = _platform(platform)
    if platform == "unknown/unknown":
        # BuildKit names the image an attestation speaks of by its place among the index's images.
        descriptor["annotations"] = {"vnd.docker.reference.type": "attestation-manifest"}
    return descriptor


def make_attestation(subject: SourceManifest) -> SourceManifest:
    """Return a provenance attestation as BuildKit attaches it; list it in an index under ``unknown/unknown``."""
    statement = Blob.of(_json({"_type": "https://in-toto.io/Statement/v0.1", "subject": [{"digest": subject.digest}]}))
    config = Blob.of(_json({"architecture": "unknown", "os": "unknown", "config": {}, "rootfs": _rootfs(statement)}))
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _descriptor(OCI_CONFIG, config),
        "layers": [_descriptor(IN_TOTO, statement)],
    }
    return _manifest(document, blobs=(config, statement))


def _rootfs(statement: Blob) -> dict[str, Any]:
    return {"type": "layers", "diff_ids": [statement.digest]}


def make_artifact(
    artifact_type: str,
    payload: bytes,
    *,
    subject: SourceManifest | None = None,
    annotations: Mapping[str, str] | None = None,
) -> SourceManifest:
    """Return an artifact (image-spec 1.1, "Guidelines for Artifact Usage"), a referrer of *subject* if one is given."""
    empty, content = Blob.of(b"{}"), Blob.of(payload)
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": _descriptor("application/vnd.oci.empty.v1+json", empty),
        "layers": [_descriptor(artifact_type, content)],
    }
    if subject is not None:
        document["subject"] = {"mediaType": subject.media_type, "digest": subject.digest, "size": len(subject.raw)}
    if annotations:
        document["annotations"] = dict(annotations)
    return _manifest(document, blobs=(empty, content))


def _manifest(
    document: Mapping[str, Any], *, blobs: tuple[Blob, ...] = (), children: tuple[SourceManifest, ...] = ()
) -> SourceManifest:
    raw = _json(document)
    return SourceManifest(raw, document["mediaType"], digest_of(raw), blobs, children)


def _descriptor(media_type: str, blob: Blob) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": blob.digest, "size": blob.size}


def _platform(text: str) -> dict[str, str]:
    os, architecture, *variant = text.split("/")
    platform = {"architecture": architecture, "os": os}
    return platform | {"variant": variant[0]} if variant else platform


def _json(document: object) -> bytes:
    return json.dumps(document, indent=3).encode()
