"""Organizations on disk for nginx to serve: pages of the API, tags, manifests, blobs. Deterministic.

Layers are real gzip-compressed tar archives: other content would be compressed first, or rejected.
"""

from __future__ import annotations

import hashlib
import json
import random
import sysconfig
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ORGANIZATION, TAG = "kolla", "2025.1-debian"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_PAGE = 100
# Long ago, so that the listing vouches for every tag on the second night.
_PUSHED = 1_700_000_000
_PIECE = 16 * 1024 * 1024
_PART = 64 * 1024
# About what gzip makes of them, at its fastest.
_FILES_SHRINK = 3


@dataclass(slots=True)
class Corpus:
    """The content of a site. Bytes are those of blobs; `unique` counts each once, `referenced` once per image."""

    site: Path
    repositories: int = 0
    images: list[str] = field(default_factory=list)
    unique: dict[str, int] = field(default_factory=dict)
    referenced: int = 0
    manifests: dict[str, int] = field(default_factory=dict)
    of_files: bool = False

    @property
    def unique_bytes(self) -> int:
        """The size of all distinct blobs."""
        return sum(self.unique.values())

    @property
    def pages(self) -> int:
        """Return the number of pages of the listing."""
        return -(-self.repositories // _PAGE)


def kolla_tree(site: Path, *, images: int = 60, scale: float = 1.0) -> Corpus:
    """Return 450 MB of images of 15 layers in a tree: a base, a second base, one per five images, and own ones."""

    def layers(number: int) -> list[tuple[str, int]]:
        chain = [(f"base {n}", size) for n, size in enumerate((30, 4, 2, 1, 0.2))]
        chain += [(f"openstack {n}", size) for n, size in enumerate((12, 3, 1, 0.1))]
        chain += [(f"service {number // 5} {n}", size) for n, size in enumerate((4, 1, 0.3))]
        chain += [(f"image {number} {n}", size) for n, size in enumerate((5, 0.5, 0.05))]
        return _scaled(chain, scale)

    return _write(site, [(f"image-{number:04}", layers(number)) for number in range(images)])


def derivable(site: Path, *, images: int = 60, scale: float = 1.0) -> Corpus:
    """Return images with a dozen shared layers of 52 MB and three own ones of 7.4 MB, which consist of real files.

    How long decompression takes depends on what was compressed.
    """
    common = [(f"common {n}", size) for n, size in enumerate((16, 8, 8, 4, 4, 4, 2, 2, 2, 1, 0.5, 0.5))]

    def layers(number: int) -> list[tuple[str, int]]:
        own = [(f"image {number} {n}", size) for n, size in enumerate((4.4, 2, 1))]
        return _scaled([*common, *own], scale)

    rows = [(f"image-{number:04}", layers(number)) for number in range(images)]
    return _write(site, rows, of_files=True)


def tiny(site: Path, *, repositories: int = 1000, images: int = 600) -> Corpus:
    """Return repositories, some of them with the tag, with three layers of 2 KB, two of them their own."""
    rows = [
        (f"image-{number:04}", [("base", 2000), (f"{number} a", 2000), (f"{number} b", 2000)])
        for number in range(images)
    ]
    return _write(site, rows, without=[f"other-{number:04}" for number in range(repositories - images)])


def listed(site: Path, *, repositories: int) -> Corpus:
    """Return repositories that all have the tag, without its images: enough to list them."""
    names = [f"image-{number:06}" for number in range(repositories)]
    corpus = _write(site, [], without=names)
    for name in names:
        _write_tag(corpus, name, f"sha256:{hashlib.sha256(name.encode()).hexdigest()}", start=_PUSHED)

    return corpus


def layout(home: Path, *, images: int, blobs: int) -> None:
    """Write an image layout of images that have `blobs` small blobs each, manifest and config included."""
    directory = home / "blobs" / "sha256"
    directory.mkdir(parents=True)

    def described(media_type: str, content: bytes) -> dict[str, object]:
        encoded = hashlib.sha256(content).hexdigest()
        (directory / encoded).write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{encoded}", "size": len(content)}

    entries = []
    for number in range(images):
        layers = [described(_LAYER_TYPE, f"{number} {layer}".encode()) for layer in range(blobs - 2)]
        rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs, "config": {"Labels": {"name": str(number)}}}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": described(_CONFIG_TYPE, json.dumps(config).encode()),
            "layers": layers,
        }
        annotations = {"org.opencontainers.image.ref.name": f"{ORGANIZATION}/image-{number}:{TAG}"}
        entries.append({**described(MANIFEST_TYPE, json.dumps(manifest).encode()), "annotations": annotations})

    (home / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (home / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))


def broken(site: Path, *, images: int = 300) -> Corpus:
    """Return images whose blobs are all missing, so that each one fails."""
    corpus = tiny(site, repositories=images, images=images)
    for digest in corpus.unique:
        (site / "blobs" / digest).unlink()

    return corpus


def big(site: Path, *, images: int = 4, size: int = 1_070_000_000) -> Corpus:
    """Return images of one big layer each."""
    return _write(site, [(f"big-{number}", [(f"big {number}", size)]) for number in range(images)])


def change(corpus: Corpus, names: Iterable[str], night: int) -> None:
    """Push something new to the repositories called `names`: one more layer, and a `last_modified` of its own."""
    for number, name in enumerate(names):
        size = 200_000 + number
        _add_image(corpus, name, [(f"{name} of night {night}", size)])
        _write_tag(corpus, name, start=_PUSHED + night)

    _write_pages(corpus, dict.fromkeys(names, _PUSHED + night))


