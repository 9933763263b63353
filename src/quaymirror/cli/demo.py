"""`quaymirror demo`: a mirror of a small generated organization, from a server on this machine."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import click

from ..errors import ExitCode
from ..run.jobs import Job, run_jobs
from ..selection.selection import Selection
from ..settings import Options, OutputOptions
from ..testing import QuayServer, Registry, kolla_like
from .console import report
from .help import command_option, options
from .observers import observe_runs

_TAG = "2025.1-debian"
# Slow enough to watch: the round trip of another continent, and connections that need a moment per layer.
_LATENCY_SECONDS = 0.04
_BANDWIDTH = 800_000
_LAYER_BYTES = 700_000


@click.command
@command_option("--to", "target", metavar="PATH", type=click.Path(path_type=Path), help="Where images are stored.")
@command_option("--keep-serving", is_flag=True, help="Keep the server running afterwards, to try other commands.")
@command_option("--images", type=click.IntRange(1, 5000), default=40, show_default=True, help="Number of images.")
@options("demo")
def demo(target: Path | None, keep_serving: bool, images: int, progress: str | None) -> int:
    """Mirror a small generated organization from a Quay-compatible server on this machine.

    Only the network distance is simulated: the tests of quaymirror use the same server.
    """
    path = target or Path(tempfile.mkdtemp(prefix="quaymirror-demo-")) / "mirror"
    return anyio.run(partial(_demo, path, images, progress or "auto", keep_serving=keep_serving))


async def _demo(path: Path, images: int, progress: str, *, keep_serving: bool) -> int:
    click.echo("preparing an organization called kolla …", err=True)
    registry = await anyio.to_thread.run_sync(_organization, images)
    async with QuayServer(registry, latency=_LATENCY_SECONDS, bandwidth=_BANDWIDTH) as server:
        job = Job((Selection("kolla", "*", _TAG),), str(path), Options.of(server=server.url))
        outputs = OutputOptions(progress=progress)
        code = report(outputs, await run_jobs([job], partial(observe_runs, outputs)))
        if code == ExitCode.OK:
            _say_what_next(path, server.url if keep_serving else None)
            if keep_serving:
                await anyio.sleep_forever()

    return code


def _organization(images: int) -> Registry:
    registry = Registry()
    kolla = registry.organization("kolla")
    for name, manifest in kolla_like(images, layer_size=_LAYER_BYTES).items():
        kolla.repository(name).push(_TAG, manifest)

    for name in ("retired-service", "experiments", "ci-cache", "docs", "toolbox"):
        kolla.repository(name)

    other = kolla_like(1, seed="another release")
    for name in ("monasca-api", "sahara-api", "swift-base"):
        kolla.repository(name).push("2024.1-debian", next(iter(other.values())))

    return registry


def _say_what_next(path: Path, url: str | None) -> None:
    click.echo(f"\nThe mirror is an OCI image layout at {path}. Try:", err=True)
    commands = [f"skopeo inspect oci:{path}:kolla/nova-api:{_TAG}", f"quaymirror verify {path}"]
    if url is not None:
        commands += [
            f"quaymirror list kolla 'nova-*' {_TAG} --server {url}",
            f"quaymirror sync kolla '*' {_TAG} --server {url} --to {path}    # again: nothing is fetched",
        ]
    else:
        commands.append("quaymirror demo --keep-serving    # leaves the server up for list and a second sync")

    for command in commands:
        click.echo(f"  {command}", err=True)

    if url is not None:
        click.echo(f"\nServing at {url} until Ctrl-C.", err=True)
