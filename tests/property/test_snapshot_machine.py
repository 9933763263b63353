"""Nights, prunes, rollbacks, holds and crashes in any order: all kept snapshots are whole."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import layouts
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quaymirror import PruneOptions
from quaymirror.oci import Descriptor, Digest, mediatype
from quaymirror.run.pruning import prune_layout
from quaymirror.run.snapshots import hold_names, list_snapshots, roll_back, unhold_names
from quaymirror.store import fsops
from quaymirror.store.fsops import Fsync
from quaymirror.store.index import update_index
from quaymirror.store.layout import OCILayout
from quaymirror.store.records import ImageRecord, Snapshot
from quaymirror.store.snapshots import SnapshotNote, hold_back, open_at, take_snapshot
from quaymirror.store.state import State
from quaymirror.store.storage import Storage, blob_key
from quaymirror.store.verify import verify_storage

T = TypeVar("T")
CONFIG = "application/vnd.oci.image.config.v1+json"
NAMES = st.sampled_from(["a", "b", "c"])
# The number of steps on the disk after which the process ends, None if it does not.
CRASHES = st.none() | st.integers(0, 25)


class CrashError(Exception):
    """The process ends here."""


@contextmanager
def crash_after(steps: int | None) -> Iterator[None]:
    """Let the operations of the context on the disk end after so many of them."""
    left = [steps]

    @contextmanager
    def hook(_operation: str, _path: Path) -> Iterator[None]:
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise CrashError

        yield

    fsops.watch(hook)
    try:
        yield
    except (CrashError, BaseExceptionGroup) as error:
        if isinstance(error, BaseExceptionGroup) and error.split(CrashError)[1] is not None:
            raise
    finally:
        fsops.watch(None)


def image(storage: Storage, name: str, build: int) -> ImageRecord:
    """Store an image, and return its record."""
    config = f'{{"image":"{name}","build":{build}}}'.encode()
    node = Descriptor(CONFIG, Digest.of(config), len(config))
    text = (
        f'{{"schemaVersion":2,"mediaType":"{mediatype.OCI_MANIFEST}","layers":[],'
        f'"config":{{"mediaType":"{CONFIG}","digest":"{node.digest}","size":{node.size}}}}}'
    ).encode()
    root = Descriptor(mediatype.OCI_MANIFEST, Digest.of(text), len(text))
    for content in (config, text):
        storage.put(blob_key(Digest.of(content)), content)

    return ImageRecord(f"kolla/{name}:1", "quay.io", root.digest, root, (node, root), mirrored=1.0)


class Nights(RuleBasedStateMachine):
    """One mirror over many nights."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.mirror = Path(self.directory, "mirror")
        self.build = 0
        self.has_run = False
        self.held: dict[str, str | None] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @rule(moved=st.sets(NAMES, min_size=1), at_end=st.booleans(), fails=st.booleans(), steps=CRASHES)
    def sync(self, moved: set[str], at_end: bool, fails: bool, steps: int | None) -> None:
        self.build += 1
        before = self.visible()
        # The steps of a transfer are the subject of other tests.
        records = self.look(lambda storage, _: [image(storage, name, self.build) for name in sorted(moved)])

        async def night() -> None:
            async with OCILayout.open(self.mirror, fsync=Fsync.NEVER, checks_space=False) as layout:
                await layout.use(partial(hold_back, until_end=at_end))
                held = {hold.name for hold in await layout.use(lambda _, state: state.holds())}
                for record in records:
                    if record.name not in held:
                        await layout.commit(record)

                if not (at_end and fails):
                    await layout.use(publish)

        with crash_after(steps):
            anyio.run(night)

        self.has_run = True
        if at_end and fails and steps is None:
            assert self.visible() == before

    @precondition(lambda self: self.has_run)
    @rule(last=st.integers(1, 3), steps=CRASHES)
    def prune(self, last: int, steps: int | None) -> None:
        with crash_after(steps):
            anyio.run(partial(prune_layout, self.mirror, PruneOptions(grace=0.0, keep_last=last), dry_run=False))

    @precondition(lambda self: self.has_run)
    @rule(place=st.integers(0, 5), steps=CRASHES)
    def rollback(self, place: int, steps: int | None) -> None:
        self.held.clear()
        kept = [each for each in self.snapshots() if each.dropped is None]
        if kept:
            to = kept[place % len(kept)].id
            with crash_after(steps):
                anyio.run(partial(roll_back, self.mirror, to))

    @precondition(lambda self: self.has_run)
    @rule(steps=CRASHES)
    def hold(self, steps: int | None) -> None:
        if self.visible():
            with crash_after(steps):
                anyio.run(partial(hold_names, self.mirror, ["*"]))

    @precondition(lambda self: self.has_run)
    @rule(name=NAMES)
    def unhold(self, name: str) -> None:
        held = {hold.name for hold in self.look(lambda _, state: state.holds())}
        if f"kolla/{name}:1" in held:
            anyio.run(partial(unhold_names, self.mirror, [f"kolla/{name}:1"]))

    @precondition(lambda self: self.has_run)
    @rule()
    def lose_the_state(self) -> None:
        before = [each.id for each in self.snapshots()]
        (self.mirror / ".quaymirror/state.db").unlink(missing_ok=True)
        self.look(lambda _, state: state.latest_snapshot())
        assert [each.id for each in self.snapshots()] == before

    @precondition(lambda self: self.has_run)
    @invariant()
    def every_kept_snapshot_and_the_set_of_readers_are_whole(self) -> None:
        self.look(lambda storage, state: update_index(storage, state))
        layouts.check(self.mirror)
        for each in self.snapshots():
            if each.dropped is None:
                assert not anyio.run(verify_storage, open_at(self.mirror, each.id)).damages

        # Rollbacks alone move held names.
        seen = self.visible()
        held = {hold.name: seen.get(hold.name) for hold in self.look(lambda _, state: state.holds())}
        assert all(held[name] == digest for name, digest in self.held.items() if name in held)
        self.held = held

    def visible(self) -> dict[str, str]:
        return layouts.names(self.mirror) if (self.mirror / "index.json").exists() else {}

    def snapshots(self) -> list[Snapshot]:
        return [each.snapshot for each in anyio.run(list_snapshots, self.mirror)]

    def look(self, function: Callable[[Storage, State], T]) -> T:
        """Open the mirror as the next command does."""

        async def use() -> T:
            async with OCILayout.open(self.mirror, fsync=Fsync.NEVER, checks_space=False) as layout:
                return await layout.use(function)

        return anyio.run(use)


def publish(storage: Storage, state: State) -> None:
    take_snapshot(storage, state, SnapshotNote("sync"))
    update_index(storage, state)


TestNights = Nights.TestCase
TestNights.settings = settings(
    max_examples=6, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck)
)
