"""Receipts of what was derived: one small file an image, the proof that it is complete at its target."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import fsops


@dataclass(frozen=True, slots=True)
class LandedLayer:
    """A layer that stands decompressed in a directory, where other images find it; `size` of the file in bytes."""

    digest: str
    diff_id: str
    size: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """One image: where it came from, by which recipe (filters, options, platform), and the files it became.

    `target` is what the user called the target, `place` the directory of `layers`; `files` are paths with their sizes,
    relative to the directory that all images of the target have in common, so that it may be moved. `identity` is the
    digest that a registry or a daemon has it under.
    """

    name: str
    registry: str
    source: str
    target: str
    recipe: str
    place: str = ""
    files: tuple[tuple[str, int], ...] = ()
    layers: tuple[LandedLayer, ...] = ()
    identity: str = ""

    def is_kept(self, root: Path) -> bool:
        """Tell whether every file is still there, below `root`, with its size. Blocks."""
        return all(has_size(root / path, size) for path, size in self.files)


class Receipts:
    """The receipts in one directory. Its methods block, and raise `StoreError` when the disk fails."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, target: str) -> dict[str, Receipt]:
        """Return the receipts of `target` by image. What can't be read counts for nothing."""
        with fsops.local_errors("read", self._directory):
            texts = [path.read_bytes() for path in sorted(self._directory.glob("*.json"))]

        receipts = [receipt for receipt in map(_parsed, texts) if receipt is not None]
        return {receipt.name: receipt for receipt in receipts if receipt.target == target}

    def write(self, receipt: Receipt) -> None:
        """Keep `receipt`, durably, in the place of an older one of its image."""
        fsops.make_directory(self._directory)
        fsops.replace_file(self._path(receipt), json.dumps(asdict(receipt), indent=1).encode())

    def forget(self, receipt: Receipt) -> None:
        """Keep `receipt` no longer: what it says is not so any more."""
        fsops.remove(self._path(receipt))

    def _path(self, receipt: Receipt) -> Path:
        name = hashlib.sha256(f"{receipt.target}\0{receipt.name}".encode()).hexdigest()
        return self._directory / f"{name}.json"


def has_size(path: Path, size: int) -> bool:
    """Tell whether a file of `size` bytes is at `path`. Blocks."""
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def _parsed(text: bytes) -> Receipt | None:
    try:
        document: dict[str, Any] = json.loads(text)
        files = tuple((str(path), int(size)) for path, size in document.pop("files"))
        layers = tuple(LandedLayer(**layer) for layer in document.pop("layers"))
        return Receipt(files=files, layers=layers, **document)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
