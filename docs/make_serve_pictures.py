"""Make the pictures of the server's pages: a real mirror, the server, and chromium.

python docs/make_serve_pictures.py docs/images
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from make_picture import organization, with_palette

import quaymirror
from quaymirror.testing import QuayServer

_TAG = "2025.1-debian"
_IMAGE = f"/images/kolla/nova-api:{_TAG}"
# Name, path, width, height, and further options of the browser.
_PICTURES = (
    ("serve-home", "/", 1100, 760, ()),
    ("serve-image", _IMAGE, 1100, 1180, ("--force-dark-mode",)),
    ("serve-search-390", "/?q=nova-*", 390, 760, ()),
    ("serve-run", "/run", 1100, 420, ()),
)


async def main(directory: Path) -> None:
    """Take all pictures."""
    with tempfile.TemporaryDirectory() as name:
        mirror = Path(name) / "mirror"
        async with QuayServer(organization()) as server:
            words = ["sync", "kolla", "*", _TAG, "--server", server.url, "--to", str(mirror), "--progress", "none"]
            await anyio.to_thread.run_sync(
                partial(subprocess.run, [sys.executable, "-m", "quaymirror", *words], check=True)
            )

        stop = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def take(url: str) -> None:
                for picture, path, width, height, more in _PICTURES:
                    file = directory / f"{picture}.png"
                    shot = partial(photograph, f"{url}{path}", width, height, file, Path(name), more)
                    await anyio.to_thread.run_sync(shot)
                    file.write_bytes(with_palette(file.read_bytes()))

                stop.set()

            options = quaymirror.ServeOptions(listen="127.0.0.1:0")
            serve = partial(quaymirror.serve_mirrors, [str(mirror)], options, stop=stop)
            await serve(ready=lambda url: tasks.start_soon(take, url))


def photograph(url: str, width: int, height: int, file: Path, place: Path, more: tuple[str, ...]) -> None:
    """Save the page at `url` as a picture."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    where = [f"--user-data-dir={place}/browser", f"--window-size={width},{height}", f"--screenshot={file}"]
    subprocess.run(["chromium", *options, *more, *where, url], check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]).absolute())
