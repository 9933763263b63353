"""An export and its import, beside tar and sha256sum of the same files."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence

from lab import measure, peers
from lab.measure import Contestant, Cost
from lab.peers import PYTHON
from lab.scenario import Case, Lab, Scenario

OURS, OURS_SYNCED, _TAR = "quaymirror", "quaymirror, --fsync always", "tar and sha256sum"


def run(lab: Lab) -> Iterator[Case]:
    """Measure the export of a mirror of the tree, and the import of that export."""
    place = measure.fresh(lab.home / "carry")
    mirror, media, digest = place / "mirror", place / "media", "sha256sum {}/blobs/sha256/* > /dev/null"
    with lab.served(lab.corpus("tree")) as server:
        command = peers.ours(server, "--fsync", "never", to=str(mirror)).command
        subprocess.run(["sh", "-c", command], check=True, capture_output=True)

    ours = f"{PYTHON} -m quaymirror"
    subprocess.run([*ours.split(), "export", str(mirror), "--to", str(media)], check=True, capture_output=True)
    if lab.wants("export"):
        copy = f"tar c -C {mirror} blobs | tar x -C {{out}} && {digest.format(mirror)}"
        export = f"{ours} export {mirror} --to {{out}}"
        yield _case(lab, "export", "An export, beside a copy by tar and the hashes of all files", export, copy, 0.8)

    if lab.wants("import"):
        copy = f"tar xf {media}/*.tar -C {{out}} && {digest.format('{out}')}"
        receive = f"{ours} import {media} {{out}}/mirror --allow-unsigned"
        yield _case(lab, "import", "An import, beside tar and the hashes of all files", receive, copy, 0.7)

    shutil.rmtree(place, ignore_errors=True)


def _case(lab: Lab, name: str, title: str, ours: str, copy: str, least: float) -> Case:
    contestants = [
        Contestant(OURS, f"{ours} --fsync never", always=True),
        Contestant(OURS_SYNCED, f"{ours} --fsync always", always=True),
        Contestant(_TAR, copy, always=True),
    ]
    case = Case(name, title, _TAR, _compare(lab, contestants), counts=())
    case.at_least(24, "throughput, of tar and sha256sum", least, case.ratio(_TAR, OURS))
    case.at_most(24, "memory (MiB)", 80.0, case.median(OURS, "peak_mib"))
    return case


def _compare(lab: Lab, contestants: Sequence[Contestant]) -> dict[str, list[Cost]]:
    return measure.compare(
        contestants, lambda one: measure.run(one, measure.fresh(lab.home / "out")), rounds=lab.rounds
    )


SCENARIO = Scenario("carry", "a mirror on media", ("export", "import"), run)
