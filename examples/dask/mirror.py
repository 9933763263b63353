#!/usr/bin/env python3
"""Mirror an organization to a registry by the workers of a Dask cluster. Needs quaymirror and distributed everywhere.

mirror.py tls://SCHEDULER:8786 ORGANIZATION GLOB TAG registry://TARGET

Each thread of the workers takes one shard of a plan, so start them with `--nthreads 1`. The shard of a worker that is
lost runs again on one that is free, such as the one that its nanny starts, and does only what is missing. Workers read
the credentials of the source and the target from their own auth files.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import quaymirror


def mirror_shard(plan: str, share: quaymirror.Share, target: str, options: quaymirror.Options) -> dict[str, Any]:
    """Mirror the share of one shard, in the process of a worker; return its report."""
    # The registry is the memory: a shard that runs again finds there what it has brought.
    with tempfile.TemporaryDirectory(prefix="quaymirror-") as directory:
        file = Path(directory, "plan.json")
        file.write_text(plan)
        own = options.replace(state=Path(directory, "state"))
        return dict(asyncio.run(quaymirror.sync_shard(file, share, target, own)).to_json())


def version() -> str:
    """Return the version of quaymirror in the process of a worker."""
    return quaymirror.__version__


async def merge(reports: list[dict[str, Any]], directory: Path, state: Path | None) -> quaymirror.MergedReports:
    """Join the reports of all shards."""
    files = [directory / f"report-{number}.json" for number in range(len(reports))]
    for file, report in zip(files, reports, strict=True):
        file.write_text(json.dumps(report))

    return await quaymirror.merge_reports(files, options=quaymirror.Options.of(state=state))


def main() -> int:
    """Make a plan, let the workers mirror it, and join their reports; return the exit code of the whole."""
    given = _arguments()
    from distributed import Client

    with Client(given.scheduler) as client, tempfile.TemporaryDirectory(prefix="quaymirror-") as directory:
        client.get_versions(check=True)
        if others := {*client.run(version).values()} - {quaymirror.__version__}:
            sys.exit(f"workers have other versions of quaymirror than {quaymirror.__version__}: {', '.join(others)}")

        count = sum(client.nthreads().values())
        if not count:
            sys.exit(f"no workers at {given.scheduler}")

        # One rate for all: each shard has its part of it.
        rate = given.max_requests_per_second
        options = quaymirror.Options.of(server=given.server, max_requests_per_second=rate and rate / count)
        plan, selection = Path(directory, "plan.json"), quaymirror.Selection(given.organization, given.glob, given.tag)
        planning = quaymirror.Options.of(server=given.server, max_requests_per_second=rate, state=given.state)
        report = asyncio.run(quaymirror.plan_shards(selection, given.target, plan, planning))
        if not plan.exists():
            return int(report.exit_code)

        shards = [
            client.submit(
                mirror_shard, plan.read_text(), quaymirror.Share(index, count), given.target, options, pure=False
            )
            for index in range(count)
        ]
        merged = asyncio.run(merge(client.gather(shards), Path(directory), given.state))
        print(json.dumps(merged.report["images"]))
        return int(merged.exit_code)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("scheduler", "organization", "glob", "tag", "target"):
        parser.add_argument(name)

    parser.add_argument("--server", default="https://quay.io")
    parser.add_argument("--state", type=Path, help="the state of the next nights of one machine")
    parser.add_argument("--max-requests-per-second", type=float, help="of all workers together")
    given = parser.parse_args()
    if not given.scheduler.startswith("tls://") and not _is_loopback(given.scheduler):
        parser.error("whoever reaches a scheduler without TLS can run code on its workers: use tls://")

    return given


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(urlsplit(address).hostname or "").is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    sys.exit(main())
