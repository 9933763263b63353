"""Make the pictures of the docs from real runs against the bundled server.

The dashboard is taken from a real terminal (tmux) at three sizes and three moments, once also with a light palette; the
page of a report from chromium at two widths.

python docs/make_picture.py docs/images
"""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME, TerminalTheme
from rich.text import Text

from quaymirror.testing import QUAY_NGINX_HTTP1, Fault, QuayServer, Registry, Status, kolla_like

_SIZES = {"dashboard-80x24": (80, 24), "dashboard": (120, 40), "dashboard-200x50": (200, 50)}
# The suffix of a picture, and the text that the screen has from then on; before the last one the run is interrupted.
_MOMENTS = (
    ("-start", r"fetching [4-9]"),
    ("", r"([6-9]|[1-5]\d) mirrored[\s\S]*fetching (\d\d|[6-9]) images"),
    ("-stopping", r"Ctrl-C again"),
)
_PATIENCE = 120.0
# The palette of GNOME's terminal, on white.
_RED, _GREEN, _MAGENTA, _CYAN = (192, 28, 40), (38, 162, 105), (163, 71, 186), (42, 161, 179)
_LIGHT = TerminalTheme(
    (255, 255, 255),
    (30, 30, 30),
    [(30, 30, 30), _RED, _GREEN, (162, 115, 76), (18, 72, 139), _MAGENTA, _CYAN, (207, 207, 207)],
)
_PAGES = {"page": (1280, 1500), "page-390": (390, 1800)}
_TAG = "2025.1-debian"
_TITLE = f"quaymirror sync kolla '*' {_TAG} --limit-rate 20M"
_JOBS = """
[jobs.nightly]
organization = "kolla"
tags = ["2025.1-debian"]
to = "mirror"

[jobs.nova]
organization = "kolla"
repositories = ["nova-*"]
tags = ["2025.1-debian"]
to = "nova"
"""


def organization(count: int = 60) -> Registry:
    """Return the organization for the pictures."""
    registry = Registry()
    kolla = registry.organization("kolla")
    for number in range(60):
        kolla.repository(f"retired-{number}")

    for name, image in kolla_like(count, layer_size=900_000).items():
        kolla.repository(name).push(_TAG, image)

    return registry


async def main(directory: Path) -> None:
    """Take all pictures."""
    for name, size in _SIZES.items():
        async with QuayServer(organization(), latency=0.05, bandwidth=120_000, limits=QUAY_NGINX_HTTP1) as server:
            server.faults.append(Fault("^/v2/kolla/nova-ssh/manifests/.*", Status(403)))
            with tempfile.TemporaryDirectory() as place:
                screens = await anyio.to_thread.run_sync(record, size, server.url, Path(place))

        for suffix, screen in screens.items():
            draw(screen, size, directory / f"{name}{suffix}.svg", SVG_EXPORT_THEME)

        if name == "dashboard":
            draw(screens[""], size, directory / f"{name}-light.svg", _LIGHT)

    await take_pages(directory)


def draw(screen: str, size: tuple[int, int], file: Path, theme: TerminalTheme) -> None:
    """Save what a terminal shows as a picture."""
    picture = Console(record=True, file=io.StringIO(), force_terminal=True, width=size[0], height=size[1])
    picture.print(Text.from_ansi(screen), no_wrap=True, overflow="crop")
    picture.save_svg(str(file), title=_TITLE, theme=theme)


def record(size: tuple[int, int], url: str, place: Path) -> dict[str, str]:
    """Run quaymirror in tmux, and return the screen at each moment."""
    tmux = ["tmux", "-L", f"quaymirror-{os.getpid()}"]
    run = f"{sys.executable} -m quaymirror sync kolla '*' {_TAG} --limit-rate 20M --server {url}; sleep 600"
    window = ["-d", "-c", str(place), "-x", str(size[0]), "-y", str(size[1])]
    subprocess.run([*tmux, "new-session", *window, run], check=True)
    screens = {}
    try:
        for suffix, text in _MOMENTS:
            if suffix == _MOMENTS[-1][0]:
                subprocess.run([*tmux, "send-keys", "C-c"], check=True)

            screens[suffix] = wait_for(text, [*tmux, "capture-pane", "-e", "-p"])
        # The directory is removed once the run has written its last file.
        wait_for(r"fetched is kept", [*tmux, "capture-pane", "-e", "-p"])
    finally:
        subprocess.run([*tmux, "kill-server"], check=False)

    return screens


