"""The real occystrap, run on single images, for comparison with derived images."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PROGRAM = """
import json, sys
from occystrap.main import cli
for arguments in json.load(sys.stdin):
    cli(arguments, standalone_mode=False)
"""


def occystrap(*commands: list[str], verify: bool = True) -> str:
    """Run occystrap's command line with each of `commands`, one after the other; return its output."""
    options = ["--insecure", "--verify" if verify else "--no-verify"]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM],
        input=json.dumps([[*options, *command] for command in commands]),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "HOME": "/nonexistent"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def process(host: str, names: Iterable[str], tag: str, destination: str, *options: str) -> None:
    """Run `occystrap process` for each image alone; `{repo}` in `destination` is the image's name.

    Its check of an `oci://` bundle looks for files that no bundle has, so it is left out there.
    """
    occystrap(
        *(
            ["process", f"registry://{host}/kolla/{name}:{tag}", destination.replace("{repo}", name), *options]
            for name in names
        ),
        verify=not destination.startswith("oci:"),
    )


def tree(root: Path) -> dict[str, str]:
    """Return all files below `root` but our own, such as statements of provenance, with a hash of their content."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".quaymirror" not in path.parts and not path.name.endswith(".provenance.json")
    }


def archive(path: Path) -> dict[str, str]:
    """Return the members of the archive at `path`, with a hash of their content; their order is left to chance."""
    with tarfile.open(path) as tar:
        members = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            members[member.name] = hashlib.sha256(file.read()).hexdigest()

        return members


def infos(host: str, names: Iterable[str], tag: str) -> list[dict[str, Any]]:
    """Return the output of `occystrap info` for each image."""
    printed = occystrap(*(["-O", "json", "info", f"registry://{host}/kolla/{name}:{tag}"] for name in names))
    documents: list[dict[str, Any]] = []
    decoder = json.JSONDecoder()
    while printed := printed.lstrip():
        document, end = decoder.raw_decode(printed)
        documents.append(document)
        printed = printed[end:]

    return documents
