"""`quaymirror prune`."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any

import anyio
import click

from ..errors import DiscoveryIncomplete
from ..run.pruning import prune_layout, summary
from ..run.verify import layout_path
from ..settings import Options
from ..settings.register import field_values
from ..store.prune import PrunePlan
from ..store.records import AbsentImage
from ..text import escape_controls, human_bytes, human_duration, local_time
from .help import command_option, options
from .messages import show_notice
from .options import json_option


@click.command
@click.argument("target")
@options("prune")
@command_option("--yes", is_flag=True, help="Do it.")
@command_option("--no-dry-run", "also_yes", is_flag=True, hidden=True, help="The earlier name of --yes.")
@json_option("Print the plan as an object.")
def prune(target: str, dry_run: bool | None, yes: bool, also_yes: bool, as_json: bool, **given: Any) -> int:
    """Show images in TARGET that have disappeared from the source.

    Nothing is removed without --yes. Images go if complete runs of sync have missed
    them for --grace; blobs half a day after nothing needs them.
    """
    path, wanted = layout_path(target), Options.of(**field_values(given)).prune
    plan = anyio.run(partial(prune_layout, path, wanted, dry_run=True))
    _show(plan, as_json=as_json)
    excess = plan.excess(wanted.max_delete)
    if excess is not None:
        raise DiscoveryIncomplete(excess)

    if dry_run or not (yes or also_yes):
        hint = "" if plan.is_empty else " Use --yes to do it."
        click.echo(f"{_sentence(plan, done=False)}{hint}", err=True)
        return 0

    done = anyio.run(partial(prune_layout, path, wanted, dry_run=False, observer=show_notice))
    click.echo(_sentence(done, done=True), err=True)
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
    words = f"{verb:<5}  {gone.name}  {human_bytes(gone.size)}, gone for {since}{'; ' if why else ''}{why}"
    return escape_controls(words)
