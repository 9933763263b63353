"""Repair of a mirror: missing and damaged blobs are fetched again."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from ..errors import InvalidName, QuaymirrorError, Scope
from ..events import BlobFinished, Notice, Observer
from ..http.origin import Origin
from ..oci import Descriptor, Reference, Repository
from ..oci.manifest import MAX_DEPTH
from ..progress.meters import Meters
from ..registry.puller import Puller
from ..selection.rename import Renames, split_name
from ..selection.source import SourceAddress
from ..settings import Options
from ..store.history import History
from ..store.layout import OCILayout
from ..store.state import State
from ..store.storage import Storage
from ..store.verify import Damage, Progress, Verification, verify_layout
from ..tasks import run_all
from ..transfer.blob import fetch_blob
from ..transfer.slots import FetchSlots
from ..transfer.stream import BlobJob, BlobProgress
from ..values import dataclass
from .wiring import connect


@dataclass(frozen=True, slots=True)
class _Repair:
    layout: OCILayout
    pullers: Callable[[str], Awaitable[Puller]]
    options: Options
    observer: Observer
    slots: anyio.CapacityLimiter

    async def fix(self, damage: Damage, fixed: list[Damage]) -> None:
        """Fetch a blob from the repository of an image that needs it. A failure is reported."""
        reasons: list[str] = []
        for name in damage.images:
            reference = await self.layout.use(partial(_reference, name=name, options=self.options))
            if reference is None:
                reasons.append(f"{name} is the name of no image")
                continue

            try:
                size = await self._fetch(damage.node, reference)
            except QuaymirrorError as error:
                if error.scope is Scope.RUN:
                    raise

                reasons.append(error.message)
            else:
                fixed.append(damage)
                self.observer(BlobFinished(damage.digest, size))
                return

        self.observer(
            Notice(f"{damage.digest} can't be fetched again: {reasons[0] if reasons else 'no image needs it'}")
        )

    async def _fetch(self, node: Descriptor | None, reference: Reference) -> int:
        assert node is not None, "all damages of a layout have one"
        source = await self.pullers(reference.repository.registry)
        async with self.slots:
            if node.is_manifest:
                found = await source.manifest(reference.repository, node.digest, expected=node)
                await self.layout.put_manifest(reference, node, found.raw)
            else:
                async with self.layout.sink(reference, node) as sink:
                    job = BlobJob(reference.repository, node, reference.name)
                    await fetch_blob(BlobProgress(job, Meters()), source, sink, FetchSlots(1, 1))

        return node.size


async def repair(path: Path, options: Options, observer: Observer, progress: Progress) -> Verification:
    """Verify the layout at `path`, replace missing and damaged blobs atomically, and return the result after that.

    Images from another server than that of the options are fetched from there, as the state and the history say.
    Credentials that are given as options are for the server of the options only.

    :raises QuaymirrorError: as `verify`.
    """
    others = options.replace(credentials=None, api_token=None)
    async with (
        OCILayout.open(path, observer=observer, fsync=options.target.fsync, checks_space=False) as layout,
        connect(options, observer) as own,
        connect(others, observer) as elsewhere,
    ):
        slots = anyio.CapacityLimiter(options.limits.layer_concurrency)
        servers = await anyio.to_thread.run_sync(_servers, path)

        async def puller(registry: str) -> Puller:
            if registry == options.source.origin.netloc:
                return (await own.open(None)).source

            return (await elsewhere.open(servers.get(registry, SourceAddress("registry", registry)))).source

        repairs = _Repair(layout, puller, options, observer, slots)
        # A manifest that was fetched again may need further blobs that are missing.
        for _ in range(MAX_DEPTH + 1):
            found = await verify_layout(path, progress=progress)
            fixed: list[Damage] = []
            await run_all(partial(repairs.fix, damage, fixed) for damage in found.damages)
            if not fixed:
                return found

            await layout.use(partial(_flush, fixed=fixed))

    return await verify_layout(path, progress=progress)


def _flush(storage: Storage, _state: State, *, fixed: Sequence[Damage]) -> None:
    storage.flush([damage.digest for damage in fixed])


def _servers(path: Path) -> dict[str, SourceAddress]:
    """Return the servers of earlier runs by their names in references."""
    home = path / ".quaymirror"
    if not (home / "history.db").is_file():
        return {}

    servers = {}
    past, _ = History.open(home, read_only=True)
    with closing(past):
        for run in past.runs():
            with suppress(ValueError, TypeError, KeyError):
                origin = Origin.of(json.loads(run.subject)["server"])
                servers[origin.netloc] = SourceAddress.of_origin("registry", origin)

    return servers


def _reference(_storage: Storage, state: State, *, name: str, options: Options) -> Reference | None:
    """Return the reference of an image at its source, by default at the server of the options."""
    record = state.image(name, doubted=True)
    registry = options.source.origin.netloc if record is None else record.registry

    renames = Renames(options.target.renames)
    repository, tag = split_name(renames.restore(registry, name) or name)
    try:
        return Reference(Repository(registry, repository), tag, record.source if record and tag is None else None)
    except InvalidName:
        return None
