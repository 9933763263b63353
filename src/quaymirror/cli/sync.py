"""`quaymirror sync`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click

from ..errors import ConfigError
from ..events import Meters, Observer
from ..mirror.report import Report
from ..mirror.run import Stop, run_sync
from ..mirror.target import parse_target
from .options import make_selection, make_settings, registry_options, selection_options, server_options
from .watching import PROGRESS, watched_run


@click.command(context_settings={"max_content_width": 100})
@selection_options
@click.option("--to", "target", metavar="TARGET", default="./mirror", show_default=True, help="Where images land.")
@click.option("--concurrency", "-c", metavar="N", type=int, help="Images in flight.  [default: 16]")
@click.option("--layer-concurrency", metavar="N", type=int, help="Blobs in flight, over all images.  [default: 32]")
@click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    multiple=True,
    help="Only these of a multi-arch image (repeatable).  [default: all]",
)
@click.option(
    "--filter", "-f", "filters", metavar="SPEC", multiple=True, help="An occystrap filter for dir:// and so on."
)
@click.option("--allow-extract", is_flag=True, help="Let oci://, mounts:// and dir://?expand=true unpack images.")
@click.option("--limit-rate", metavar="RATE", help="Bytes a second, over all transfers: 500K, 20M, 1G.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and how much fetched; write nothing.")
@server_options
@registry_options
@click.option("--progress", type=click.Choice(PROGRESS), default="auto", show_default=True, help="What to show.")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write the run's report, JSON.")
def sync(
    organization: str,
    glob: str | None,
    tag: str | None,
    exclude: tuple[str, ...],
    since: str | None,
    target: str,
    progress: str,
    report_file: Path | None,
    **options: Any,
) -> int:
    """Mirror every repository of ORG that matches GLOB and carries TAG.

    GLOB defaults to '*', TAG to 'latest'.

    \b
    quaymirror sync kolla '*' 2025.1-debian --concurrency 16
    quaymirror sync 'quay://kolla/nova-*:2025.1-debian?since=2025-04-01' --to /srv/mirror
    """
    selection = make_selection(organization, glob, tag, exclude=exclude, since=since)
    settings = make_settings(**options)
    parse_target(target, selection, settings)  # before anything is shown
    _check_writable(report_file)

    async def run(observer: Observer, meters: Meters, stop: Stop) -> Report:
        return await run_sync(selection, target, settings, observer=observer, meters=meters, stop=stop)

    report, code = anyio.run(partial(watched_run, run, progress=progress))
    if report_file is not None:
        _write_report(report_file, {**report.to_json(), "exit_code": int(code)})

    return int(code)


def _check_writable(file: Path | None) -> None:
    """Fail before the run, not after it."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise ConfigError(f"--report {file}: no file can be written there")


def _write_report(file: Path, document: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"--report {file}: {error.strerror}") from None
