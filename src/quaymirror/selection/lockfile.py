"""Lock files: the digest of each selected tag, so that another run mirrors exactly that."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..auth.files import read_config_file
from ..documents import LOCK_VERSION, LockedImageJson, LockJson
from ..errors import ConfigError, InvalidName
from ..oci import Digest, Reference, Repository
from ..untrusted import InvalidDocument, parse_object
from .selection import Pin, Selection
from .source import SourceAddress, is_source, parse_source

_MAX_BYTES = 256 * 1024 * 1024


def lock_document(runs: Iterable[tuple[str, Iterable[Reference]]], platforms: Iterable[str] = ()) -> LockJson:
    """Return the lock of `runs`, each the source and the pinned references that were found there, as JSON values.

    With one of the `platforms`, the digests are those of the images for it.

    :raises ConfigError: if they are of several sources: a lock file is for one.
    """
    found: dict[tuple[str, str], str] = {}
    servers = set()
    for server, references in runs:
        servers.add(server)
        found |= {(one.repository.name, one.tag or ""): str(one.digest) for one in references}

    if len(servers) != 1 or ", " in next(iter(servers)):
        raise ConfigError("a lock file is for one source: run the jobs of each source by themselves")

    images: list[LockedImageJson] = [
        {"repository": name, "tag": tag, "digest": digest} for (name, tag), digest in sorted(found.items())
    ]
    document: LockJson = {"lock_version": LOCK_VERSION, "server": servers.pop(), "images": images}
    return {**document, "platforms": sorted(set(platforms))} if platforms else document


def read_lock(file: Path) -> tuple[str | None, tuple[Selection, ...]]:
    """Return the Quay server of a lock file, None for another source, and its pinned images by organization.

    :raises ConfigError: if it can't be read, or is not a lock file.
    """
    pins: dict[str, list[Pin]] = {}
    source: SourceAddress | None = None
    try:
        document = parse_object(read_config_file(file, limit=_MAX_BYTES), limit=_MAX_BYTES)
        if document.get("lock_version") != LOCK_VERSION:
            raise ConfigError(f"{file} is not a lock file of version {LOCK_VERSION}")

        server = str(document["server"])
        source = parse_source(server) if is_source(server) else None
        for image in document["images"]:
            # Names in a file are checked like those of a server.
            tag, digest = image["tag"] or None, Digest.parse(image["digest"])
            Reference(Repository("localhost", image["repository"]), tag, digest)
            organization, name = "", image["repository"]
            if source is None or source.has_organizations:
                organization, _, name = name.partition("/")

            pins.setdefault(organization, []).append(Pin(name, tag, digest))
    except InvalidDocument as error:
        raise ConfigError(f"{file} is not a lock file: it {error}") from None
    except (KeyError, TypeError, AttributeError, InvalidName) as error:
        raise ConfigError(f"{file} is not a lock file: {error}") from None

    if not pins:
        raise ConfigError(f"{file} locks no images")

    return server if source is None else None, tuple(
        Selection(organization, "*", tags_of(of_it), pinned=sorted(of_it), source=source)
        for organization, of_it in sorted(pins.items())
    )


def tags_of(pins: Iterable[Pin]) -> list[str]:
    """Return the tags of `pins`, `*` if none has one."""
    return sorted({pin.tag for pin in pins if pin.tag is not None}) or ["*"]
