"""Derived images: `quaymirror sync … --to dir://` beside `occystrap process quay://…`, on the same organization.

    python benchmarks/derived.py [--images N] [--scale F] [--shrinkable SHARE] [--rounds N] [--json FILE] …

Both start cold, by turns, as child processes with their own defaults, against one server in another process. CPU time
is that of the child and its own children; bytes are blob bytes as the server counts them. The tree is one of Kolla's
shape: a dozen layers of 52 MB are in every image, three of 7.4 MB are each image's own.

What has to be decompressed costs both the same, so the ratio depends on how far layers shrink: `--shrinkable 0.5` is
the share of their content that does, 0 makes it all random. `--latency` (seconds before each answer) and `--bandwidth`
(bytes a second of each connection) make the link long and thin.

occystrap knows quay.io only: a few lines around its command line send it to the server instead, over plain HTTP.
Compiled modules are kept for the rounds after the first, even where the environment forbids to write them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TAG = "2025.1"
_FILTERS = {"unfiltered": [], "filtered": ["-f", "normalize-timestamps"]}

_SERVER = """
import anyio, gzip, io, json, random, sys, tarfile
from quaymirror.testing import Blob, Layer, QuayServer, Registry, digest_of, make_image

COUNT, SCALE, SHRINKABLE = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
RANDOM = random.Random(1)
SHRINKS = int(8192 * SHRINKABLE)
# Words shrink to a twentieth or so, the rest not at all; no two places of a kind are near enough for a longer match.
POOL = b"".join(
    RANDOM.randbytes(8192 - SHRINKS) + ((b"%016d " % RANDOM.getrandbits(50)) * 482)[:SHRINKS] for _ in range(4096)
)

def layer(compressed):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(20):
            size = int(compressed / (1 - 0.97 * SHRINKABLE) * SCALE / 20)
            at = RANDOM.randrange(len(POOL) - size)
            member = tarfile.TarInfo(f"usr/lib/{number}")
            member.size, member.mtime = size, 1_700_000_000
            archive.addfile(member, io.BytesIO(POOL[at:at + size]))
    content = buffer.getvalue()
    return Layer(Blob.of(gzip.compress(content, 1)), digest_of(content))

async def main():
    common = [layer(size) for size in (16e6, 8e6, 8e6, 4e6, 4e6, 4e6, 2e6, 2e6, 2e6, 1e6, 0.5e6, 0.5e6)]
    registry, blobs, referenced = Registry(), {}, 0
    organization = registry.organization("kolla")
    for number in range(COUNT):
        image = make_image([*common, layer(4.4e6), layer(2e6), layer(1e6)])
        organization.repository(f"image-{number:03}").push(sys.argv[4], image)
        blobs.update((blob.digest, blob.size) for blob in image.blobs)
        referenced += sum(blob.size for blob in image.blobs)
    async with QuayServer(registry, latency=float(sys.argv[5]), bandwidth=float(sys.argv[6]) or None) as server:
        print(json.dumps({"host": server.host, "unique": sum(blobs.values()), "referenced": referenced}), flush=True)
        async for _ in anyio.wrap_file(sys.stdin):
            print(json.dumps({"bytes": server.blob_bytes(), "requests": len(server.requests)}), flush=True)
            server.reset_records()

anyio.run(main)
"""

_OCCYSTRAP = """
import sys
from occystrap import main, quay

host = sys.argv.pop(1)
quay.QUAY_API_BASE = f"http://{host}/api/v1"
resolve = quay.resolve_quay_uri
quay.resolve_quay_uri = lambda *a, **k: [(host, image, tag) for _, image, tag in resolve(*a, **k)]
main.cli(sys.argv[1:])
"""


class Server:
    """The organization, served by a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        facts = self._answer()
        self.host: str = facts["host"]
        self.unique: int = facts["unique"]
        self.referenced: int = facts["referenced"]

    def counts(self) -> dict[str, Any]:
        """Return what was fetched since the last call."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextmanager
def serving(options: argparse.Namespace) -> Iterator[Server]:
    """Serve an organization of the size and over the link that `options` ask for."""
    sizes = (options.images, options.scale, options.shrinkable, _TAG, options.latency, options.bandwidth)
    command = [sys.executable, "-c", _SERVER, *map(str, sizes)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield Server(process)
    finally:
        process.terminate()
        process.wait()


def commands(host: str, target: Path, filters: list[str]) -> dict[str, list[str]]:
    """Return both sides' command for the same work."""
    ours = [sys.executable, "-m", "quaymirror", "sync", "kolla", "*", _TAG, "--server", f"http://{host}"]
    theirs = [sys.executable, "-c", _OCCYSTRAP, host, "--insecure", "process", f"quay://kolla/*:{_TAG}"]
    return {
        "quaymirror": [*ours, "--to", f"dir://{target}", "--progress", "none", *filters],
        "occystrap": [*theirs, f"dir://{target}?unique_names=true", *filters],
    }


