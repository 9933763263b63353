"""`quaymirror prune`."""

from __future__ import annotations

import json
import time
from functools import partial
from pathlib import Path

import anyio
import click

from ..errors import DiscoveryIncomplete
from ..events import Event, Notice
from ..run.pruning import carry_out, plan_only, summary
from ..store.layout import OCILayout
from ..store.prune import Plan
from ..store.records import AbsentImage
from ..text import escape_controls, human_bytes, human_duration
from .options import grace as grace_option
from .options import layout_at

_DEFAULT_GRACE = 7 * 86_400.0


@click.command(context_settings={"max_content_width": 100})
@click.argument("target")
@click.option("--dry-run/--no-dry-run", default=None, help="Only show what would go.  [default: --dry-run]")
@click.option("--yes", is_flag=True, help="Do it, however much goes.")
@click.option(
    "--grace",
    metavar="DURATION",
    callback=grace_option,
    help="How long images have to have been gone; 0 removes their blobs at once, too.  [default: 7d]",
)
@click.option(
    "--max-delete", metavar="PERCENT", type=click.FloatRange(0, 100), default=10.0, help="Do nothing if more would go."
)
@click.option("--json", "as_json", is_flag=True, help="The plan as one object.")
def prune(target: str, dry_run: bool | None, yes: bool, grace: float | None, max_delete: float, as_json: bool) -> int:
    """Show what TARGET has that its source, by what complete runs of sync saw, has not had any more for a while.

    Nothing goes without --no-dry-run or --yes: images are untagged, and blobs that nothing has needed for half a day
    are removed.
    """
    path, seconds = layout_at(target), _DEFAULT_GRACE if grace is None else grace
    plan = anyio.run(plan_only, path, seconds)
    show(plan, as_json=as_json)
    excess = None if yes else plan.excess(max_delete)
    if excess is not None:
        raise DiscoveryIncomplete(excess)

    if dry_run is True or (dry_run is None and not yes):
        click.echo(f"would be {summary(plan)}; --no-dry-run does it", err=True)
        return 0

    done = anyio.run(partial(_carry_out, path, seconds, 100.0 if yes else max_delete))
    click.echo(summary(done), err=True)
    return 0


def show(plan: Plan, *, as_json: bool) -> None:
    """Print a plan."""
    if as_json:
        click.echo(json.dumps(plan.to_json(), indent=2))
        return

    for gone in plan.untag:
        click.echo(_line("untag", gone, ""))

    for gone in plan.waiting:
        click.echo(_line("keep", gone, gone.uncertain_because or "not for long enough"))


def _line(verb: str, gone: AbsentImage, why: str) -> str:
    since = human_duration(max(0.0, time.time() - gone.since))
    words = f"{verb:<5}  {gone.name}  {human_bytes(gone.size)}, gone for {since}{'; ' if why else ''}{why}"
    return escape_controls(words)


async def _carry_out(path: Path, grace: float, max_delete: float) -> Plan:
    async with OCILayout.open(path, observer=_tell) as layout:
        return await carry_out(layout, grace, max_delete)


def _tell(event: Event) -> None:
    if isinstance(event, Notice):
        click.echo(f"quaymirror: {escape_controls(event.message)}", err=True)
