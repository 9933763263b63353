"""Make the picture of the README: a real run against the bundled server, drawn by the real dashboard.

python docs/make_picture.py docs/images/dashboard.svg
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import anyio
from rich.console import Console

import quaymirror
from quaymirror.testing import QuayServer, Registry, kolla_like
from quaymirror.ui.dashboard import Dashboard

_SIZE = (100, 30)


async def main(picture: Path) -> None:
    """Mirror an organization, and save what the dashboard showed when two thirds of the images were done."""
    registry = Registry()
    kolla = registry.organization("kolla")
    for number in range(60):
        kolla.repository(f"retired-{number}")

    for name, image in kolla_like(60, layer_size=900_000).items():
        kolla.repository(name).push("2025.1-debian", image)

    meters = quaymirror.Meters()
    console = Console(
        file=io.StringIO(), force_terminal=True, width=_SIZE[0], height=_SIZE[1], color_system="truecolor"
    )
    dashboard = Dashboard(meters, console=console)

    async with QuayServer(registry, latency=0.05, bandwidth=400_000) as server:
        with tempfile.TemporaryDirectory() as directory:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(dashboard.run)
                tasks.start_soon(_shoot, dashboard, picture)
                await quaymirror.sync(
                    quaymirror.Selection("kolla", "*", "2025.1-debian"),
                    Path(directory) / "mirror",
                    quaymirror.Settings(server=server.url),
                    observer=dashboard,
                    meters=meters,
                )


async def _shoot(dashboard: Dashboard, picture: Path) -> None:
    while dashboard.state.done < 38:
        await anyio.sleep(0.05)

    recorder = Console(record=True, file=io.StringIO(), force_terminal=True, width=_SIZE[0], height=_SIZE[1])
    recorder.print(dashboard.frame())
    recorder.save_svg(str(picture), title="quaymirror sync kolla '*' 2025.1-debian")


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
