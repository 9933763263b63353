"""The time of discovery behind exactly the limits of Quay's nginx, and the number of requests that it refuses.

    python benchmarks/lab/limited.py [--repositories 1000] [--latency 0.02] [--discovery auto|api|registry]

Prints figures as JSON. The minimum is what a client that knows the limits could do with its first request at 0 s: the
listing through the API (5 a second, burst 25) while the tags are checked at the registry (50 a second, burst 10).
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from typing import Any

import anyio

import quaymirror
from quaymirror import Selection, discover
from quaymirror.testing import QUAY_NGINX_HTTP1, QuayServer, Registry, make_image, make_layer

_PAGE = 100

# Releases before the options came in groups, which --earlier measures, call them Settings.
make_options: Any = getattr(getattr(quaymirror, "Options", None), "of", None) or getattr(quaymirror, "Settings", None)


def organization(repositories: int) -> Registry:
    registry = Registry()
    image = make_image([make_layer("benchmark", 2_000)])
    for number in range(repositories):
        registry.organization("kolla").repository(f"image-{number:05}").push("2025.1-debian", image)

    return registry


def minimum_seconds(repositories: int, discovery: str) -> float:
    """nginx takes burst + 1 requests at once, and one more each 1/rate seconds."""
    pages = -(-repositories // _PAGE)
    if discovery == "api":
        return max(0, repositories + pages - 26) / 5

    return max(max(0, repositories - 11) / 50, max(0, pages - 26) / 5)


async def measure(repositories: int, latency: float, discovery: str) -> dict[str, float]:
    async with QuayServer(organization(repositories), limits=QUAY_NGINX_HTTP1, latency=latency) as server:
        default = make_options().discovery
        kind = type(getattr(default, "discovery", default))
        settings = make_options(server=server.url, discovery=kind(discovery))
        began = time.perf_counter()
        found = [image async for image in discover(Selection("kolla", "*", "2025.1-debian"), settings)]
        seconds = time.perf_counter() - began
        answers = Counter(request.status for request in server.requests)

    return {
        "seconds": seconds,
        "minimum": minimum_seconds(repositories, discovery),
        "found": len(found),
        "requests": sum(answers.values()),
        "refused": answers[429],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.02, metavar="S")
    parser.add_argument("--discovery", choices=("auto", "api", "registry"), default="auto")
    options = parser.parse_args()
    print(json.dumps(anyio.run(measure, options.repositories, options.latency, options.discovery)))


if __name__ == "__main__":
    main()