def measure(command: list[str], server: Server, directory: Path) -> dict[str, float]:
    """Run `command` with temporary files in `directory`, and return what it took."""
    environment = {**os.environ, "TMPDIR": str(directory), "PYTHONPYCACHEPREFIX": str(directory.parent / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    server.counts()
    with (directory / "log").open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)

    if process.returncode:
        sys.exit(f"{command} ended with {process.returncode}:\n{(directory / 'log').read_text()[-2000:]}")

    counts = server.counts()
    return {
        "wall_s": wall,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "fetched_mb": counts["bytes"] / 1e6,
        "requests": counts["requests"],
    }


def rounds(server: Server, home: Path, count: int, filters: list[str]) -> dict[str, dict[str, float]]:
    """Run both sides by turns, each into a new directory, and return the medians."""
    results: dict[str, list[dict[str, float]]] = {}
    for number in range(count):
        sides = list(commands(server.host, home / "target", filters).items())
        for side, command in sides if number % 2 == 0 else reversed(sides):
            directory = Path(tempfile.mkdtemp(dir=home))
            shutil.rmtree(home / "target", ignore_errors=True)
            results.setdefault(side, []).append(measure(command, server, directory))
            check(home / "target")
            shutil.rmtree(directory)

    return {
        side: {key: statistics.median(result[key] for result in found) for key in found[0]}
        for side, found in results.items()
    }


def check(target: Path) -> None:
    """Make sure that something was done: the two sides' files are held against each other by the tests."""
    catalog = json.loads((target / "catalog.json").read_text())
    assert all((target / name).is_file() for tags in catalog.values() for name in tags.values())


def main() -> None:
    """Print a table and, after it, the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--shrinkable", type=float, default=0.5)
    parser.add_argument("--latency", type=float, default=0.0)
    parser.add_argument("--bandwidth", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="Where targets and temporary files go.")
    parser.add_argument("--only", choices=_FILTERS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    document: dict[str, Any] = {
        key: getattr(options, key) for key in ("images", "scale", "shrinkable", "latency", "bandwidth", "rounds")
    }
    document["cpus"] = os.cpu_count()
    with (
        serving(options) as server,
        tempfile.TemporaryDirectory(dir=options.directory) as home,
    ):
        document |= {"unique_mb": server.unique / 1e6, "referenced_mb": server.referenced / 1e6}
        print(
            f"{options.images} images, {server.unique / 1e6:,.0f} MB unique, {server.referenced / 1e6:,.0f} referenced"
        )
        print(f"{'':24}{'wall s':>8}{'CPU s':>8}{'fetched MB':>12}{'requests':>10}")
        for case in [options.only] if options.only else _FILTERS:
            document[case] = found = rounds(server, Path(home), options.rounds, _FILTERS[case])
            for side, row in found.items():
                numbers = f"{row['wall_s']:8.2f}{row['cpu_s']:8.2f}{row['fetched_mb']:12,.0f}{row['requests']:10,.0f}"
                print(f"{case:12}{side:12}{numbers}", flush=True)

            ratios = {key: found["occystrap"][key] / found["quaymirror"][key] for key in found["quaymirror"]}
            print(
                f"{'':12}{'ratio':12}"
                + "".join(f"{ratios[key]:{w}.2f}" for key, w in zip(ratios, (8, 8, 12, 10), strict=True))
            )

    text = json.dumps(document, indent=2)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
