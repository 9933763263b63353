"""`quaymirror verify`."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import anyio
import click

from ..errors import ExitCode
from ..events import BlobFinished, Event
from ..run import verify as library
from ..settings import Options
from ..settings.spec import Heading
from ..store.verify import Progress, Verification
from ..text import counted, escape_controls, human_bytes
from .help import ADDRESS, GroupedCommand, command_option, options
from .messages import say, show_notice
from .options import json_option, make_options
from .progress_line import Counter, clear_line, progress_line


@click.command(cls=GroupedCommand)
@click.argument("target", type=ADDRESS)
@command_option("--fast", is_flag=True, heading=Heading.CHECKS, help="Hash manifests only; check the sizes of blobs.")
@command_option(
    "--repair",
    is_flag=True,
    heading=Heading.CHECKS,
    help="Fetch missing and damaged blobs again; push to a registry what it lost.",
)
@command_option("--at", metavar="ID|DATE", heading=Heading.CHECKS, help="Check this snapshot of a layout.")
@command_option("--repair-state", is_flag=True, heading=Heading.CHECKS, help="First rebuild the state from the layout.")
@json_option("Print an object with counts and every damaged blob.")
@options("verify")
def verify(
    target: str, fast: bool, repair: bool, repair_state: bool, at: str | None, as_json: bool, **given: Any
) -> int:
    """Hash everything in the layout TARGET again, and report every missing or damaged blob.

    For a registry (registry://HOST/PREFIX, as given to sync), check that it still has everything that runs on this
    machine pushed. The next run pushes missing content again, --repair does it at once. The options of the source are
    for --repair.

    \b
    quaymirror verify /srv/mirror
    quaymirror verify /srv/mirror --repair
    quaymirror verify /srv/mirror --signature-policy policy.json
    """
    wanted = {"fast": fast, "repair": repair, "repair_state": repair_state, "at": at}
    result = anyio.run(_verify, target, make_options(given), wanted)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        show_damages(result)

    return show_verdict(result)


def show_damages(result: Verification) -> None:
    """Print one line per missing or damaged blob, and per image that the signature policy refuses."""
    for damage in result.damages:
        click.echo(escape_controls(f"{damage.kind}  {damage.digest}  needed by {', '.join(damage.images)}"))

    for refusal in result.unaccepted:
        click.echo(escape_controls(f"refused  {refusal.name}  {'; '.join(refusal.reasons)}"))


def show_verdict(result: Verification) -> ExitCode:
    """Print a summary, and return its exit code."""
    text = (
        f"{counted(result.images, 'image')}, {counted(result.blobs, 'blob')}, {human_bytes(result.bytes)}"
        f"{', sizes only' if result.fast else ''}: {len(result.damages):,} missing or damaged"
    )
    for noun, (count, size) in (("orphaned blob", result.orphans), ("partial file", result.partials)):
        text += f", {counted(count, noun)} ({human_bytes(size)})" if count else ""

    if result.refused:
        text += f", {counted(result.refused, 'image')} not checked: {result.refusal}"

    if result.accepted is not None:
        text += f"; signatures: {result.accepted:,} accepted, {len(result.unaccepted):,} refused"

    click.echo(escape_controls(text), err=True)
    return result.exit_code


async def _verify(target: str, options: Options, wanted: dict[str, Any]) -> Verification:
    progress = Progress()
    async with progress_line(partial(_update, progress)):
        return await library.verify(target, options, **wanted, observer=_show, progress=progress)


def _update(progress: Progress, counter: Counter) -> None:
    counter.done, counter.total, counter.is_bytes = progress.bytes, progress.total_bytes, True
    counter.text = f"{progress.blobs:,} of {counted(progress.total_blobs, 'blob')}" if progress.total_blobs else ""


def _show(event: Event) -> None:
    clear_line()
    show_notice(event)
    if isinstance(event, BlobFinished):
        say(f"fetched again: {event.digest}")
