"""`quaymirror verify`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click

from ..errors import ConfigError, ExitCode
from ..events import BlobFinished, Event, Notice
from ..run.repair import repair as repair_layout
from ..run.verify_target import verify_target
from ..settings import Options
from ..settings.spec import Heading
from ..store.layout import OCILayout
from ..store.repair import Rebuilt, rebuild
from ..store.verify import Damage, Progress, Verification, verify_layout
from ..targets.kinds import find_target
from ..tasks import from_group
from ..text import escape_controls, human_bytes
from .help import WIDE, GroupedCommand, command_option, options
from .options import json_option, layout_at, make_options

_PROGRESS_SECONDS = 5.0


@click.command(cls=GroupedCommand, context_settings=WIDE)
@click.argument("target")
@command_option("--fast", is_flag=True, heading=Heading.CHECKS, help="Hash manifests only; check the sizes of blobs.")
@command_option("--repair", is_flag=True, heading=Heading.CHECKS, help="Fetch missing and damaged blobs again.")
@command_option("--repair-state", is_flag=True, heading=Heading.CHECKS, help="First rebuild the state from the layout.")
@json_option("Print an object with counts and every damaged blob.")
@options("verify")
def verify(target: str, fast: bool, repair: bool, repair_state: bool, as_json: bool, **given: Any) -> int:
    """Hash everything in the layout TARGET again, and name every blob that is missing or damaged.

    A registry (registry://HOST/PREFIX, as given to sync) is asked for everything that runs from here have pushed. The
    options of the server are for --repair.

    \b
    quaymirror verify /srv/mirror
    quaymirror verify /srv/mirror --repair
    """
    settings = make_options(given)
    spec = find_target(target, settings)
    if not spec.capabilities.repairable:
        if fast or repair or repair_state:
            raise ConfigError("--fast, --repair and --repair-state are for an OCI image layout")

        result = anyio.run(verify_target, spec, settings)
    else:
        path = layout_at(target)
        if repair and fast:
            raise ConfigError("--repair and --fast don't go together: only a hash tells what is damaged")

        result = anyio.run(partial(_verify, path, settings if repair else None, fast=fast, repair_state=repair_state))

    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        show_damages(result)

    return show_verdict(result)


def show_damages(result: Verification) -> None:
    """Print a line for each thing that is missing or damaged."""
    for damage in result.damages:
        click.echo(_line(damage))


def show_verdict(result: Verification) -> ExitCode:
    """Print how it is in all, and return the exit code that means."""
    click.echo(_summary(result), err=True)
    return ExitCode.DAMAGED if result.damages else ExitCode.OK


async def _verify(path: Path, settings: Options | None, *, fast: bool, repair_state: bool) -> Verification:
    if repair_state:
        async with OCILayout.open(path, observer=_tell) as layout:
            _say(_rebuilt(await layout.use(rebuild)))

    progress = Progress()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_show, progress)
            if settings is not None:
                result = await repair_layout(path, settings, _tell, progress)
            else:
                result = await verify_layout(path, fast=fast, progress=progress)

            tasks.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        raise from_group(group) or group from None

    return result


async def _show(progress: Progress) -> None:
    while True:
        await anyio.sleep(_PROGRESS_SECONDS)
        _say(
            f"{progress.blobs:,} of {progress.total_blobs:,} blobs, "
            f"{human_bytes(progress.bytes)} of {human_bytes(progress.total_bytes)}"
        )


def _tell(event: Event) -> None:
    if isinstance(event, Notice):
        _say(event.message)
    elif isinstance(event, BlobFinished):
        _say(f"fetched again: {event.digest}")


def _say(text: str) -> None:
    click.echo(f"quaymirror: {escape_controls(text)}", err=True)


def _rebuilt(result: Rebuilt) -> str:
    text = f"state: {result.known:,} images known, {result.recorded:,} recorded, {result.foreign:,} of other tools"
    return f"{text}; not whole: {', '.join(result.broken)}" if result.broken else text


def _line(damage: Damage) -> str:
    return escape_controls(f"{damage.kind}  {damage.digest}  needed by {', '.join(damage.images)}")


def _summary(result: Verification) -> str:
    text = (
        f"{result.images:,} images, {result.blobs:,} blobs, {result.bytes:,} bytes"
        f"{', sizes only' if result.fast else ''}: {len(result.damages):,} missing or damaged"
    )
    for word, (count, size) in (("orphans", result.orphans), ("partial files", result.partials)):
        text += f", {count:,} {word} ({size:,} bytes)" if count else ""

    return text
