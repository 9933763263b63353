"""Lock files: the digest of each selected tag, so that another run mirrors exactly that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from ..documents import LOCK_VERSION, LockedImageJson, LockJson
from ..errors import ConfigError, InvalidName
from ..oci import Digest, Reference, Repository
from ..untrusted import InvalidDocument, parse_object
from .selection import Pin, Selection

_MAX_BYTES = 256 * 1024 * 1024


def lock_document(runs: Iterable[tuple[str, Iterable[Reference]]]) -> LockJson:
    """Return the lock of `runs`, each the server and the pinned references that were found there, as JSON values.

    :raises ConfigError: if they are of several servers: a lock file is for one.
    """
    found: dict[tuple[str, str], str] = {}
    servers = set()
    for server, references in runs:
        servers.add(server)
        found |= {(one.repository.name, one.tag or ""): str(one.digest) for one in references}

    if len(servers) != 1:
        raise ConfigError("a lock file is for one server: run the jobs of each server by themselves")

    images: list[LockedImageJson] = [
        {"repository": name, "tag": tag, "digest": digest} for (name, tag), digest in sorted(found.items())
    ]
    return {"lock_version": LOCK_VERSION, "server": servers.pop(), "images": images}


def read_lock(file: Path) -> tuple[str, tuple[Selection, ...]]:
    """Return the server of a lock file, and a selection of pinned images for each organization.

    :raises ConfigError: if it can't be read, or is not a lock file.
    """
    document = _document(file)
    try:
        images = sorted((_organization(image), _pin(image)) for image in document["images"])
        server = str(document["server"])
    except (KeyError, TypeError, AttributeError, InvalidName) as error:
        raise ConfigError(f"{file} is not a lock file: {error}") from None

    if not images:
        raise ConfigError(f"{file} locks no images")

    groups = groupby(images, key=lambda image: image[0])
    return server, tuple(_selection(name, [pin for _, pin in group]) for name, group in groups)


def _document(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            document = parse_object(stream.read(_MAX_BYTES + 1), limit=_MAX_BYTES)
    except OSError as error:
        raise ConfigError(f"can't read {file}: {error.strerror}") from None
    except InvalidDocument as error:
        raise ConfigError(f"{file} is not a lock file: it {error}") from None

    if document.get("lock_version") != LOCK_VERSION:
        raise ConfigError(f"{file} is not a lock file of version {LOCK_VERSION}")

    return document


def _organization(image: Mapping[str, str]) -> str:
    return image["repository"].partition("/")[0]


def _pin(image: Mapping[str, str]) -> Pin:
    # Names in a file are checked like those of a server.
    Reference(Repository("localhost", image["repository"]), image["tag"])
    return Pin(image["repository"].partition("/")[2], image["tag"], Digest.parse(image["digest"]))


def _selection(organization: str, pins: Sequence[Pin]) -> Selection:
    return Selection(organization, "*", sorted({pin.tag for pin in pins}), pinned=pins)
