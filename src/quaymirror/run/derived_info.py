"""The derived images of a target, and where they come from, by the receipts in its state."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ..documents.images import DerivedImageJson, DerivedInfoJson
from ..selection.names import match_names
from ..selection.references import is_path
from ..settings import Options
from ..store.receipts import Receipt, Receipts
from ..targets.kinds import find_target

_SCHEMES = ("dir", "directory", "tar", "file", "oci", "mounts", "docker")
_RECEIPTS = Path(".quaymirror", "derived")


def has_derived_images(place: str) -> bool:
    """Return True if `place` is an address of derived images, or a directory with some. It blocks."""
    scheme, separator, _ = place.partition("://")
    if separator:
        return scheme in _SCHEMES

    return is_path(place) and (Path(place) / _RECEIPTS).is_dir() and not (Path(place) / "oci-layout").exists()


def derived_infos(place: str, names: Sequence[str], options: Options) -> list[DerivedInfoJson]:
    """Return what the receipts of the target at `place` say of its images, sorted by name. It blocks.

    `names` (GLOB:TAG, matched against whole names) select images; the default is all.

    :raises ConfigError: if it is no valid address.
    :raises StoreError: if the disk fails.
    """
    is_address = "://" in place
    state = find_target(place, options).state_directory(options) if is_address else Path(place) / _RECEIPTS.parent
    receipts = Receipts(state / _RECEIPTS.name).all()
    wanted = match_names(names, [each.name for each in receipts]) if names else [each.name for each in receipts]
    found = [each for each in receipts if each.name in set(wanted)]
    return [_info(each) for each in sorted(found, key=lambda each: (each.name, each.target))]


def _info(receipt: Receipt) -> DerivedInfoJson:
    name, _, tag = receipt.name.rpartition(":")
    derived: DerivedImageJson = {
        "target": receipt.target,
        "registry": receipt.registry,
        "source": receipt.source,
        "digest": receipt.identity or None,
        "files": [path for path, _ in receipt.files],
        "accepted_by": receipt.accepted_by or None,
        "provenance": json.loads(receipt.provenance) if receipt.provenance else None,
    }
    return {"image": name, "tag": tag, "derived": derived}
