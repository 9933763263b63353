"""Into an object store, beside obstore alone with the same blobs and manifests as files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from lab import measure, peers
from lab.corpus import TAG
from lab.measure import Contestant, Cost
from lab.peers import PYTHON
from lab.scenario import Case, Lab, Scenario, facts

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

_BASE = "obstore alone"
_UPLOAD = Path(__file__).parents[1] / "lab" / "upload.py"


def run(lab: Lab) -> Iterator[Case]:
    """Measure a mirror of the tree into an empty bucket, with 64 transfers at a time."""
    if not lab.wants("cold"):
        return

    import bucket

    content = lab.corpus("tree")
    files = lab.home / "bucket-files"
    manifests = [(content.site / "manifests" / name / TAG).resolve() for name in content.images]
    blobs = [content.site / "blobs" / digest for digest in content.unique]
    files.write_text("\n".join(map(str, (*blobs, *manifests))))
    with lab.served(content) as server, bucket.s3_server() as s3:
        variables = " ".join(f"{name}={value}" for name, value in s3.environment.items())
        options = ("--state {out}/state", "--concurrency 64", "--layer-concurrency 64")
        target = f"s3://{bucket.BUCKET}/mirror"
        ours = peers.ours(server, *options, to=target)
        told = peers.told(server, content, lab.home, *options, to=target)
        contestants = [
            Contestant(peers.OURS, f"{variables} {ours.command}", always=True),
            Contestant(peers.TOLD, f"{variables} {told.command}", always=True),
            Contestant(_BASE, f"{variables} {PYTHON} {_UPLOAD} s3://{bucket.BUCKET}/files < {files}", always=True),
        ]

        def turn(contestant: Contestant) -> Cost:
            s3.empty()
            return measure.run(contestant, measure.fresh(lab.home / "out"))

        costs = measure.compare(contestants, turn, rounds=lab.rounds)

    case = Case("cold", "Into an object store", _BASE, costs, facts(content), counts=())
    # obstore alone discovers nothing either.
    case.at_least(26, "throughput, told the names, of obstore alone", 0.8, case.ratio(_BASE, peers.TOLD))
    case.at_least(26, "throughput, discovery included, of obstore alone", 0.8, case.ratio(_BASE, peers.OURS))
    case.at_most(26, "memory (MiB)", 200.0, case.median(peers.OURS, "peak_mib"))
    yield case


SCENARIO = Scenario("bucket", "an object store", ("cold",), run)
