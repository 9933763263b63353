"""`quaymirror verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import click

from ..errors import ConfigError
from ..mirror.address import is_address, parse_address
from ..mirror.recheck import verify_target
from ..mirror.report import ExitCode
from ..mirror.target import LayoutTarget, TargetSpec
from ..store.verify import Damage, Verification
from .options import client_options, make_settings, target_options


@click.command(context_settings={"max_content_width": 100})
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="One object with counts and every damage.")
@target_options
@client_options
def verify(target: str, as_json: bool, **options: Any) -> int:
    """Hash everything in the layout TARGET again, and name every blob that is missing or damaged.

    A registry (registry://HOST/PREFIX, as given to sync) is asked for everything that runs from here have pushed.
    """
    settings = make_settings(**options)
    result = anyio.run(verify_target, _spec(target), settings)
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
    click.echo(
        f"{result.images:,} images, {result.blobs:,} blobs, {result.bytes:,} bytes: "
        f"{len(result.damages):,} missing or damaged",
        err=True,
    )
    return ExitCode.DAMAGED if result.damages else ExitCode.OK


def _spec(target: str) -> TargetSpec:
    if is_address(target):
        return parse_address(target)

    path = Path(target.removeprefix("ocidir://"))
    if not (path / "oci-layout").is_file():
        raise ConfigError(f"no OCI image layout at {path}")

    return LayoutTarget(path)


def _line(damage: Damage) -> str:
    return f"{damage.kind}  {damage.digest}  needed by {', '.join(damage.images)}"
