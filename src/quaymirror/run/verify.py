"""Verification of a target: everything that was mirrored is still there, and undamaged."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from ..errors import ConfigError, QuaymirrorError
from ..events import Notice, Observer, ignore
from ..settings import Options
from ..store.layout import OCILayout
from ..store.places import forget_objects, open_storage
from ..store.repair import Rebuilt, rebuild
from ..store.snapshots import open_at
from ..store.state import State
from ..store.verify import Progress, Verification, verify_layout, verify_storage
from ..targets.kinds import TargetContext, TargetSpec, find_target
from ..values import dataclass
from .paths import layout_path
from .repair import repair as repair_layout
from .signatures import make_judge
from .wiring import connect_target

if TYPE_CHECKING:
    from ..trust.judge import Judge


async def verify(
    target: str,
    options: Options,
    *,
    fast: bool = False,
    repair: bool = False,
    repair_state: bool = False,
    at: str | None = None,
    observer: Observer = ignore,
    progress: Progress | None = None,
) -> Verification:
    """Check that `target`, as given to sync, has everything that runs on this machine stored there.

    All blobs of an OCI image layout are hashed, with `fast` only its manifests. With `repair` missing and damaged blobs
    are fetched again from the source, and images of a registry that lack content are pushed again; with `repair_state`
    the state is rebuilt from the layout first. With `at` it is the snapshot of a layout that this means. Damage that is
    found and not repaired is recorded: the next run fetches it again. The signature policy of the options, if there is
    one, judges all images of a layout, from its own files.

    :raises ConfigError: if `target` can't be verified like that, or the policy can't be followed to the letter.
    :raises LockHeld: if a run deletes blobs of the layout, or writes to it while it is to be repaired.
    :raises QuaymirrorError: if the target can't be read.
    """
    judge = make_judge(options)
    if judge is not None and not find_target(target, options).capabilities.repairable:
        raise ConfigError("--signature-policy judges the images of an OCI image layout, not those of a registry")

    wanted = _Wanted(fast, repair, repair_state, at)
    result = await _verify_content(target, options, wanted, observer, progress or Progress())
    if judge is None:
        return result

    from .layout_verdicts import judge_layout

    def judged(judge: Judge) -> Verification:
        path = layout_path(target, options)
        storage = open_storage(path) if at is None else open_at(path, at)
        with storage.reading():
            accepted, refused = judge_layout(storage, judge)

        return replace(result, accepted=accepted, unaccepted=refused)

    return await anyio.to_thread.run_sync(judged, judge)


@dataclass(frozen=True, slots=True)
class _Wanted:
    fast: bool
    repair: bool
    repair_state: bool
    at: str | None


async def _verify_content(
    target: str, options: Options, wanted: _Wanted, observer: Observer, progress: Progress
) -> Verification:
    fast, repair, repair_state, at = wanted.fast, wanted.repair, wanted.repair_state, wanted.at
    if at is not None:
        if repair or repair_state:
            raise ConfigError("--at is for reading: --repair and --repair-state don't go with it")

        result = await verify_storage(open_at(layout_path(target, options), at), fast=fast, progress=progress)
        # Other snapshots need the other blobs.
        return replace(result, orphans=(0, 0))

    spec = find_target(target, options)
    if not spec.capabilities.repairable:
        if fast or repair_state:
            raise ConfigError("--fast and --repair-state need an OCI image layout")

        if repair:
            from .push_again import push_again

            return await push_again(target, spec, options, observer)

        return await verify_target(spec, options, observer)

    if repair and fast:
        raise ConfigError("--repair and --fast don't go together: only a full hash shows which blobs are damaged")

    path = await anyio.to_thread.run_sync(layout_path, target, options)
    if repair_state:
        async with OCILayout.open(path, observer=observer) as layout:
            observer(Notice(_rebuilt(await layout.use(rebuild))))

    if repair:
        return await repair_layout(path, options, observer, progress)

    result = await verify_layout(path, fast=fast, progress=progress)
    await anyio.to_thread.run_sync(_remember, path, result, observer)
    return result


def _remember(path: Path, result: Verification, observer: Observer) -> None:
    """Record damaged blobs in the state, so that the next run fetches them again. A failure is reported."""
    if result.damages:
        forget_objects(path)

    damaged = [damage.digest for damage in result.damages if damage.kind == "damaged"]
    state_path = path / ".quaymirror" / "state.db"
    if not damaged or not state_path.is_file():
        return

    try:
        state, notice = State.open(state_path, read_only=True)
        state.close()
        if notice is None:
            state, _ = State.open(state_path)
            with closing(state):
                state.doubt(damaged)
    except QuaymirrorError as error:
        observer(Notice(f"the next run does not know what is damaged: {error.message}"))


async def verify_target(spec: TargetSpec, options: Options, observer: Observer = ignore) -> Verification:
    """Check everything that runs have left at the target `spec`; see `verify`."""
    return await spec.verify(TargetContext(options, connect_target, observer))


def _rebuilt(result: Rebuilt) -> str:
    text = f"state: {result.known:,} images known, {result.recorded:,} recorded, {result.foreign:,} of other tools"
    return f"{text}; incomplete: {', '.join(result.broken)}" if result.broken else text
