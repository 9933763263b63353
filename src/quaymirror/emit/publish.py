"""From a job's own directory to final names: files appear complete, and what images share is changed in turn."""

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
    """Make `file` durable under its `final` name; return that and its size.

    :raises StoreError: when the disk refuses.
    """
    fsops.make_directory(final.parent)
    with fsops.local_errors("write", final):
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

        file.replace(final)

    return final, size


def publish_directory(out: Path, final: Path) -> list[tuple[Path, int]]:
    """Move what one image's `dir://` output wrote to `out` into `final`, where other images are.

    Layers go before what names them, and the catalog goes last, one image at a time.

    :raises StoreError: when the disk refuses.
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
    """Add our image to the catalog of all. A thread's lock, as occystrap has it, does not keep processes apart."""
    path, turns = final / _CATALOG, final / ".quaymirror" / "turns"
    fsops.make_directory(turns.parent)
    with turn(turns), fsops.local_errors("write", path):
        catalog = _catalog(path)
        for image, tags in json.loads(ours.read_text()).items():
            catalog.setdefault(image, {}).update(tags)

        fsops.replace_file(path, json.dumps(catalog, indent=4, sort_keys=True).encode())


def _catalog(path: Path) -> dict[str, dict[str, str]]:
    try:
        catalog: dict[str, dict[str, str]] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        raise EmitFailed(f"{path} is damaged, perhaps by a crash of another tool: remove it") from None

    return catalog


def replace_tree(tree: Path, final: Path) -> None:
    """Put the directory `tree` in the place of `final`.

    :raises StoreError: when the disk refuses.
    """
    fsops.make_directory(final.parent)
    aside = tree.with_name(f"{tree.name}.replaced")
    with fsops.local_errors("write", final):
        if final.exists():
            final.rename(aside)

        tree.rename(final)
        if aside.exists():
            shutil.rmtree(aside)


def append_shared(file: Path, spilled: Path) -> None:
    """Append what an image wrote to `spilled` to `file`, which images share.

    :raises StoreError: when the disk refuses.
    """
    with turn(file), fsops.local_errors("append to", file), file.open("ab") as shared:
        shared.write(spilled.read_bytes())
