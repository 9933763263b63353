"""Commit 92e26c5, the state that several goals compare with: its source comes from the history of this repository.

It runs with the interpreter and the packages of this environment, in the same rounds as the present code.
"""

from __future__ import annotations

import compileall
import subprocess
from pathlib import Path

COMMIT = "92e26c5"


def unpack(directory: Path) -> Path | None:
    """Write the source of the commit to `directory`, and return its import path; None if the history lacks it."""
    directory.mkdir(parents=True, exist_ok=True)
    archive = directory / "source.tar"
    command = ["git", "archive", "-o", str(archive), COMMIT, "src"]
    try:
        subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True)
        subprocess.run(["tar", "xf", str(archive), "-C", str(directory)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None

    compileall.compile_dir(directory / "src", quiet=2)
    return directory / "src"
