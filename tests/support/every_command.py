"""Every command of the command line with words that let it succeed, and a place in which they do.

The list of commands is that of the command line: one that has no words here is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
from commands import run
from organizations import TAG

from quaymirror.cli.main import main

_CHOICE = f"kolla * {TAG} --server {{server}}"
_REGISTRY = "{registry} --state {place}/pushed"
# The words of each command; several lines where it does several things. `{place}` is a directory that `prepare` has
# filled, `{out}` one to write to.
WORDS = {
    "sync": (
        f"sync {_CHOICE} --to {{place}}/mirror --lock-file {{out}}/lock.json --report {{out}}/report.json",
        f"sync {_CHOICE} --to {_REGISTRY}",
        f"sync {_CHOICE} --to dir://{{out}}/derived",
        f"sync {_CHOICE} --to {{place}}/mirror --dry-run",
        # Elsewhere: `diff --source` compares with the source of the last run.
        "sync --from-lock {place}/lock.json --server {server} --to {out}/locked",
    ),
    "push": (f"push {{place}}/mirror {_REGISTRY}",),
    "run": ("run --config {place}/quaymirror.toml",),
    "merge-reports": ("merge-reports {place}/shard.json",),
    "list": (f"list {_CHOICE}", "list {place}/mirror"),
    "info": (f"info {_CHOICE}", "info {place}/mirror"),
    "verify": ("verify {place}/mirror", "verify {place}/mirror --fast", f"verify {_REGISTRY}"),
    "serve": ("serve {place}/mirror --write-nginx {out}/nginx",),
    "check": ("check {place}/mirror --images {place}/images.txt --server {server}",),
    "watch": ("watch {place}/mirror",),
    "history": ("history --to {place}/mirror",),
    "status": ("status --config {place}/quaymirror.toml",),
    "inventory": ("inventory {place}/mirror",),
    "export": ("export {place}/mirror --to {out}",),
    "import": ("import {place}/parts {place}/far --allow-unsigned",),
    "snapshots": ("snapshots {place}/mirror",),
    "diff": ("diff {place}/mirror latest latest", "diff {place}/mirror --source"),
    "rollback": ("rollback {place}/mirror --to latest",),
    "hold": ("hold {place}/mirror kolla/base:*", "hold {place}/mirror"),
    "unhold": ("unhold {place}/mirror *:*",),
    "checkout": ("checkout {place}/mirror latest {out}/elsewhere",),
    "remove": ("remove {place}/mirror *:*", "remove {place}/mirror kolla/base:* --yes"),
    "prune": ("prune {place}/mirror", "prune {place}/mirror --yes", f"prune {_REGISTRY}"),
    "config": (
        "config validate {place}/quaymirror.toml",
        "config show --config {place}/quaymirror.toml",
        "config import {place}/skopeo.yaml",
        "config schema",
    ),
    "completion": ("completion bash",),
    "demo": ("demo --count 2 --to {out}/demo",),
}


def every_command(*, briefly: bool = False, **places: object) -> Iterator[tuple[str, ...]]:
    """Iterate over the words of all commands that the command line has, `briefly` with one line for each.

    :raises KeyError: for a command that has none.
    """
    for name in main.list_commands(click.Context(main)):
        for line in WORDS[name][:1] if briefly else WORDS[name]:
            yield tuple(word.format(**places) for word in line.split())


async def prepare(place: Path, server: str, registry: str) -> None:
    """Make everything in `place` that the commands need: a mirror, parts, files."""
    job = f'organization = "kolla"\ntags = ["{TAG}"]\nserver = "{server}"\nto = "{place}/mirror"\n'
    (place / "quaymirror.toml").write_text(f"[jobs.a]\n{job}")
    (place / "images.txt").write_text(f"{server.partition('://')[2]}/kolla/base:{TAG}\n")
    (place / "skopeo.yaml").write_text(f"quay.io:\n  images:\n    kolla/nova: ['{TAG}']\n")
    (place / "parts").mkdir()
    pushed = f"--to {registry} --state pushed"
    for line in (
        "run",
        f"sync kolla * {TAG} --server {server} --to mirror --lock-file lock.json",
        f"sync kolla * {TAG} --server {server} {pushed}",
        f"sync kolla * {TAG} --server {server} {pushed} --plan-only plan.json",
        f"sync --plan plan.json --shard 0/1 {pushed} --report shard.json",
        "export mirror --to parts",
    ):
        await run(*line.split(), cwd=place, env={"QUAYMIRROR_SERVER": server}, check=0)
