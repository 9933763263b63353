"""`quaymirror demo`: a mirror of a small generated organization, from a server on this machine."""

from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import click

from ..errors import ExitCode
from ..run.jobs import Job, run_jobs
from ..selection.selection import Selection
from ..serve.server import quiet_loop
from ..settings import Options, OutputOptions
from ..testing import QuayServer, Registry, kolla_like
from .console import report
from .help import DIRECTORY, command_option, options
from .observers import observe_runs

_TAG = "2025.1-debian"
# Slow enough to watch: the round trip of another continent, and connections that need a moment per layer.
_LATENCY_SECONDS = 0.04
_BANDWIDTH = 800_000
_LAYER_BYTES = 700_000


@click.command
@command_option("--to", "target", metavar="PATH", type=DIRECTORY, help="Where images are stored.")
@command_option("--keep-serving", is_flag=True, help="Keep the server running afterwards, to try other commands.")
@command_option("--count", type=click.IntRange(1, 5000), default=40, show_default=True, help="Number of images.")
@options("demo")
def demo(target: Path | None, keep_serving: bool, count: int, progress: str | None) -> int:
    """Mirror a small generated organization from a Quay-compatible server on this machine.

    Only the network distance is simulated: the tests of quaymirror use the same server. The mirror is removed at the
    end, unless --to or --keep-serving is given.
    """
    mirror = partial(_demo, count=count, progress=progress or "auto", keep_serving=keep_serving)
    if target is not None or keep_serving:
        return anyio.run(partial(mirror, target or Path(tempfile.mkdtemp(prefix="quaymirror-demo-"), "mirror")))

    with tempfile.TemporaryDirectory(prefix="quaymirror-demo-", ignore_cleanup_errors=True) as directory:
        code = anyio.run(partial(mirror, Path(directory, "mirror"), is_kept=False))

    click.echo("\nThe mirror of this demo was removed. To keep one, and to try other commands:", err=True)
    click.echo("  quaymirror demo --to ./demo --keep-serving", err=True)
    return code


async def _demo(path: Path, *, count: int, progress: str, keep_serving: bool, is_kept: bool = True) -> int:
    quiet_loop(asyncio.get_running_loop())  # of the server, which shares the descriptors with the run
    click.echo("preparing an organization called kolla …", err=True)
    registry = await anyio.to_thread.run_sync(_organization, count)
    async with QuayServer(registry, latency=_LATENCY_SECONDS, bandwidth=_BANDWIDTH) as server:
        job = Job((Selection("kolla", "*", _TAG),), str(path), Options.of(server=server.url))
        outputs = OutputOptions(progress=progress)
        code = report(outputs, await run_jobs([job], partial(observe_runs, outputs)))
        if code == ExitCode.OK and is_kept:
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
    click.echo(f"\nThe mirror is an OCI image layout, which stays at {path}. Try:", err=True)
    # `list m` would ask for an organization called m.
    mirror = path if path.is_absolute() else f"./{path}"
    commands = [
        f"skopeo inspect oci:{path}:kolla/nova-api:{_TAG}",
        f"quaymirror list {mirror}",
        f"quaymirror history --to {mirror}",
        f"quaymirror serve {mirror}    # a registry, with pages at http://127.0.0.1:5000",
        f"quaymirror verify {mirror}",
    ]
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
