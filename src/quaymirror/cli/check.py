"""`quaymirror check`."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
import click

from ..errors import ExitCode
from ..run.check_images import missing_images
from ..text import counted, escape_controls
from .help import ADDRESS, GroupedCommand, options
from .messages import show_notice
from .options import json_option, make_options, make_selections

if TYPE_CHECKING:
    from ..documents.verification import CheckJson


@click.command(cls=GroupedCommand)
@click.argument("target", metavar="TARGET", type=ADDRESS)
@options("check")
@json_option("Print an object with the number of images and those that are missing.")
def check(target: str, as_json: bool, **given: Any) -> int:
    """Report which images of a list TARGET, a mirror or a registry, lacks.

    The names are those that sync would give them. The exit code is 0 if all are there, and 3 if some are missing.

    \b
    quaymirror check --images images.txt /srv/mirror
    docker ps | quaymirror check --images - registry://registry.example/mirror
    """
    if given.get("images") is None:
        raise click.UsageError("Missing option '--images'.")

    selections, wanted = make_selections(given, make_options(given))
    unnamed = [line for selection in selections for line in selection.unnamed]
    found, missing = anyio.run(partial(missing_images, selections, target, wanted, observer=show_notice))
    if as_json:
        result: CheckJson = {"images": len(found), "missing": [*map(str, missing), *unnamed]}
        click.echo(json.dumps(result, indent=2))
    else:
        for line in [*map(str, missing), *unnamed]:
            click.echo(escape_controls(f"missing  {line}"))

    lacking = len(missing) + len(unnamed)
    click.echo(f"{counted(len(found) + len(unnamed), 'image')}: {lacking:,} missing", err=True)
    return int(ExitCode.PARTIAL if lacking else ExitCode.OK)
