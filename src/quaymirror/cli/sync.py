"""`quaymirror sync`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..store.fsops import Fsync
from .help import GroupedCommand
from .jobs import execute, make_plan
from .options import (
    duration,
    foreign_layers_option,
    grace,
    registry_options,
    selection_options,
    server_options,
    target_options,
)
from .outputs import output_options, take_outputs


@click.command(cls=GroupedCommand, context_settings={"max_content_width": 100})
@selection_options
@click.option("--from-lock", type=click.Path(path_type=Path), metavar="FILE", help="Exactly the images of a lock file.")
@click.option(
    "--to",
    "target",
    metavar="TARGET",
    default="./mirror",
    show_default=True,
    help="Where images land: PATH, registry://HOST …",
)
@click.option("--concurrency", "-c", metavar="N", type=int, help="Images in flight.  [default: 16]")
@click.option("--layer-concurrency", metavar="N", type=int, help="Blobs in flight, over all images.  [default: 64]")
@click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    multiple=True,
    help="Only these of multi-arch images.  [default: all]",
)
@click.option(
    "--filter", "-f", "filters", metavar="SPEC", multiple=True, help="An occystrap filter for dir:// and so on."
)
@click.option("--allow-extract", is_flag=True, help="Let oci://, mounts:// and dir://?expand=true unpack images.")
@foreign_layers_option
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
@click.option("--prune", is_flag=True, help="Remove what has been gone for a while.")
@click.option(
    "--grace", metavar="DURATION", callback=grace, help="How long they have to have been gone.  [default: 7d]"
)
@click.option("--max-delete", metavar="PERCENT", type=float, help="Prune nothing if more would go.  [default: 10]")
@click.option("--yes", is_flag=True, help="Prune, however much goes.")
@click.option(
    "--fsync",
    type=click.Choice([policy.value for policy in Fsync]),
    help="Safe against power loss: each file (always), each commit (batch), never.  [default: always]",
)
@click.option("--no-space-check", is_flag=True, help="Go on until the disk is full.")
@click.option("--wait", is_flag=True, help="Wait for another run on the same target to end.")
@click.option("--limit-rate", metavar="RATE", help="Bytes a second over all: 500K, 20M, 1G.")
@click.option("--dry-run", is_flag=True, help="Say what would be fetched; write nothing.")
@server_options
@registry_options
@target_options
@click.option("--check-target", is_flag=True, help="Ask a registry whether what earlier runs pushed is there still.")
@click.option("--verify-target", is_flag=True, help="Look for everything afterwards, as `quaymirror verify` does.")
@output_options
@click.pass_context
def sync(context: click.Context, /, **options: Any) -> int:
    """Mirror every repository of ORG that matches GLOB and carries TAG.

    GLOB is '*' and TAG 'latest' if you don't say it. Each may be several, separated by commas, and TAG a glob, too.
    Every option has a variable: QUAYMIRROR_CONCURRENCY for --concurrency.

    \b
    quaymirror sync kolla '*' 2025.1-debian --concurrency 16
    quaymirror sync kolla 'nova-*,neutron-*' '2025.1-debian*' --exclude '*-base'
    quaymirror sync 'quay://kolla/nova-*:2025.1-debian?since=2025-04-01' --to /srv/mirror
    """
    outputs = take_outputs(options)
    server_is_given = context.get_parameter_source("server") is not ParameterSource.DEFAULT
    return execute([make_plan(server_is_given=server_is_given, **options)], outputs)
