"""Publish the files of a job under their final names: complete, and those that images share one image at a time.

Functions raise `StoreError` if the disk fails.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from ..errors import EmitFailed
from ..store import fsops
from ..store.lock import turn

_CATALOG = "catalog.json"


def publish_file(file: Path, final: Path) -> tuple[Path, int]:
    """Make `file` durable under its `final` name; return that and its size."""
    fsops.make_directory(final.parent)
    with fsops.opened(file, os.O_RDONLY, "write") as descriptor, fsops.local_errors("write", final):
        os.fsync(descriptor)
        size = os.fstat(descriptor).st_size
        file.replace(final)

    return final, size


def publish_directory(out: Path, final: Path) -> list[tuple[Path, int]]:
    """Move the `dir://` output of one image from `out` to `final`, which it shares with other images.

    Layers are moved before the documents that name them. The catalog is last.
    """
    fsops.make_directory(final)
    layers = sorted(out.glob("*/layer.tar"))
    files = [publish_file(layer, final / layer.parent.name / layer.name) for layer in layers]
    trees = {path for path in out.iterdir() if path.is_dir()} - {layer.parent for layer in layers}
    for tree in sorted(trees):
        replace_tree(tree, final / tree.name)

    documents = sorted(
        (path for path in out.iterdir() if path.is_file() and path.name != _CATALOG),
        key=lambda path: path.name.startswith("manifest"),
    )
    files += [publish_file(document, final / document.name) for document in documents]
    fsops.sync_directory(final)
    _merge_catalog(out / _CATALOG, final)
    return files


def _merge_catalog(ours: Path, final: Path) -> None:
    """Add the image to the common catalog. The lock of occystrap is for threads only, not for processes."""
    path, turns = final / _CATALOG, final / ".quaymirror" / "turns"
    fsops.make_directory(turns.parent)
    with turn(turns), fsops.local_errors("write", path):
        try:
            catalog = json.loads(path.read_text()) if path.exists() else {}
        except ValueError:
            raise EmitFailed(f"{path} is not valid JSON: remove it") from None

        for image, tags in json.loads(ours.read_text()).items():
            catalog.setdefault(image, {}).update(tags)

        fsops.replace_file(path, json.dumps(catalog, indent=4, sort_keys=True).encode())


def replace_tree(tree: Path, final: Path) -> None:
    """Replace the directory `final` by `tree`."""
    fsops.make_directory(final.parent)
    aside = tree.with_name(f"{tree.name}.replaced")
    with fsops.local_errors("write", final):
        if final.exists():
            final.rename(aside)

        tree.rename(final)
        if aside.exists():
            shutil.rmtree(aside)


def append_shared(file: Path, spilled: Path) -> None:
    """Append the content of `spilled` to `file`, which images share."""
    with turn(file), fsops.local_errors("append to", file), file.open("ab") as shared:
        shared.write(spilled.read_bytes())
