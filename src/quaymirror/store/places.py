"""Mirrors by their directories: with the content inside, or with the state of a mirror in an object store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..selection.bucket import BucketAddress, parse_bucket
from . import fsops
from .fsops import Fsync
from .local_storage import LocalStorage
from .storage import Storage

if TYPE_CHECKING:
    from .bucket import BucketStorage
    from .objects import Objects
    from .plan_storage import PlanStorage

_ADDRESS = Path(".quaymirror", "bucket")
_MAX_BYTES = 4096
# The variables that say which service an address means.
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME")


def open_storage(root: Path, *, fsync: Fsync = Fsync.ALWAYS) -> Storage:
    """Return the storage of the mirror whose directory is `root`. It blocks.

    :raises ConfigError: if it is in an object store that can't be used.
    """
    address = bucket_of(root)
    return LocalStorage(root, fsync=fsync) if address is None else open_bucket(root, address)


def bucket_of(root: Path) -> BucketAddress | None:
    """Return the address of the mirror whose state is in `root`, None if its content is there, too."""
    path = root / _ADDRESS
    if not path.is_file():
        return None

    text = fsops.read_file(path, _MAX_BYTES) or b""
    return parse_bucket(text.decode("utf-8", "replace").strip())


def forget_objects(root: Path) -> None:
    """Let the next run list the objects of the mirror at `root` if it is in an object store."""
    address = bucket_of(root)
    if address is not None:
        open_bucket(root, address).forget()


def open_bucket(root: Path, address: BucketAddress) -> BucketStorage:
    """Return the storage of the mirror at `address`, whose state is in `root`; remember that it is. It blocks.

    :raises ConfigError: if it can't be used; see `Objects.at`.
    :raises StoreError: if the disk fails.
    """
    from .bucket import BucketStorage

    return BucketStorage(root, _objects(root, address), locks=address.locks, endpoint=_endpoint())


def open_for_plan(
    root: Path, address: BucketAddress, *, plan: str, role: str, keeps_state: bool = False
) -> PlanStorage:
    """Return the storage of the mirror at `address` for one of the writers of a plan; see `PlanStorage`. It blocks.

    :raises ConfigError: if it can't be used; see `Objects.at`.
    :raises StoreError: if the disk fails.
    """
    from .plan_storage import PlanStorage

    objects, endpoint = _objects(root, address), _endpoint()
    return PlanStorage(root, objects, plan=plan, role=role, keeps_state=keeps_state, endpoint=endpoint)


def _objects(root: Path, address: BucketAddress) -> Objects:
    """Return the objects at `address`, and remember that they are those of the mirror whose state is in `root`."""
    from .objects import Objects

    objects = Objects.at(address)
    path = root / _ADDRESS
    if fsops.read_file(path, _MAX_BYTES) != address.text.encode():
        fsops.make_directory(path.parent)
        fsops.replace_file(path, address.text.encode())

    return objects


def _endpoint() -> str:
    return " ".join(os.environ.get(name, "-") for name in _ENDPOINTS).replace("\t", " ").replace("\n", " ")
