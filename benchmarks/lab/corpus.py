"""Organizations on disk, as nginx can serve them: pages of the API, tags, manifests, blobs. Deterministic."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ORGANIZATION, TAG = "kolla", "2025.1-debian"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
_PAGE = 100
# Long ago, so that the listing vouches for every tag on the second night.
_PUSHED = 1_700_000_000
_PIECE = 16 * 1024 * 1024


@dataclass(slots=True)
class Corpus:
    """What is in a site. Bytes are those of blobs; `unique` counts each once, `referenced` once for each image."""

    site: Path
    repositories: int = 0
    images: list[str] = field(default_factory=list)
    unique: dict[str, int] = field(default_factory=dict)
    referenced: int = 0
    manifests: dict[str, int] = field(default_factory=dict)

    @property
    def unique_bytes(self) -> int:
        """The size of all distinct blobs."""
        return sum(self.unique.values())

    @property
    def pages(self) -> int:
        """How many pages the listing has."""
        return -(-self.repositories // _PAGE)


def kolla_tree(site: Path, *, images: int = 60, scale: float = 1.0) -> Corpus:
    """About 500 MB in a tree of 15 layers an image: a base, a second base, a base for every five, and what is own."""

    def layers(number: int) -> list[tuple[str, int]]:
        chain = [(f"base {n}", size) for n, size in enumerate((30, 4, 2, 1, 0.2))]
        chain += [(f"openstack {n}", size) for n, size in enumerate((12, 3, 1, 0.1))]
        chain += [(f"service {number // 5} {n}", size) for n, size in enumerate((4, 1, 0.3))]
        chain += [(f"image {number} {n}", size) for n, size in enumerate((5, 0.5, 0.05))]
        return [(name, int(size * scale * 1_000_000)) for name, size in chain]

    return _write(site, [(f"image-{number:04}", layers(number)) for number in range(images)])


def tiny(site: Path, *, repositories: int = 1000, images: int = 600) -> Corpus:
    """So many repositories, of which some have the tag, with three layers of 2 KB, two of them their own."""
    rows = [
        (f"image-{number:04}", [("base", 2000), (f"{number} a", 2000), (f"{number} b", 2000)])
        for number in range(images)
    ]
    return _write(site, rows, without=[f"other-{number:04}" for number in range(repositories - images)])


def big(site: Path, *, images: int = 4, size: int = 1_070_000_000) -> Corpus:
    """So many images of one big layer each."""
    return _write(site, [(f"big-{number}", [(f"big {number}", size)]) for number in range(images)])


def change(corpus: Corpus, names: Iterable[str], night: int) -> None:
    """Push something new to the repositories called `names`: one more layer, and a `last_modified` of its own."""
    for number, name in enumerate(names):
        size = 200_000 + number
        _add_image(corpus, name, [(f"{name} of night {night}", size)])
        _write_tag(corpus, name, start=_PUSHED + night)

    _write_pages(corpus, dict.fromkeys(names, _PUSHED + night))


def _write(site: Path, images: Sequence[tuple[str, list[tuple[str, int]]]], without: Sequence[str] = ()) -> Corpus:
    for directory in ("api/pages", "api/tags", "manifests", "blobs"):
        (site / directory).mkdir(parents=True, exist_ok=True)

    corpus = Corpus(site)
    for name, layers in images:
        _add_image(corpus, name, layers)
        _write_tag(corpus, name, start=_PUSHED)
        corpus.images.append(name)

    for name in without:
        (site / "api/tags" / f"{name}.json").write_text(json.dumps(_tags([])))

    corpus.repositories = len(images) + len(without)
    names = sorted([name for name, _ in images] + list(without))
    (site / "names.json").write_text(json.dumps(names))
    _write_pages(corpus, {})
    return corpus


def _add_image(corpus: Corpus, name: str, layers: Sequence[tuple[str, int]]) -> None:
    described = [{"mediaType": _LAYER_TYPE, **_blob(corpus, seed, size)} for seed, size in layers]
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Labels": {"name": name}},
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in described]},
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
    corpus.referenced += len(config) + sum(size for _, size in layers)
    own = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    corpus.manifests[own] = len(manifest)
    directory = corpus.site / "manifests" / name
    directory.mkdir(exist_ok=True)
    (directory / own).write_bytes(manifest)
    temporary = directory / "new"
    temporary.symlink_to(own)
    temporary.replace(directory / TAG)


def _blob(corpus: Corpus, seed: str, size: int) -> dict[str, object]:
    source, hasher = random.Random(seed), hashlib.sha256()
    temporary = corpus.site / "blobs" / "new"
    with temporary.open("wb") as file:
        for left in range(size, 0, -_PIECE):
            piece = source.randbytes(min(left, _PIECE))
            hasher.update(piece)
            file.write(piece)

    digest = f"sha256:{hasher.hexdigest()}"
    temporary.replace(corpus.site / "blobs" / digest)
    corpus.unique[digest] = size
    return {"digest": digest, "size": size}


def _put(corpus: Corpus, content: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    (corpus.site / "blobs" / digest).write_bytes(content)
    corpus.unique[digest] = len(content)
    return digest


def _write_tag(corpus: Corpus, name: str, *, start: int) -> None:
    digest = (corpus.site / "manifests" / name / TAG).readlink().name
    row = {"name": TAG, "reversion": False, "start_ts": start, "manifest_digest": digest, "is_manifest_list": False}
    (corpus.site / "api/tags" / f"{name}.json").write_text(json.dumps(_tags([{**row, "size": 1}])))


def _tags(rows: list[dict[str, object]]) -> dict[str, object]:
    return {"tags": rows, "page": 1, "has_additional": False}


def _write_pages(corpus: Corpus, modified: dict[str, int]) -> None:
    names: list[str] = json.loads((corpus.site / "names.json").read_text())
    entry: Callable[[str], dict[str, object]] = lambda name: {  # noqa: E731
        "namespace": ORGANIZATION,
        "name": name,
        "is_public": True,
        "kind": "image",
        "state": "NORMAL",
        "last_modified": modified.get(name, _PUSHED),
    }
    for number in range(corpus.pages):
        page: dict[str, object] = {
            "repositories": [entry(name) for name in names[number * _PAGE : (number + 1) * _PAGE]]
        }
        if number + 1 < corpus.pages:
            page["next_page"] = str(number + 2)

        (corpus.site / "api/pages" / f"{number + 1}.json").write_text(json.dumps(page))
