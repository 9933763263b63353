"""Only the discovery: prints how long it took, without the start of the process, and how many images it found.

python -P discover.py URL TAG
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import anyio

import quaymirror
from quaymirror import Selection, discover

# Releases before the options came in groups, which --earlier measures, call them Settings.
make_options: Any = getattr(getattr(quaymirror, "Options", None), "of", None) or getattr(quaymirror, "Settings", None)


async def main(url: str, tag: str) -> None:
    """Find every image."""
    began = time.perf_counter()
    found = [image async for image in discover(Selection("kolla", "*", tag), make_options(server=url))]
    print(json.dumps({"seconds": time.perf_counter() - began, "found": len(found)}))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
