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
from ..mirror.report import ExitCode, Report
from ..mirror.run import Stop, run_sync
from ..mirror.settings import Settings
from ..mirror.target import TargetSpec, parse_target
from ..store.fsops import Fsync
from .options import (
    duration,
    grace,
    make_selection,
    make_settings,
    registry_options,
    selection_options,
    server_options,
    target_options,
)
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
@click.option(
    "--full-check-every",
    metavar="DURATION",
    callback=duration,
    help="How long the listing may vouch for a tag, unseen.  [default: 7d]",
)
@click.option("--full-check", is_flag=True, help="Check every tag, whatever earlier runs saw.")
@click.option(
    "--max-duration", metavar="DURATION", callback=duration, help="Begin nothing new after 90m, 4h and so on."
)
@click.option("--expect-at-least", metavar="N", type=int, help="Fail if fewer images are found.")
@click.option("--max-missing", metavar="PERCENT", type=float, help="Fail if more of last time's images are gone.")
@click.option("--prune", is_flag=True, help="Untag images that have been gone for a while, and remove what is over.")
@click.option(
    "--grace", metavar="DURATION", callback=grace, help="How long they have to have been gone.  [default: 7d]"
)
@click.option("--max-delete", metavar="PERCENT", type=float, help="Prune nothing if more would go.  [default: 10]")
@click.option("--yes", is_flag=True, help="Prune, however much goes.")
@click.option(
    "--fsync",
    type=click.Choice(list(Fsync)),
    help="Safe against power loss: each file (always), each commit (batch), never.  [default: always]",
)
@click.option("--no-space-check", is_flag=True, help="Go on until the disk is full.")
@click.option("--wait", is_flag=True, help="Wait for another run on the same target to end.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and how much fetched; write nothing.")
@server_options
@registry_options
@target_options
@click.option("--check-target", is_flag=True, help="Ask a registry whether what earlier runs pushed is there still.")
@click.option("--verify-target", is_flag=True, help="Look for everything afterwards, as `quaymirror verify` does.")
@click.option("--progress", type=click.Choice(PROGRESS), default="auto", show_default=True, help="What to show.")
@click.option("--report", "report_file", type=click.Path(path_type=Path), help="Write the run's report, JSON.")
def sync(
    organization: str,
    glob: str | None,
    tag: str | None,
    exclude: tuple[str, ...],
    since: str | None,
    target: str,
    verify_target: bool,
    progress: str,
    report_file: Path | None,
    no_space_check: bool,
    yes: bool,
    **options: Any,
) -> int:
    """Mirror every repository of ORG that matches GLOB and carries TAG.

    GLOB defaults to '*', TAG to 'latest'.

    \b
    quaymirror sync kolla '*' 2025.1-debian --concurrency 16
    quaymirror sync 'quay://kolla/nova-*:2025.1-debian?since=2025-04-01' --to /srv/mirror
    """
    selection = make_selection(organization, glob, tag, exclude=exclude, since=since)
    if yes:
        options["max_delete"] = 100.0

    settings = make_settings(check_space=not no_space_check, **options)
    spec = parse_target(target, selection, settings)  # before anything is shown
    _check_writable(report_file)

    async def run(observer: Observer, meters: Meters, stop: Stop) -> Report:
        return await run_sync(selection, target, settings, observer=observer, meters=meters, stop=stop)

    report, code = anyio.run(partial(watched_run, run, progress=progress))
    if verify_target and report.fatal is None and not settings.dry_run:
        # Damage is graver than anything that a run which ended by itself can say.
        code = _verified(spec, settings) or code

    if report_file is not None:
        _write_report(report_file, {**report.to_json(), "exit_code": int(code)})

    return int(code)


def _verified(spec: TargetSpec, settings: Settings) -> ExitCode:
    from ..mirror import recheck
    from .verify import show_damages, show_verdict

    result = anyio.run(recheck.verify_target, spec, settings)
    show_damages(result)
    return show_verdict(result)


def _check_writable(file: Path | None) -> None:
    """Fail before the run, not after it."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise ConfigError(f"--report {file}: no file can be written there")


def _write_report(file: Path, document: dict[str, Any]) -> None:
    try:
        file.write_text(json.dumps(document, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"--report {file}: {error.strerror}") from None
