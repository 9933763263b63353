"""Make the files of this directory again, with the release that they stand for.

For 0.1.0, in a checkout of its last commit, with quaymirror installed from there into an environment of its own:

    git worktree add /tmp/quaymirror-0.1.0 92e26c5
    python3 -m venv /tmp/venv-0.1.0 && /tmp/venv-0.1.0/bin/pip install /tmp/quaymirror-0.1.0
    /tmp/venv-0.1.0/bin/python tests/data/legacy/make.py tests/data/legacy/0.1.0

It mirrors the organization of tests/support/legacy.py into `mirror/`, and pushes it with the state in `state/`. Then
one image disappears at the source, and both are done again. `formats.json` has the versions of the databases.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "support"))

import legacy
from organizations import TAG


async def mirror(directory: Path) -> None:
    """Run the release twice for each target."""
    registry = legacy.organization()
    async with legacy.quay(registry) as server, legacy.Destination():
        for present in (True, False):
            if not present:
                registry.organization("kolla").repository(legacy.REMOVED).delete_tag(TAG)

            for target in (("--to", "mirror"), ("--to", legacy.TARGET, "--state", "state")):
                words = ["-m", "quaymirror", *legacy.SELECTION, "--server", server.url, "--full-check", *target]
                process = await asyncio.create_subprocess_exec(sys.executable, *words, cwd=directory)
                if await process.wait() != 0:
                    raise SystemExit(f"failed: {' '.join(words)}")


def formats(directory: Path) -> dict[str, int]:
    """Return the format version of each kind of database below `directory`."""
    found = {}
    for path in sorted(directory.rglob("*.db")):
        with closing(sqlite3.connect(path)) as connection:
            found[path.name] = connection.execute("PRAGMA user_version").fetchone()[0]

    return found


def tidy(directory: Path) -> None:
    """Remove the progress files, and the names of this machine from the lock files."""
    for path in directory.rglob("live.json"):
        path.unlink()

    for path in directory.rglob("lock"):
        path.write_bytes(b"")


def main() -> None:
    """Make the directory that is named on the command line."""
    directory = Path(sys.argv[1])
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    asyncio.run(mirror(directory))
    tidy(directory)
    text = json.dumps(formats(directory), indent=1, sort_keys=True)
    (directory / "formats.json").write_text(f"{text}\n")


if __name__ == "__main__":
    main()
