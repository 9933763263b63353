"""Receipts of derived images: one small file per image, which proves that it is complete at its target."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from ..untrusted import parse_object
from ..values import dataclass
from . import fsops

_MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DecompressedLayer:
    """A decompressed layer in a directory, for other images to use; `size` of the file in bytes.

    If the recipe filters layers, `filtered` is the encoded digest of the file, otherwise "".
    """

    digest: str
    diff_id: str
    size: int
    filtered: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One image: its origin, its recipe (filters, options, platform), and the files it became.

    `target` is the user's name of the target, `place` the directory of `layers`; `files` are paths with sizes, relative
    to the directory of the target, so that it can be moved. `identity` is the image's digest in a registry or a daemon,
    `provenance` the statement about where it comes from. The signature policy with the fingerprint `policy`, "" for
    none, has accepted the source, by the keys or identities in `accepted_by`.
    """

    name: str
    registry: str
    source: str
    target: str
    recipe: str
    place: str = ""
    files: tuple[tuple[str, int], ...] = ()
    layers: tuple[DecompressedLayer, ...] = ()
    identity: str = ""
    provenance: str = ""
    policy: str = ""
    accepted_by: str = ""

    def is_kept(self, root: Path) -> bool:
        """Return True if every file still exists below `root`, with its size. It blocks."""
        return all(has_size(root / path, size) for path, size in self.files)


class Receipts:
    """The receipts in one directory. Its methods block, and raise `StoreError` if the disk fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, target: str) -> dict[str, Receipt]:
        """Return the receipts of `target` by image. Files that can't be parsed are ignored."""
        return {receipt.name: receipt for receipt in self.all() if receipt.target == target}

    def all(self) -> list[Receipt]:
        """Return all receipts. Files that can't be parsed are ignored."""
        with fsops.local_errors("read", self._directory):
            texts = [path.read_bytes() for path in sorted(self._directory.glob("*.json"))]

        return [receipt for receipt in map(_parsed, texts) if receipt is not None]

    def write(self, receipt: Receipt) -> None:
        """Store `receipt` durably in place of an older one of its image."""
        fsops.make_directory(self._directory)
        fsops.replace_file(self._path(receipt), json.dumps(asdict(receipt), indent=1).encode())

    def forget(self, receipt: Receipt) -> None:
        """Delete a receipt that is not true any more."""
        fsops.remove(self._path(receipt))

    def _path(self, receipt: Receipt) -> Path:
        name = hashlib.sha256(f"{receipt.target}\0{receipt.name}".encode()).hexdigest()
        return self._directory / f"{name}.json"


def has_size(path: Path, size: int) -> bool:
    """Return True if a file of `size` bytes is at `path`. It blocks."""
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _parsed(text: bytes) -> Receipt | None:
    try:
        document = parse_object(text, limit=_MAX_BYTES)
        files = tuple((str(path), int(size)) for path, size in document.pop("files"))
        layers = tuple(DecompressedLayer(**layer) for layer in document.pop("layers"))
        return Receipt(files=files, layers=layers, **document)
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
