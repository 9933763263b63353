"""Peak memory by the number of repositories: it must not grow with what is not selected.

    python benchmarks/memory.py [SMALL LARGE]

Each run is a process of its own, against a server in another one: 1 % of the repositories carry the tag.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

_SERVER = """
import anyio, sys
from quaymirror.testing import QuayServer, Registry, make_image, make_layer

async def main():
    count = int(sys.argv[1])
    image = make_image([make_layer("base", 20_000), make_layer("top", 2_000)])
    registry = Registry()
    organization = registry.organization("kolla")
    for number in range(count):
        name = ("match" if number % 100 == 0 else "other") + f"-{number:05}"
        organization.repository(name).push("2025.1" if number % 100 == 0 else "2024.1", image)
    async with QuayServer(registry, close_connections=False) as server:
        print(server.url, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""

_CLIENT = """
import json, resource, sys, time, anyio, quaymirror
from quaymirror.quay.selection import Selection

url, target, glob = sys.argv[1:]
began = time.perf_counter()
report = anyio.run(quaymirror.sync, Selection("kolla", glob, "2025.1"), target, quaymirror.Settings(server=url))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
counts = {status.value: count for status, count in report.counts.items()}
print(json.dumps({"peak_mib": round(peak, 1), "wall_s": round(time.perf_counter() - began, 2), "images": counts}))
"""


def measure(repositories: int, glob: str) -> dict[str, object]:
    """Mirror from an organization of so many repositories, and return peak memory in MiB and wall time in seconds."""
    server = subprocess.Popen([sys.executable, "-c", _SERVER, str(repositories)], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        with tempfile.TemporaryDirectory() as directory:
            arguments = [sys.executable, "-c", _CLIENT, url, str(Path(directory) / "mirror"), glob]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    finally:
        server.terminate()
        server.wait()

    result: dict[str, object] = json.loads(done.stdout)
    return {"repositories": repositories, "glob": glob, **result}


def main() -> None:
    """Print a row a run, and the difference."""
    small, large = map(int, sys.argv[1:3] if len(sys.argv) == 3 else ("100", "10000"))
    for glob, what in (("match-*", "1 % of the names match"), ("*", "all names match, 1 % carry the tag")):
        rows = [measure(count, glob) for count in (small, large)]
        for row in rows:
            print(json.dumps(row))

        peaks = [float(str(row["peak_mib"])) for row in rows]
        print(f"{what}: peak memory {peaks[0]} -> {peaks[1]} MiB, {peaks[1] - peaks[0]:+.1f} MiB")


if __name__ == "__main__":
    main()
