"""Plans for shards: a dry run that reads all manifests, and writes down what it found."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from ..documents.common import iso
from ..documents.plan import PLAN_VERSION, PlanJson
from ..errors import ConfigError
from ..events import Observer, ignore
from ..progress.run import RunProgress
from ..selection.selection import Selection
from ..settings import Options
from ..shards.plan import Division, PlanDraft, read_plan
from ..shards.share import Share
from ..store.fsops import replace_file
from .context import Run, Stop
from .report import Report, check_json, repositories_json, selection_json, unmatched_json
from .sync import make_run, mirror, run_sync


async def plan_shards(
    selection: Selection | Sequence[Selection],
    target: str,
    file: Path,
    options: Options | None = None,
    *,
    observer: Observer = ignore,
    progress: RunProgress | None = None,
    stop: Stop | None = None,
) -> Report:
    """Write a plan to `file`, so that shards can mirror `selection` to `target`; return the report.

    Nothing is mirrored. The file is written only if everything selected was found; images whose manifests could not be
    read are in it, too.

    :raises ConfigError: if `target` can't be shared, or `options` are invalid.
    :raises StoreError: if the file can't be written.
    """
    selections = (selection,) if isinstance(selection, Selection) else tuple(selection)
    options = (options or Options()).replace(dry_run=True)
    run = make_run(selections, target, options, draft=PlanDraft())
    run.listener, run.progress, run.stop = observer, progress or run.progress, stop or run.stop
    report = await mirror(run)
    write_plan(file, run, report)
    return report


async def sync_shard(
    plan: Path,
    share: Share,
    target: str,
    options: Options | None = None,
    *,
    patience: float = 600.0,
    observer: Observer = ignore,
    progress: RunProgress | None = None,
    stop: Stop | None = None,
) -> Report:
    """Mirror the `share` of one shard of the plan in the file `plan` to a registry or an object store; see `sync`.

    Each shard needs a state directory of its own. The blobs of a shard that shows no sign of life for `patience`
    seconds are brought by others.

    :raises ConfigError: if the file is no plan, or `target` can't be shared.
    :raises LockHeld: if another run on this machine uses the same state, or one of another plan the object store.
    :raises StoreError: if the state can't be written.
    """
    division = Division(read_plan(plan), share, patience)
    selections, options = options_of_share(division, options or Options())
    return await run_sync(
        selections, target, options, observer=observer, progress=progress, stop=stop, division=division
    )


def options_of_share(division: Division, options: Options) -> tuple[tuple[Selection, ...], Options]:
    """Return the selections of a plan, and `options` with those that the plan decides.

    :raises ConfigError: if `options` have others.
    """
    plan = division.plan
    for name, given, planned in (
        ("--platform", options.discovery.platforms, plan.platforms),
        ("--rename", options.target.renames, plan.renames),
    ):
        if given and tuple(given) != planned:
            raise ConfigError(f"{name} is decided by the plan: give it to --plan-only")

    selections = plan.selections
    if not selections:
        raise ConfigError("the plan has no images: nothing is to be done")

    return selections, options.replace(
        server=plan.document["server"],
        platforms=plan.platforms,
        renames=plan.renames,
        # A share can be empty, and says nothing about the whole.
        allow_empty=True,
        expect_at_least=None,
        max_missing=None,
    )


def write_plan(file: Path, run: Run, report: Report) -> bool:
    """Write the plan that `run` made; return False if it did not find everything selected.

    :raises StoreError: if the file can't be written.
    """
    assert run.draft is not None
    is_whole = report.complete and report.fatal is None and report.outcomes
    if is_whole:
        text = json.dumps(_document(run, run.draft, report), separators=(",", ":")) + "\n"
        replace_file(file, text.encode(), sync=False, suffix=run.run_id)

    return bool(is_whole)


def _document(run: Run, draft: PlanDraft, report: Report) -> PlanJson:
    blobs, images = draft.content()
    return {
        "plan_version": PLAN_VERSION,
        "run_id": run.run_id,
        "created": iso(time.time()),
        "server": str(run.options.source.origin),
        "selections": [selection_json(selection) for selection in run.selections],
        "platforms": [str(platform) for platform in run.options.discovery.platforms],
        "renames": [str(rename) for rename in run.options.target.renames],
        "exit_code": int(report.discovery_exit_code),
        "repositories": repositories_json(report),
        "unmatched": unmatched_json(report.unmatched),
        "failed_checks": [check_json(failed) for failed in report.failed_checks],
        "blobs": blobs,
        "images": images,
    }
