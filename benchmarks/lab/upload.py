"""Upload files with obstore alone, several at a time: `python upload.py URL`, with the paths on standard input."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import obstore
from obstore.store import from_url

_AT_A_TIME = 8


async def main(url: str, files: list[str]) -> None:
    """Upload all `files` under their names."""
    store, waiting = from_url(url), iter(files)

    async def work() -> None:
        for file in waiting:
            await obstore.put_async(store, Path(file).name, Path(file).read_bytes())

    async with asyncio.TaskGroup() as tasks:
        for _ in range(_AT_A_TIME):
            tasks.create_task(work())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.stdin.read().split()))
    # Without ending the interpreter: a thread of obstore that needs it then would abort.
    os._exit(0)
