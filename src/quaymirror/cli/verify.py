"""`quaymirror verify`."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import click

from ..errors import ConfigError
from ..mirror.report import ExitCode
from ..store.verify import Damage, verify_layout


@click.command(context_settings={"max_content_width": 100})
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="One object with counts and every damage.")
def verify(target: str, as_json: bool) -> int:
    """Hash everything in TARGET again and name every blob that is missing or damaged."""
    path = Path(target.removeprefix("ocidir://"))
    if not (path / "oci-layout").is_file():
        raise ConfigError(f"no OCI image layout at {path}")

    result = anyio.run(verify_layout, path)
    if as_json:
        click.echo(json.dumps(result.to_json(), indent=2))
    else:
        for damage in result.damages:
            click.echo(_line(damage))

    click.echo(
        f"{result.images:,} images, {result.blobs:,} blobs, {result.bytes:,} bytes: "
        f"{len(result.damages):,} missing or damaged",
        err=True,
    )
    return ExitCode.DAMAGED if result.damages else ExitCode.OK


def _line(damage: Damage) -> str:
    return f"{damage.kind}  {damage.digest}  needed by {', '.join(damage.images)}"
