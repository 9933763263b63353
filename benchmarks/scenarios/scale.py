"""Large organizations: CPU per image and per repository, which is to stay the same however many there are.

`--earlier PYTHON` compares `list`, `tagged` and `verify` with another release.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from lab import corpus, measure, peers
from lab.corpus import ORGANIZATION, TAG, Corpus
from lab.front import Front
from lab.measure import Contestant, Cost, divided
from lab.scenario import Case, Lab, Scenario

_LISTED = (4_000, 20_000, 100_000)
# Of commit 92e26c5 for the most repositories, if all of them have the tag; `--earlier` measures it again.
_EARLIER_MIB = 286.0
_IMAGES = (4_000, 20_000)
_CHECKPOINTED = 50_000
_VERIFIED, _BLOBS = 20_000, 10
_PER_IMAGE = 1.1
_OF_THE_RUN = 0.05
_WATCHED = Path(__file__).parents[1] / "lab" / "checkpoints.py"
_TIMEOUT = 1_800.0
# Bytes that a repository, an image with its copy, and a small blob take in memory.
_REPOSITORY_BYTES, _IMAGE_BYTES, _BLOB_BYTES = 5_000, 60_000, 5_000


def run(lab: Lab) -> Iterator[Case]:
    """List organizations with one image per hundred repositories, and mirror organizations of small images.

    Of one with 50,000 images, the share of the writing of `index.json` is measured.
    """
    if lab.wants("list"):
        case = Case("list", "list, by the number of repositories", "", {}, counts=("requests", "cpu_ms_each"))
        for count in (100, 1_000) if lab.quick else _LISTED:
            if lab.has_room(_REPOSITORY_BYTES * count):
                make = partial(corpus.tiny, repositories=count, images=count // 100)
                _measure(lab, case, count, make, partial(_listing, lab))

        yield _finished(case, "list")

    if lab.wants("tagged") and lab.has_room(_REPOSITORY_BYTES * (count := 1_000 if lab.quick else _LISTED[-1])):
        case = Case("tagged", "list, if all repositories have the tag", "", {}, counts=("requests", "cpu_ms_each"))
        _measure(lab, case, count, partial(corpus.listed, repositories=count), partial(_listing, lab))
        case.base = f"list, {count:,}"
        case.at_most(25, "peak memory, MiB", 0.4 * _EARLIER_MIB, case.median(case.base, "peak_mib"))
        yield case

    if lab.wants("sync"):
        case = Case("sync", "sync, by the number of images", "", {}, counts=("requests", "cpu_ms_each"))
        for count in (100, 400) if lab.quick else _IMAGES:
            if lab.has_room(_IMAGE_BYTES * count):
                _measure(lab, case, count, partial(corpus.tiny, repositories=count, images=count), _mirroring)

        yield _finished(case, "the first night", "the next night")

    count = 400 if lab.quick else _CHECKPOINTED
    if lab.wants("checkpoints") and lab.has_room(_IMAGE_BYTES * count):
        names = ("requests", "checkpoints", "index_cpu", "run_cpu")
        case = Case("checkpoints", "sync: the CPU time of index.json", "", {}, counts=names)
        _measure(lab, case, count, partial(corpus.tiny, repositories=count, images=count), _watched)
        case.base = next(iter(case.costs))
        share = divided(case.median(case.base, "index_cpu"), case.median(case.base, "run_cpu"))
        case.at_most(25, f"index.json of {count:,} images: share of the CPU time of the run", _OF_THE_RUN, share)
        yield case

    if lab.wants("verify") and lab.has_room(_BLOB_BYTES * _BLOBS * (count := 400 if lab.quick else _VERIFIED)):
        yield _verify(lab, count)


def _verify(lab: Lab, images: int) -> Case:
    mirror = lab.home / "verified"
    try:
        corpus.layout(mirror, images=images, blobs=_BLOBS)
        name = f"verify --fast, {images * _BLOBS:,} blobs"
        ours = Contestant(name, f"{peers.PYTHON} -m quaymirror verify --fast {mirror}", always=True)

        def turn(contestant: Contestant) -> Cost:
            return measure.run(contestant, measure.fresh(lab.home / "out"), timeout=_TIMEOUT)

        costs = measure.compare(lab.chosen([ours], name), turn, rounds=1)
        return Case("verify", "verify, without reading the blobs", name, costs, counts=())
    finally:
        shutil.rmtree(mirror, ignore_errors=True)


def _watched(server: Front, size: str) -> list[Contestant]:
    ours = peers.ours(server, name=f"the first night, {size}")
    _, _, command = ours.command.partition("-m quaymirror ")
    return [replace(ours, command=f"{peers.PYTHON} -P {_WATCHED} {{out}}/figures.json -- {command}")]


def _listing(lab: Lab, server: Front, size: str) -> list[Contestant]:
    words = f"list {ORGANIZATION} '*' {TAG} --json --server {server.url}"
    command = f"{peers.PYTHON} -m quaymirror {words} > list.json"
    return lab.chosen([Contestant(f"list, {size}", command, always=True)], "")


def _mirroring(server: Front, size: str) -> list[Contestant]:
    return [peers.ours(server, name=f"{night}, {size}") for night in ("the first night", "the next night")]


def _measure(
    lab: Lab,
    case: Case,
    repositories: int,
    make: Callable[[Path], Corpus],
    contestants: Callable[[Front, str], list[Contestant]],
) -> None:
    content = make(lab.home / "scale")
    out = measure.fresh(lab.home / "out")
    try:
        with lab.served(content) as server:

            def turn(contestant: Contestant) -> Cost:
                server.asked()
                cost = measure.run(contestant, out, timeout=_TIMEOUT)
                return measure.with_counts(cost, {**server.asked(), "cpu_ms_each": 1000 * cost.cpu / repositories})

            # Once: the second round of a first night would be a next night.
            measure.compare(contestants(server, f"{repositories:,}"), turn, rounds=1, costs=case.costs)
    finally:
        for place in ("scale", "out"):
            shutil.rmtree(lab.home / place, ignore_errors=True)


def _finished(case: Case, *names: str) -> Case:
    for name in names:
        sizes = [size for size in case.costs if size.startswith(name) and not size.endswith(peers.EARLIER.format(""))]
        case.base = case.base or sizes[0]
        per_each = [case.median(size, "cpu_ms_each") for size in sizes]
        growth = divided(per_each[-1], per_each[0])
        case.at_most(25, f"{name}: CPU of each, {sizes[-1].rpartition(' ')[2]} to the smallest", _PER_IMAGE, growth)

    return case


SCENARIO = Scenario("scale", "large organizations", ("list", "tagged", "sync", "checkpoints", "verify"), run)