def wait_for(text: str, capture: list[str]) -> str:
    """Return the screen as soon as it has `text`, whatever the speed of the machine."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        screen = subprocess.run(capture, check=True, capture_output=True, text=True).stdout
        if re.search(text, Text.from_ansi(screen).plain):
            return screen

        time.sleep(0.1)

    raise TimeoutError(f"no screen has had {text}")


async def take_pages(directory: Path) -> None:
    """Run two jobs on two nights, and take the page of the second one."""
    registry = organization()
    kolla = registry.organization("kolla")
    async with QuayServer(registry, latency=0.02, bandwidth=2_000_000, limits=QUAY_NGINX_HTTP1) as server:
        with tempfile.TemporaryDirectory() as name:
            place = Path(name)
            (place / "quaymirror.toml").write_text(_JOBS)
            await anyio.to_thread.run_sync(partial(run_jobs, place, server.url, "monday.html"))
            for number, (image, manifest) in enumerate(kolla_like(70, layer_size=901_000).items()):
                if number % 3 == 0:
                    kolla.repository(image).push(_TAG, manifest)

            kolla.delete_repository("etcd")
            kolla.delete_repository("redis")
            server.faults.append(Fault("^/v2/kolla/glance-api/manifests/.*", Status(403)))
            await anyio.to_thread.run_sync(partial(run_jobs, place, server.url, "tuesday.html", "--full-check"))
            for picture, size in _PAGES.items():
                file = directory / f"{picture}.png"
                await anyio.to_thread.run_sync(photograph, place / "tuesday.html", size, file, place)
                file.write_bytes(with_palette(file.read_bytes()))


def run_jobs(place: Path, url: str, page: str, *words: str) -> None:
    """Run the jobs, and write a page; images that fail are part of the picture."""
    env = {**os.environ, "QUAYMIRROR_SERVER": url}
    command = [sys.executable, "-m", "quaymirror", "run", "--report-html", page, "--progress", "none", *words]
    subprocess.run(command, cwd=place, env=env, check=False, capture_output=True)


def photograph(page: Path, size: tuple[int, int], file: Path, place: Path) -> None:
    """Take a picture of the upper part of a page."""
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars"]
    options += [f"--user-data-dir={place}/browser", f"--screenshot={file}", f"--window-size={size[0]},{size[1]}"]
    subprocess.run([browser, *options, page.as_uri()], check=True, capture_output=True)


def with_palette(png: bytes) -> bytes:
    """Return a screenshot (8 bits per channel, RGB) with the 256 most frequent colours: a third of the size."""
    chunks = list(_chunks(png))
    width, height = struct.unpack(">II", chunks[0][1][:8])
    rows = _unfiltered(zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT")), width, height)
    # Colours that differ by less than an eye sees count as one.
    pixels = [bytes(value & 0xF8 for value in row[at : at + 3]) for row in rows for at in range(0, 3 * width, 3)]
    counts: dict[bytes, int] = {}
    for pixel in pixels:
        counts[pixel] = counts.get(pixel, 0) + 1

    colours = sorted(counts, key=lambda colour: -counts[colour])[:256]
    index = {colour: number for number, colour in enumerate(colours)}
    for colour in counts:
        if colour not in index:
            nearest = min(colours, key=lambda other: sum((a - b) ** 2 for a, b in zip(colour, other, strict=True)))
            index[colour] = index[nearest]

    lines = (bytes([0, *(index[pixel] for pixel in pixels[y * width : (y + 1) * width])]) for y in range(height))
    palette = b"".join(bytes(min(255, value + (value >> 5)) for value in colour) for colour in colours)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    parts = ((b"IHDR", header), (b"PLTE", palette), (b"IDAT", zlib.compress(b"".join(lines), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    found, at = [], 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        found.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + length]))
        at += length + 12

    return found


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _unfiltered(data: bytes, width: int, height: int) -> list[bytearray]:
    """Undo the filters of the lines (PNG specification, 9.2)."""
    size, rows, above = 3 * width, [], bytearray(3 * width)
    for y in range(height):
        start = y * (size + 1)
        kind, row = data[start], bytearray(data[start + 1 : start + 1 + size])
        for at in range(size):
            left = row[at - 3] if at >= 3 else 0
            corner = above[at - 3] if at >= 3 else 0
            row[at] = (row[at] + _prediction(kind, left, above[at], corner)) & 0xFF

        rows.append(row)
        above = row

    return rows


def _prediction(kind: int, left: int, above: int, corner: int) -> int:
    if kind == 4:
        estimate = left + above - corner
        return min((left, above, corner), key=lambda value: abs(estimate - value))

    return (0, left, above, (left + above) // 2)[kind]


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]))
