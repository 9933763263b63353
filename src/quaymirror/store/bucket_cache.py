"""The local knowledge of a mirror in an object store: its objects, and the content of small ones.

It is right as long as the last session of the mirror is the one that it was saved for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import StoreError
from . import fsops
from .objects import Stored
from .storage import BLOBS, ObjectInfo

_HEADER = "quaymirror objects 1"
_MAX_BYTES = 1024 * 1024 * 1024
# Contents up to this size are kept: manifests, the index, and files of snapshots.
_MAX_BLOB = 4 * 1024 * 1024


class BucketCache:
    """The objects of a mirror, by their keys. Its files are in `directory`, and may be deleted at any time."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._contents = directory / "contents"
        self._path = directory / "objects"
        self._objects: dict[str, tuple[int, float, str]] = {}
        self.session: str = ""
        """The session after which the mirror had these objects, "" if nothing is known."""
        self.copy: str = ""
        """The session whose copy of the state the local one includes."""
        self.probed: str = ""
        """The endpoint that was found to observe conditions."""

    def load(self) -> None:
        """Read the saved objects; a damaged file counts as none."""
        self._objects, self.session = {}, ""
        with suppress(StoreError, ValueError):
            text = fsops.read_file(self._path, _MAX_BYTES)
            lines = (text or b"").decode().split("\n")
            if lines[0] != _HEADER or lines[-1] != "end":
                return

            session, self.copy, self.probed = lines[1].split("\t")
            for line in lines[2:-1]:
                key, size, modified, tag = line.split("\t")
                self._objects[key] = int(size), float(modified), tag

            self.session = session

    def save(self, session: str) -> None:
        """Save everything as it is after `session`.

        :raises StoreError: if the disk fails.
        """
        self.session = session
        rows = (f"{key}\t{size}\t{when!r}\t{tag}" for key, (size, when, tag) in [*self._objects.items()])
        text = "\n".join([_HEADER, f"{session}\t{self.copy}\t{self.probed}", *rows, "end"])
        fsops.make_directory(self._directory)
        fsops.replace_file(self._path, text.encode(), sync=False)

    def forget(self) -> None:
        """Forget the saved objects."""
        self.session = ""
        with suppress(StoreError):
            fsops.remove(self._path)

    def replace(self, objects: Iterable[Stored]) -> None:
        """Know `objects`, and no others."""
        self._objects = {each.key: (each.size, each.modified, each.tag) for each in objects}

    def info(self, key: str) -> ObjectInfo | None:
        """Return an object, None if it does not exist."""
        found = self._objects.get(key)
        return None if found is None else ObjectInfo(key, found[0], found[1])

    def tag(self, key: str) -> str:
        """Return the version tag of an object, "" if it does not exist."""
        found = self._objects.get(key)
        return "" if found is None else found[2]

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Iterate over the objects below `prefix`, sorted by key."""
        start = f"{prefix}/" if prefix else ""
        for key in sorted(key for key in [*self._objects] if key.startswith(start)):
            size, modified, _ = self._objects[key]
            yield ObjectInfo(key, size, modified)

    def add(self, key: str, size: int, modified: float, tag: str) -> None:
        """Know a new object."""
        self._objects[key] = size, modified, tag

    def remove(self, key: str) -> None:
        """Forget an object, and its content."""
        self._objects.pop(key, None)
        with suppress(StoreError):
            fsops.remove(self._content_path(key))

    def read(self, key: str) -> bytes | None:
        """Return the content of an object that was kept, None if it was not, or is damaged or of another version."""
        with suppress(StoreError):
            content = fsops.read_file(self._content_path(key), _MAX_BYTES)
            if content is None:
                return None

            digest = key.rpartition("/")[2] if key.startswith(f"{BLOBS}/sha256/") else content[:64].decode("latin-1")
            content = content if key.startswith(f"{BLOBS}/") else content[64:]
            if hashlib.sha256(content + self._version(key)).hexdigest() == digest:
                return content

        return None

    def keep(self, key: str, content: bytes) -> None:
        """Keep the content of an object that is known. A full disk is no failure."""
        is_blob = key.startswith(f"{BLOBS}/")
        if is_blob and (len(content) > _MAX_BLOB or not key.startswith(f"{BLOBS}/sha256/")):
            return

        seal = b"" if is_blob else hashlib.sha256(content + self._version(key)).hexdigest().encode()
        with suppress(StoreError):
            fsops.make_directory(self._contents)
            fsops.replace_file(self._content_path(key), seal + content, sync=False)

    def _version(self, key: str) -> bytes:
        return b"" if key.startswith(f"{BLOBS}/") else f"\n{key} {self.tag(key)}".encode()

    def _content_path(self, key: str) -> Path:
        return self._contents / key.replace("/", "%")
