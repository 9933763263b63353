"""The commands of the tutorial and the README, run unchanged, and the Python code of the how-to guide."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from organizations import TAG, kolla
from receiver import Receiver

from quaymirror.testing import QuayServer

ROOT = Path(__file__).parents[2]
SHOWN_SERVER = "http://127.0.0.1:43211"


def blocks(file: str) -> Iterator[tuple[str, str]]:
    """Yield the blocks of a page in their order: ('', commands) or (language, content)."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w+)\n(.*?)^```|((?:^    [^\n]+\n)+)", text, re.DOTALL | re.MULTILINE):
        yield (found[1], found[2]) if found[1] else ("", re.sub("^    ", "", found[3], flags=re.MULTILINE))


def shell(line: str, cwd: Path, **environment: str) -> None:
    """Type `line` into a shell that has quaymirror on its path."""
    bin_directory = cwd / "bin"
    bin_directory.mkdir(exist_ok=True)
    program = bin_directory / "quaymirror"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m quaymirror "$@"\n')
    program.chmod(0o755)
    path = f"{bin_directory}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    env = os.environ | {"PATH": path} | environment
    done = subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=env, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, f"{line}\n{done.stderr}"


@contextmanager
def demo(line: str, cwd: Path) -> Iterator[str]:
    """Run the demo that keeps serving; hand out where it serves."""
    command = [sys.executable, "-m", *line.split()]
    with subprocess.Popen(command, cwd=cwd, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            for output in process.stderr:
                found = re.search(r"Serving at (http://\S+) ", output)
                if found:
                    yield found[1]
                    return
        finally:
            process.terminate()

    pytest.fail("the demo does not serve")


def test_the_tutorial_works_as_it_is_written(tmp_path: Path) -> None:
    (_, first), *others = blocks("docs/tutorial/first-mirror.md")
    assert first.startswith("quaymirror demo --to ./demo --keep-serving")
    done = 0
    with demo(first, tmp_path) as url:
        for kind, block in others:
            content = block.replace(SHOWN_SERVER, url)
            if kind == "toml":
                (tmp_path / "quaymirror.toml").write_text(content)
            elif not content.startswith("skopeo") or shutil.which("skopeo"):
                # The environment of tests has a server, which would count before the file's.
                shell(content, tmp_path, QUAYMIRROR_SERVER="")
                done += 1

    assert done >= 5


async def test_the_commands_of_the_readme_work(tmp_path: Path) -> None:
    registry, images = kolla(4)
    for name in ("nova-api", "nova-compute"):
        for organization, tag in (("kolla", TAG), ("openstack.kolla", "2025.1-debian-bookworm")):
            registry.organization(organization).repository(name).push(tag, next(iter(images.values())))

    (tmp_path / "images.txt").write_text("openstack.kolla/nova-api:2025.1-debian-bookworm\n")

    lines = [
        line.partition("  #")[0].replace("/srv/", f"{tmp_path}/")
        for kind, block in blocks("README.md")
        for line in block.splitlines()
        if kind == "" and line.startswith("quaymirror ")
    ]
    assert len(lines) >= 5
    async with QuayServer(registry) as server, Receiver() as target:
        # Placeholders for the reader's own registry are replaced by one of the test.
        address = target.address.replace("?", "/mirror?")
        (file,) = [block for kind, block in blocks("README.md") if kind == "toml"]
        (tmp_path / "quaymirror.toml").write_text(file.replace("/srv/", f"{tmp_path}/"))
        for line in lines:
            here = line.replace("registry://registry.example/mirror", f"'{address}'")
            await anyio.to_thread.run_sync(partial(shell, here, tmp_path, QUAYMIRROR_SERVER=server.url))

        assert target.count("PUT", r"/v2/mirror/openstack.kolla/.*/manifests/") > 0


async def test_the_python_of_the_how_to_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, images = kolla(2)
    registry.organization("kolla").repository("nova-api").push(TAG, next(iter(images.values())))
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    (code,) = [block for kind, block in blocks("docs/how-to/embed.md") if kind == "python"]
    exec(compile(code, "embed.md", "exec"), scope)
    async with QuayServer(registry) as server:
        await scope["mirror"](server.url)  # type: ignore[operator]

    assert (tmp_path / "mirror" / "index.json").exists()
