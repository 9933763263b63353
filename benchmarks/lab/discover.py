"""Only the discovery: prints how long it took, without the start of the process, and how many images it found.

python -P discover.py URL TAG
"""

from __future__ import annotations

import json
import sys
import time

import anyio

from quaymirror import Options, Selection, discover


async def main(url: str, tag: str) -> None:
    """Find every image."""
    began = time.perf_counter()
    found = [image async for image in discover(Selection("kolla", "*", tag), Options.of(server=url))]
    print(json.dumps({"seconds": time.perf_counter() - began, "found": len(found)}))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
