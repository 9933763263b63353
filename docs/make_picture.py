"""Make the pictures of the docs: a real run against the bundled server on a real terminal, tmux, at several sizes.

python docs/make_picture.py docs/images
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import anyio.to_thread
from rich.console import Console
from rich.text import Text

from quaymirror.testing import QUAY_NGINX_HTTP1, Fault, QuayServer, Registry, Status, kolla_like

_SIZES = {"dashboard": (100, 30), "dashboard-80x24": (80, 24), "dashboard-200x50": (200, 50)}
_TAG = "2025.1-debian"
_TITLE = f"quaymirror sync kolla '*' {_TAG} --limit-rate 20M"


def organization() -> Registry:
    """Return the organization for the pictures."""
    registry = Registry()
    kolla = registry.organization("kolla")
    for number in range(60):
        kolla.repository(f"retired-{number}")

    for name, image in kolla_like(60, layer_size=900_000).items():
        kolla.repository(name).push(_TAG, image)

    return registry


async def main(directory: Path) -> None:
    """Take a picture at each size in the middle of a run."""
    for name, size in _SIZES.items():
        limits = QUAY_NGINX_HTTP1
        async with QuayServer(organization(), latency=0.05, bandwidth=250_000, limits=limits) as server:
            server.faults.append(Fault("^/v2/kolla/nova-ssh/manifests/.*", Status(404)))
            with tempfile.TemporaryDirectory() as place:
                screen = await anyio.to_thread.run_sync(record, size, server.url, Path(place))

        picture = Console(record=True, file=io.StringIO(), force_terminal=True, width=size[0], height=size[1])
        picture.print(Text.from_ansi(screen), no_wrap=True, overflow="crop")
        picture.save_svg(str(directory / f"{name}.svg"), title=_TITLE)


def record(size: tuple[int, int], url: str, place: Path) -> str:
    """Run quaymirror in tmux, and return the screen after nine seconds."""
    tmux = ["tmux", "-L", f"quaymirror-{os.getpid()}"]
    run = f"{sys.executable} -m quaymirror sync kolla '*' {_TAG} --limit-rate 20M --server {url}"
    window = ["-d", "-c", str(place), "-x", str(size[0]), "-y", str(size[1])]
    subprocess.run([*tmux, "new-session", *window, run], check=True)
    try:
        subprocess.run(["sleep", "9"], check=True)
        return subprocess.run([*tmux, "capture-pane", "-e", "-p"], check=True, capture_output=True, text=True).stdout
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
