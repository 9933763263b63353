"""A simulation of power loss: the possible contents of a disk, given the writes and syncs.

A recorder notes each operation. Power loss is then simulated after each of them: any part of the data that was not
synced by then may have reached the disk, names in any combination, with or without contents. Most file systems lose
less.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Files = dict[Path, "Content"]


@dataclass(frozen=True, eq=False)
class Content:
    """The bytes of a file at one time; looked at once, however many states have it."""

    data: bytes

    @cached_property
    def hash(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def lost(self) -> Content:
        """The content of a file whose length reached the disk and whose bytes did not, as with delayed allocation."""
        return Content(bytes(len(self.data)))

    @cached_property
    def children(self) -> list[str]:
        """Return the digests that a manifest or index names; none for other content."""
        if not self.data.startswith(b"{") or len(self.data) > 100_000:
            return []

        document = json.loads(self.data)
        nodes = document.get("manifests", []) + document.get("layers", []) + [document.get("config")]
        return [node["digest"] for node in nodes if isinstance(node, dict) and "digest" in node]


_NOTHING = Content(b"")


@dataclass(frozen=True)
class Operation:
    """One operation and its result: the file's number and content, or the promised names."""

    kind: str
    path: Path
    inode: int = 0
    content: Content = _NOTHING
    promised: dict[str, str] = field(default_factory=dict)


class Recorder:
    """A hook for `fsops.watch` that notes every operation."""

    def __init__(self) -> None:
        self.log: list[Operation] = []
        self._turn = threading.Lock()

    @contextmanager
    def __call__(self, kind: str, path: Path) -> Iterator[None]:
        with self._turn:
            yield
            self.log.append(self._noted(kind, path))

    def _noted(self, kind: str, path: Path) -> Operation:
        if kind == "commit":
            return Operation(kind, path, promised=_promised(path))

        if kind in ("unlink", "mkdir", "syncfs") or path.is_dir():
            return Operation(kind, path)

        return Operation(kind, path, path.stat().st_ino, Content(path.read_bytes()))


def _promised(database: Path) -> dict[str, str]:
    with closing(sqlite3.connect(database)) as connection:
        return dict(connection.execute("SELECT name, root FROM image JOIN version ON version.id = version"))


@dataclass
class _Change:
    """A change of names that no sync has made durable yet; `inode` None: a name goes."""

    path: Path
    inode: int | None
    is_directory: bool = False


class Disk:
    """The durable and the pending part of the state."""

    def __init__(self) -> None:
        self.names: dict[Path, int] = {}
        self.directories: set[Path] = set()
        self.pending: list[_Change] = []
        self.durable: dict[int, Content] = {}
        self.current: dict[int, Content] = {}
        self.promised: dict[str, str] = {}
        self._known: set[Path] = set()

    def apply(self, operation: Operation) -> None:
        """Apply the recorded operation."""
        match operation.kind:
            case "open" | "write" | "truncate" | "rename" | "chmod":
                self.current[operation.inode] = operation.content
                # Nothing relies on the names that partial files have, so they are never synced.
                is_new = operation.kind == "rename" or operation.path not in self._known
                if is_new and operation.path.parent.name != "ingest":
                    self._known.add(operation.path)
                    self.pending.append(_Change(operation.path, operation.inode))
            case "unlink":
                self._known.discard(operation.path)
                self.pending.append(_Change(operation.path, None))
            case "mkdir":
                self.pending.append(_Change(operation.path, None, is_directory=True))
            case "fsync" if operation.inode:
                self.durable[operation.inode] = operation.content
            case "fsync":
                self._sync([change for change in self.pending if change.path.parent == operation.path])
            case "syncfs":
                self._sync(self.pending)
                self.durable.update(self.current)
            case "commit":
                self.promised = operation.promised

    def _sync(self, changes: list[_Change]) -> None:
        _perform(changes, self.names, self.directories)
        self.pending = [change for change in self.pending if not any(change is other for other in changes)]

    def after_power_loss(self, root: Path) -> Iterator[Files]:
        """Yield the possible contents of `root` after the power loss."""
        for changes in _subsets(self.pending):
            names, directories = dict(self.names), set(self.directories)
            _perform(changes, names, directories)
            for keeps_contents in (True, False):
                yield {
                    path: self._content(inode, keeps_contents)
                    for path, inode in names.items()
                    if all(parent in directories for parent in path.parents if parent.is_relative_to(root))
                }

    def _content(self, inode: int, keeps_contents: bool) -> Content:
        current, durable = self.current.get(inode, _NOTHING), self.durable.get(inode)
        is_safe = keeps_contents or (durable is not None and durable.data == current.data)
        return current if is_safe else current.lost


def _perform(changes: list[_Change], names: dict[Path, int], directories: set[Path]) -> None:
    for change in changes:
        if change.is_directory:
            directories.add(change.path)
        elif change.inode is None:
            names.pop(change.path, None)
        else:
            names[change.path] = change.inode


def _subsets(changes: list[_Change]) -> Iterator[list[_Change]]:
    if len(changes) <= 4:
        for count in range(len(changes) + 1):
            yield from (list(chosen) for chosen in itertools.combinations(changes, count))

        return

    yield from (changes[:count] for count in range(len(changes) + 1))
    for number in range(len(changes)):
        yield [changes[number]]
        yield changes[:number] + changes[number + 1 :]

    dice = random.Random(len(changes))
    yield from ([change for change in changes if dice.random() < 0.5] for _ in range(8))


def states(log: list[Operation], root: Path, *, names_are_proof: bool = True) -> Iterator[str | None]:
    """Yield, for every state that power loss can leave, the error in it, or None."""
    disk = Disk()
    for number, operation in enumerate(log):
        disk.apply(operation)
        for files in disk.after_power_loss(root):
            try:
                _check(files, root, disk.promised, names_are_proof=names_are_proof)
            except AssertionError as error:
                yield f"after {number} {operation.kind} {operation.path.name}: {error}"
            else:
                yield None


def without(log: list[Operation], unwanted: Callable[[Operation], bool]) -> list[Operation]:
    """Return a log in which some operations never took place."""
    return [operation for operation in log if not unwanted(operation)]


def _check(files: Files, root: Path, promised: dict[str, str], *, names_are_proof: bool) -> None:
    if names_are_proof:
        for path, content in files.items():
            if path.parent.parent == root / "blobs":
                assert content.hash == path.name, f"{path.name[:12]} has other bytes"

    index = files.get(root / "index.json")
    assert index is None or index.data.startswith(b"{"), "the index is no JSON"
    seen: set[str] = set()
    for digest in [*(index.children if index is not None else ()), *promised.values()]:
        _check_whole(files, root, digest, seen)


def _check_whole(files: Files, root: Path, digest: str, seen: set[str]) -> None:
    if digest in seen:
        return

    seen.add(digest)
    content = files.get(root / "blobs" / digest.replace(":", "/"))
    assert content is not None, f"{digest[:19]} is gone"
    assert content.hash == digest.partition(":")[2], f"{digest[:19]} has other bytes"
    for child in content.children:
        _check_whole(files, root, child, seen)
