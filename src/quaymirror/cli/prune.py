"""`quaymirror prune`."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click

from ..errors import DiscoveryIncomplete
from ..run.pruning import Unselected, prune_layout, summary
from ..run.removal import unselected_names
from ..settings import Options, PruneOptions
from ..settings.register import field_values
from ..store.prune import UNSELECTED, PrunePlan, PruneProgress
from ..store.records import AbsentImage
from ..text import counted, escape_controls, human_bytes, human_duration, local_time
from .help import ADDRESS, GroupedCommand, command_option, options
from .messages import show_notice
from .options import json_option, make_options, mirror_at
from .progress_line import Counter, progress_line, show_notice_above
from .run import configured_jobs


@click.command(cls=GroupedCommand)
@click.argument("target", type=ADDRESS)
@options("prune")
@command_option("--unselected", is_flag=True, help="Also images that no job of --config selects any more.")
@command_option("--yes", is_flag=True, help="Do it.")
@command_option("--no-dry-run", "also_yes", is_flag=True, hidden=True, help="The earlier name of --yes.")
@json_option("Print the plan as an object.")
def prune(
    target: str,
    dry_run: bool | None,
    yes: bool,
    also_yes: bool,
    unselected: bool,
    config: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Show images in TARGET that have disappeared from the source.

    Nothing is removed without --yes. Images go if complete runs of sync have missed
    them for --grace; blobs half a day after nothing needs them. With --unselected, images go that no job of --config
    selects any more, too.

    Of a registry (registry://HOST/PREFIX, as given to sync), show pushed images that it has lost. Those that the source
    does not have any more are forgotten with --yes; nothing is deleted at the registry. Signatures and other referrers
    that the source has lost stay there, and are shown.
    """
    if target.startswith("registry://"):
        if unselected:
            raise click.UsageError("--unselected is for mirrors: nothing is deleted at a registry")

        # Options of source and target are for registries only.
        return _forget(
            target, make_options(given), is_dry_run=dry_run is True or not (yes or also_yes), as_json=as_json
        )

    path, wanted = mirror_at(target, given["state"]), Options.of(**field_values(given)).prune
    choose = partial(unselected_names, path, jobs=configured_jobs(config)) if unselected else None
    plan = anyio.run(partial(_prune, path, wanted, choose, dry_run=True))
    _show(plan, as_json=as_json)
    excess = plan.excess(wanted.max_delete)
    if excess is not None:
        raise DiscoveryIncomplete(excess)

    if dry_run or not (yes or also_yes):
        hint = "" if plan.is_empty else " Use --yes to do it."
        click.echo(f"{_sentence(plan, done=False)}{hint}", err=True)
        return 0

    done = anyio.run(partial(_prune, path, wanted, choose, dry_run=False))
    click.echo(_sentence(done, done=True), err=True)
    return 0


async def _prune(path: Path, options: PruneOptions, choose: Unselected | None, *, dry_run: bool) -> PrunePlan:
    progress = PruneProgress()
    prune = partial(prune_layout, path, options, observer=show_notice_above, progress=progress)
    async with progress_line(partial(_update, progress)):
        return await prune(dry_run=dry_run, unselected=choose)


def _update(progress: PruneProgress, counter: Counter) -> None:
    counter.done, counter.total = progress.done, progress.total
    counter.text = f"{progress.step}, {progress.done:,} of {progress.total:,}" if progress.total else progress.step


def _forget(target: str, options: Options, *, is_dry_run: bool, as_json: bool) -> int:
    from ..run.forgetting import forget_lost

    images = anyio.run(partial(forget_lost, target, options, dry_run=is_dry_run, observer=show_notice))
    if as_json:
        click.echo(json.dumps([image.to_json() for image in images], indent=2))
    else:
        for image in images:
            verb = "keep" if image.reason else "forget"
            click.echo(escape_controls(f"{verb:<6}  {image.name}{'; ' if image.reason else ''}{image.reason}"))

    gone = sum(not image.reason for image in images)
    if not gone:
        click.echo("Nothing to forget.", err=True)
    elif is_dry_run:
        click.echo(f"Would forget {counted(gone, 'image')}. Use --yes to do it.", err=True)
    else:
        click.echo(f"Forgot {counted(gone, 'image')}.", err=True)

    return 0


def _sentence(plan: PrunePlan, *, done: bool) -> str:
    text = summary(plan, done=done)
    return f"{text[0].upper()}{text[1:]}."


def _show(plan: PrunePlan, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(plan.to_json(), indent=2))
        return

    for gone in plan.untag:
        click.echo(_line("untag", gone, ""))

    for gone in plan.waiting:
        click.echo(_line("keep", gone, gone.uncertain_because or "within the grace period"))

    for dropped in plan.drop:
        snapshot, frees = dropped.snapshot, human_bytes(dropped.frees)
        click.echo(escape_controls(f"drop   snapshot {snapshot.id} of {local_time(snapshot.created)}, {frees}"))


def _line(verb: str, gone: AbsentImage, why: str) -> str:
    since = human_duration(max(0.0, time.time() - gone.since))
    state = "not selected" if gone.scope == UNSELECTED else f"gone for {since}"
    words = f"{verb:<5}  {gone.name}  {human_bytes(gone.size)}, {state}{'; ' if why else ''}{why}"
    return escape_controls(words)