def _scaled(layers: Iterable[tuple[str, float]], scale: float) -> list[tuple[str, int]]:
    return [(name, int(size * scale * 1_000_000)) for name, size in layers]


def _write(
    site: Path,
    images: Sequence[tuple[str, list[tuple[str, int]]]],
    without: Sequence[str] = (),
    *,
    of_files: bool = False,
) -> Corpus:
    for directory in ("api/pages", "api/tags", "manifests", "blobs"):
        (site / directory).mkdir(parents=True, exist_ok=True)

    corpus = Corpus(site, of_files=of_files)
    made: dict[str, _Layer] = {}
    for name, layers in images:
        _add_image(corpus, name, layers, made)
        _write_tag(corpus, name, start=_PUSHED)
        corpus.images.append(name)

    for name in without:
        (site / "api/tags" / f"{name}.json").write_text(json.dumps(_tags([])))

    corpus.repositories = len(images) + len(without)
    names = sorted([name for name, _ in images] + list(without))
    (site / "names.json").write_text(json.dumps(names))
    _write_pages(corpus, {})
    return corpus


@dataclass(frozen=True, slots=True)
class _Layer:
    """A blob, and the digest of its decompressed content."""

    digest: str
    size: int
    diff_id: str


def _add_image(
    corpus: Corpus, name: str, layers: Sequence[tuple[str, int]], made: dict[str, _Layer] | None = None
) -> None:
    made = {} if made is None else made
    for seed, size in layers:
        if seed not in made:
            made[seed] = _layer(corpus, seed, size)

    chain = [made[seed] for seed, _ in layers]
    described = [{"mediaType": _LAYER_TYPE, "digest": layer.digest, "size": layer.size} for layer in chain]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in chain]},
        }
    ).encode()
    digest = _put(corpus, config)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": _CONFIG_TYPE, "digest": digest, "size": len(config)},
            "layers": described,
        }
    ).encode()
    corpus.referenced += len(config) + sum(layer.size for layer in chain)
    own = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    corpus.manifests[own] = len(manifest)
    directory = corpus.site / "manifests" / name
    directory.mkdir(exist_ok=True)
    (directory / own).write_bytes(manifest)
    temporary = directory / "new"
    temporary.symlink_to(own)
    temporary.replace(directory / TAG)


def _layer(corpus: Corpus, seed: str, size: int) -> _Layer:
    """Write a layer of about `size` bytes; content that does not compress is stored, which is fast to read."""
    outer, inner, compressed = hashlib.sha256(), hashlib.sha256(), 0
    compressor = zlib.compressobj(1 if corpus.of_files else 0, wbits=31)
    temporary = corpus.site / "blobs" / "new"
    with temporary.open("wb") as file:
        for piece in (*_archive(seed, size, of_files=corpus.of_files), None):
            packed = compressor.flush() if piece is None else compressor.compress(piece)
            inner.update(piece or b"")
            outer.update(packed)
            compressed += file.write(packed)

    digest = f"sha256:{outer.hexdigest()}"
    temporary.replace(corpus.site / "blobs" / digest)
    corpus.unique[digest] = compressed
    return _Layer(digest, compressed, f"sha256:{inner.hexdigest()}")


def _archive(seed: str, size: int, *, of_files: bool) -> Iterator[bytes]:
    """Yield a tar of one file that is about `size` bytes when compressed."""
    source = random.Random(seed)
    whole = size * _FILES_SHRINK if of_files else size
    member = tarfile.TarInfo(f"usr/lib/{hashlib.sha256(seed.encode()).hexdigest()[:12]}")
    member.size, member.mtime = whole, _PUSHED
    yield member.tobuf(tarfile.GNU_FORMAT)
    for left in range(whole, 0, -_PIECE):
        yield _files(source, min(left, _PIECE)) if of_files else source.randbytes(min(left, _PIECE))

    yield bytes(-whole % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def _files(source: random.Random, size: int) -> bytes:
    """Return parts of the files that Python brings along, in another order for each `source`."""
    content = _installed()
    parts = (source.randrange(len(content) - _PART) for _ in range(-(-size // _PART)))
    return b"".join(content[at : at + _PART] for at in parts)[:size]


@cache
def _installed() -> bytes:
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("**/*.[ps][yo]"))
    return b"".join(file.read_bytes() for file in files if "site-packages" not in file.parts)


def _put(corpus: Corpus, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    (corpus.site / "blobs" / digest).write_bytes(content)
    corpus.unique[digest] = len(content)
    return digest


def _write_tag(corpus: Corpus, name: str, digest: str = "", *, start: int) -> None:
    digest = digest or (corpus.site / "manifests" / name / TAG).readlink().name
    row = {"name": TAG, "reversion": False, "start_ts": start, "manifest_digest": digest, "is_manifest_list": False}
    (corpus.site / "api/tags" / f"{name}.json").write_text(json.dumps(_tags([{**row, "size": 1}])))


def _tags(rows: list[dict[str, object]]) -> dict[str, object]:
    return {"tags": rows, "page": 1, "has_additional": False}


def _write_pages(corpus: Corpus, modified: dict[str, int]) -> None:
    names: list[str] = json.loads((corpus.site / "names.json").read_text())
    same = {"namespace": ORGANIZATION, "is_public": True, "kind": "image", "state": "NORMAL"}
    rows = [{**same, "name": name, "last_modified": modified.get(name, _PUSHED)} for name in names]
    for number in range(corpus.pages):
        page: dict[str, object] = {"repositories": rows[number * _PAGE : (number + 1) * _PAGE]}
        if number + 1 < corpus.pages:
            page["next_page"] = str(number + 2)

        (corpus.site / "api/pages" / f"{number + 1}.json").write_text(json.dumps(page))
