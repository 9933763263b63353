"""Lock files: the digest of each selected tag and of its referrers, so that another run mirrors exactly that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..auth.files import read_config_file
from ..documents.lock import LOCK_VERSION, LockedImageJson, LockedReferrerJson, LockJson
from ..errors import ConfigError, InvalidName
from ..oci import Digest, Reference, Repository
from ..oci.digest_tags import is_digest_tag
from ..untrusted import InvalidDocument, parse_object
from .selection import LockedReferrer, Pin, Selection
from .source import SourceAddress, is_source, parse_source

_MAX_BYTES = 256 * 1024 * 1024


_Referrers = Sequence[LockedReferrer] | None


def lock_document(
    runs: Iterable[tuple[str, Mapping[Reference, _Referrers]]], platforms: Iterable[str] = ()
) -> LockJson:
    """Return the lock of `runs`, each the source and the pinned references that were found there, as JSON values.

    Each reference has the referrers of its image, None if they are not known. With one of the `platforms`, the digests
    are those of the images for it.

    :raises ConfigError: if they are of several sources: a lock file is for one.
    """
    found: dict[tuple[str, str], LockedImageJson] = {}
    servers = set()
    for server, references in runs:
        servers.add(server)
        for one, referrers in references.items():
            found[one.repository.name, one.tag or ""] = _image(one, referrers)

    if len(servers) != 1 or ", " in next(iter(servers)):
        raise ConfigError("a lock file is for one source: run the jobs of each source by themselves")

    images = [found[key] for key in sorted(found)]
    document: LockJson = {"lock_version": LOCK_VERSION, "server": servers.pop(), "images": images}
    return {**document, "platforms": sorted(set(platforms))} if platforms else document


def _image(reference: Reference, referrers: _Referrers) -> LockedImageJson:
    name, tag = reference.repository.name, reference.tag or ""
    document: LockedImageJson = {"repository": name, "tag": tag, "digest": str(reference.digest)}
    return document if referrers is None else {**document, "referrers": referrers_json(referrers)}


def referrers_json(referrers: Iterable[LockedReferrer]) -> list[LockedReferrerJson]:
    """Return locked referrers as JSON values, each once."""
    found: list[LockedReferrerJson] = []
    for each in sorted(set(referrers), key=lambda each: (each.subject, each.tag, each.digest)):
        document: LockedReferrerJson = {
            "subject": str(each.subject),
            "digest": str(each.digest),
            "artifact_type": each.artifact_type,
        }
        found.append({**document, "tag": each.tag} if each.tag else document)

    return found


def parse_referrers(image: Mapping[str, Any]) -> tuple[LockedReferrer, ...] | None:
    """Return the locked referrers of an image in a file, None if it has none.

    :raises KeyError, TypeError, AttributeError, InvalidName: if they are malformed.
    """
    documents = image.get("referrers")
    if documents is None:
        return None

    found = []
    for each in documents:
        subject, kind, tag = Digest.parse(each["subject"]), each["artifact_type"], each.get("tag", "")
        if not isinstance(kind, str):
            raise TypeError("the artifact_type of a referrer is not a text")

        if tag and not (is_digest_tag(tag) and tag.startswith(str(subject).replace(":", "-"))):
            raise InvalidName(f"not a digest tag of {subject}: {tag[:100]!r}")

        found.append(LockedReferrer(subject, Digest.parse(each["digest"]), kind, tag))

    return tuple(found)


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

            pins.setdefault(organization, []).append(Pin(name, tag, digest, parse_referrers(image)))
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
