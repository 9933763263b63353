"""Registry to registry beside `skopeo sync` (and `crane copy`, where it is there): the same images, the same run.

    python benchmarks/push.py [IMAGES [LAYER_BYTES [ROUNDS]]]

Two docker-registries: one holds the images, each tool pushes into the other one, emptied before. The tools take turns,
and medians count. For quaymirror an nginx stands before the source, with Quay's API as files: its discovery and its
state are in its time; the others are told what to copy. Only ratios within one run mean anything.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))

import anyio
import anyio.to_thread
import peers

from quaymirror.testing import QuayServer, Registry, SourceManifest, kolla_like

TAG = "2025.1"
_NGINX = """
daemon off; worker_processes 1; pid {home}/nginx.pid; error_log {home}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; default_type application/json; client_body_temp_path {home}; proxy_temp_path {home};
  fastcgi_temp_path {home}; uwsgi_temp_path {home}; scgi_temp_path {home};
  upstream registry {{ server {registry}; keepalive 64; }}
  server {{
    listen {listen};
    location = /api/v1/repository {{ alias {home}/api/listing; }}
    location /api/v1/repository/kolla/ {{ root {home}/api; rewrite ^.*/kolla/(.+)/tag/$ /$1 break; }}
    location /v2/ {{
      proxy_pass http://registry; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Took:
    """What one tool needed: seconds, and what it asked of the target."""

    wall: float
    cpu: float
    uploads: int
    mounts: int
    heads: int


def measure(arguments: list[str], target: peers.DockerRegistry, environment: dict[str, str]) -> Took:
    """Run one tool to its end."""
    target.forget()
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | environment, check=False)
    wall, after = time.perf_counter() - began, os.times()
    if done.returncode:
        raise SystemExit(f"{arguments[0]}: {done.stderr[-2000:]}")

    asked = target.requests()
    uploads = sum(r.method == "PUT" and "/blobs/uploads/" in r.path and r.status == 201 for r in asked)
    mounts = sum(r.method == "POST" and "mount=" in r.path and r.status == 201 for r in asked)
    heads = sum(r.method == "HEAD" for r in asked)
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Took(wall, cpu, uploads, mounts, heads)


def tools(source: str, server: str, target: str, home: Path, names: list[str]) -> dict[str, Callable[[str], list[str]]]:
    """Return the command of each tool that is there, for a prefix at the target."""
    listing = home / "sync.yml"
    images = "".join(f"    kolla/{name}: ['{TAG}']\n" for name in names)
    listing.write_text(f"{source}:\n  tls-verify: false\n  images:\n{images}")

    def quaymirror(prefix: str) -> list[str]:
        to = f"registry://{target}/{prefix}?insecure=true"
        options = ["--server", server, "--to", to, "--progress", "none", "--state", str(home / prefix)]
        return [sys.executable, "-m", "quaymirror", "sync", "kolla", "*", TAG, *options]

    def skopeo(prefix: str) -> list[str]:
        options = ["--src", "yaml", "--dest", "docker", "--all", "--dest-tls-verify=false"]
        return ["skopeo", "sync", *options, str(listing), f"{target}/{prefix}"]

    def crane(prefix: str) -> list[str]:
        copies = (f"crane copy --insecure {source}/kolla/{n}:{TAG} {target}/{prefix}/kolla/{n}:{TAG}" for n in names)
        return ["sh", "-ec", "\n".join(copies)]

    found = {"quaymirror": quaymirror, "skopeo sync": skopeo, "crane copy": crane}
    return {name: tool for name, tool in found.items() if name == "quaymirror" or shutil.which(name.split()[0])}


def main() -> None:
    """Print the medians of each tool, cold and again with nothing changed."""
    count, size, rounds = (int(text) for text in [*sys.argv[1:4], *("60", "200000", "3")[len(sys.argv) - 1 :]])
    images = kolla_like(count, layer_size=size)
    unique = {digest: len(blob.data) for image in images.values() for digest, blob in image.all_blobs().items()}
    needed = sum(len(image.all_blobs()) for image in images.values())
    print(f"{count} images, {len(unique)} unique blobs of {sum(unique.values()):,} bytes, {needed} needed in all")
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as directory:
        home = Path(directory)
        for name in ("source", "target"):
            (home / name).mkdir()

        with peers.DockerRegistry(home / "source") as source, peers.DockerRegistry(home / "target") as target:
            for name, image in images.items():
                peers.push(source.url, f"kolla/{name}", TAG, image)

            with quay(source.host, home, images) as url:
                compare(tools(source.host, url, target.host, home, list(images)), target, home, rounds)


@contextmanager
def quay(registry: str, home: Path, images: dict[str, SourceManifest]) -> Iterator[str]:
    """Run an nginx that answers as Quay does: the API from files, the rest from `registry`."""
    anyio.run(write_api, home / "api", images)
    listen = f"127.0.0.1:{peers.free_port()}"
    config = home / "nginx.conf"
    config.write_text(_NGINX.format(home=home, registry=registry, listen=listen))
    server = subprocess.Popen([peers.require("nginx"), "-c", str(config), "-e", str(home / "nginx.log")])
    try:
        yield f"http://{listen}"
    finally:
        server.terminate()
        server.wait()


async def write_api(directory: Path, images: dict[str, SourceManifest]) -> None:
    """Write down what the Quay-like server of the tests would answer."""
    directory.mkdir()
    registry = Registry()
    for name, image in images.items():
        registry.organization("kolla").repository(name).push(TAG, image)

    async with QuayServer(registry) as server:

        async def save(file: str, path: str) -> None:
            answer = await anyio.to_thread.run_sync(urllib.request.urlopen, f"{server.url}/api/v1/repository{path}")
            (directory / file).write_bytes(answer.read())

        await save("listing", "?namespace=kolla&public=true&last_modified=true")
        for name in images:
            await save(name, f"/kolla/{name}/tag/?specificTag={TAG}&onlyActiveTags=true&limit=1")


def compare(
    commands: dict[str, Callable[[str], list[str]]], target: peers.DockerRegistry, home: Path, rounds: int
) -> None:
    """Let the tools take turns and print what came of it."""
    cold: dict[str, list[Took]] = {name: [] for name in commands}
    again: dict[str, list[Took]] = {name: [] for name in commands}
    for number in range(rounds):
        for name, command in commands.items():
            # Each finds an empty registry: what another one pushed could be mounted.
            target.kill()
            shutil.rmtree(home / "target" / "registry", ignore_errors=True)
            target.start()
            prefix = f"{re.sub('[^a-z]', '', name)}{number}"
            arguments = command(prefix)
            cold[name].append(measure(arguments, target, {"HOME": str(home)}))
            again[name].append(measure(arguments, target, {"HOME": str(home)}))

    for what, all_took in (("cold", cold), ("again", again)):
        for name, took in all_took.items():
            print(json.dumps({"run": what, "tool": name} | medians(took)))

    ours = statistics.median(took.wall for took in cold["quaymirror"])
    for name, took in cold.items():
        if name != "quaymirror":
            print(f"cold: {name} takes {statistics.median(one.wall for one in took) / ours:.1f} times as long")


def medians(took: list[Took]) -> dict[str, object]:
    """Return the medians of times with their range, and the counts of the last round."""
    walls = [round(one.wall, 2) for one in took]
    return {
        "wall_s": statistics.median(walls),
        "wall_range": [min(walls), max(walls)],
        "cpu_s": round(statistics.median(one.cpu for one in took), 2),
        "uploads": took[-1].uploads,
        "mounts": took[-1].mounts,
        "heads": took[-1].heads,
    }


if __name__ == "__main__":
    main()
