"""How long discovery takes where requests are limited exactly like Quay's nginx limits them, and how many it refuses.

    python benchmarks/discovery_limits.py [--repositories 1000] [--latency 0.02] [--discovery auto|api|registry]

The bar: at most 1.25 times the theoretical minimum of the cheapest allowed way, at most 1 % of the requests refused.
The minimum is what a client that knows the limits could do with its first request at 0 s: the listing through the API
(5 a second, burst 25) while the tags are checked at the registry (50 a second, burst 10).
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from functools import partial

import anyio

from quaymirror import Selection, Settings, discover
from quaymirror.events import Event, HostPaused
from quaymirror.quay.check import Discovery
from quaymirror.testing import QUAY_NGINX_HTTP1, QuayServer, Registry, make_image, make_layer

_PAGE = 100


def organization(repositories: int) -> Registry:
    registry = Registry()
    image = make_image([make_layer("benchmark", 2_000)])
    for number in range(repositories):
        registry.organization("kolla").repository(f"image-{number:05}").push("2025.1-debian", image)

    return registry


def minimum_seconds(repositories: int, discovery: Discovery) -> float:
    """nginx takes burst + 1 requests at once, and one more each 1/rate seconds."""
    pages = -(-repositories // _PAGE)
    if discovery is Discovery.API:
        return max(0, repositories + pages - 26) / 5

    return max(max(0, repositories - 11) / 50, max(0, pages - 26) / 5)


async def measure(repositories: int, latency: float, discovery: Discovery) -> bool:
    pauses = Counter[str]()

    def observe(event: Event) -> None:
        if isinstance(event, HostPaused):
            pauses[event.reason] += 1

    async with QuayServer(organization(repositories), limits=QUAY_NGINX_HTTP1, latency=latency) as server:
        settings = Settings(server=server.url, discovery=discovery)
        began = time.perf_counter()
        found = [
            image async for image in discover(Selection("kolla", "*", "2025.1-debian"), settings, observer=observe)
        ]
        seconds = time.perf_counter() - began
        answers = Counter(request.status for request in server.requests)

    least, total = minimum_seconds(repositories, discovery), sum(answers.values())
    share = answers[429] / total
    print(f"discovery={discovery.value} repositories={repositories} latency={latency * 1000:.0f} ms found={len(found)}")
    print(f"  time     {seconds:7.2f} s   minimum {least:.2f} s   ratio {seconds / least:.3f}   (bar 1.25)")
    print(f"  requests {total:7}     refused {answers[429]}   {share:.2%}   (bar 1 %)   pauses {dict(pauses)}")
    return len(found) == repositories and seconds <= 1.25 * least and share <= 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repositories", type=int, default=1000)
    parser.add_argument("--latency", type=float, default=0.02, metavar="S")
    parser.add_argument("--discovery", type=Discovery, default=Discovery.AUTO)
    options = parser.parse_args()
    good = anyio.run(partial(measure, options.repositories, options.latency, options.discovery))
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
