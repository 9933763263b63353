"""A program that uses the public API, for type checkers: it is never run.

mypy and basedpyright check it, so a name that goes, or a type that becomes unknown, is an error here.
"""

from __future__ import annotations

import sys
from contextlib import aclosing
from pathlib import Path
from typing import assert_type

import quaymirror
from quaymirror import (
    ClientOptions,
    Credentials,
    Digest,
    Event,
    ExitCode,
    Fsync,
    Job,
    Limits,
    Meters,
    Options,
    Outcome,
    PinnedImage,
    Platform,
    Reference,
    Report,
    Repository,
    RetryPolicy,
    Secret,
    Selection,
    SourceOptions,
    Status,
    Stop,
    TargetOptions,
    Timeouts,
)

OPTIONS = Options(
    source=SourceOptions(server="https://quay.example", api_token=Secret("token")),
    client=ClientOptions(retries=3, timeouts=Timeouts(connect=5.0), retry=RetryPolicy()),
    target=TargetOptions(fsync=Fsync.ALWAYS),
    limits=Limits(concurrency=8, layer_concurrency=32, limit_rate=20 << 20),
)
CREDENTIALS = Credentials("kolla+robot", Secret("password"))
ARM = Platform("linux", "arm64", "v8")


class Counter:
    """An observer that counts failures and collects the digests of mirrored images."""

    def __init__(self) -> None:
        self.failed = 0
        self.digests: list[Digest | None] = []

    def __call__(self, event: Event) -> None:
        """Look at `event`."""
        match event:
            case quaymirror.events.ImageFinished(outcome):
                self.note(outcome)
            case quaymirror.events.Notice(message):
                assert_type(message, str)
            case _:
                pass

    def note(self, outcome: Outcome) -> None:
        """Count `outcome`."""
        reference = assert_type(outcome.reference, Reference)
        assert_type(reference.repository, Repository)
        if outcome.status is Status.MIRRORED:
            self.digests.append(reference.digest)
        elif outcome.error is not None:
            self.failed += 1
            sys.stderr.write(f"{outcome.error.message} ({outcome.error.side})\n")


async def first_image(selection: Selection) -> PinnedImage | None:
    """Return the first image of `selection`, if it has one."""
    async with aclosing(quaymirror.discover(selection, OPTIONS)) as images:
        async for image in images:
            return image

    return None


async def mirror(selection: Selection, path: Path) -> ExitCode:
    """Mirror `selection` to `path`, and end early after a thousand megabytes."""
    observer, meters, stop = Counter(), Meters(), Stop()
    try:
        report = await quaymirror.sync(selection, path, OPTIONS, observer=observer, meters=meters, stop=stop)
    except quaymirror.errors.LockHeld as error:
        raise SystemExit(error.message) from None
    except quaymirror.QuaymirrorError as error:
        assert_type(error.scope, quaymirror.Scope)
        raise

    return assert_type(report, Report).exit_code


async def mirror_together(selections: list[Selection], directory: Path) -> ExitCode:
    """Mirror each selection to a layout of its own, at the same time, then verify and prune these."""
    jobs = [Job((selection,), str(directory / selection.organization), OPTIONS) for selection in selections]
    results = await quaymirror.run_jobs(jobs)
    for result in results:
        verification = await quaymirror.verify(result.job.target, OPTIONS, fast=True)
        for damage in verification.damages:
            sys.stderr.write(f"{damage.digest} needed by {', '.join(damage.images)}\n")

        plan = await quaymirror.prune_layout(Path(result.job.target), OPTIONS.prune, dry_run=True)
        assert_type(plan.freed_bytes, int)

    return assert_type(max((result.exit_code for result in results), default=ExitCode.OK), ExitCode)
