"""A mirror into an empty registry: our push beside a loop of another tool over the same layout."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from lab import measure
from lab.measure import Contestant, Cost
from lab.peers import PYTHON
from lab.scenario import Case, Lab, Scenario

from quaymirror.testing import SourceManifest, kolla_like

from .registry import EmptyRegistry

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "support"))

OURS, _BASE = "quaymirror push", "skopeo copy, one by one"
_OTHERS = (_BASE, "regctl image copy, one by one")
_IMAGES, _TAG = 60, "2025.1-debian"


def run(lab: Lab) -> Iterator[Case]:
    """Measure a push of 60 images; a second push of ours follows each first one."""
    if not lab.wants("layout"):
        return

    if shutil.which("docker-registry") is None:
        print("\ndocker-registry is not here: nothing to push to")
        return

    from serving import write_layout

    images = _images()
    layout = write_layout(measure.fresh(lab.home / "layout"), images)
    costs: dict[str, list[Cost]] = {}
    again: dict[str, list[Cost]] = {}
    with EmptyRegistry(lab.home / "target") as target:
        contestants = lab.chosen(_contestants(layout, images, lab.home, target.registry.host), _BASE)

        def turn(contestant: Contestant) -> Cost:
            target.empty()
            out = measure.fresh(lab.home / "out")
            first = _counted(contestant, out, target)
            if contestant.name == OURS and not first.code:
                again.setdefault(OURS, []).append(_counted(contestant, out, target))

            return first

        measure.compare(contestants, turn, rounds=lab.rounds, costs=costs)

    unique = {digest for image in images.values() for digest in image.all_blobs()}
    case = Case("layout", f"{_IMAGES} images from a layout", _BASE, costs, counts=("uploads", "mounts", "heads"))
    case.ahead(27, "ahead of", 4.0, OURS, _OTHERS)
    case.at_most(27, "uploads", len(unique), case.median(OURS, "uploads"))
    second = Case("layout-again", "The same again", OURS, again, counts=("uploads", "mounts", "heads"))
    case.at_most(27, "uploads and mounts of a second push", 0, second.median(OURS, "uploads"))
    yield case


def _images() -> dict[str, SourceManifest]:
    found = kolla_like(_IMAGES, layer_size=200_000)
    return {f"kolla/{name}:{_TAG}": image for name, image in found.items()}


def _counted(contestant: Contestant, out: Path, target: EmptyRegistry) -> Cost:
    target.registry.forget()
    cost = measure.run(contestant, out)
    return measure.with_counts(cost, target.asked())


def _contestants(layout: Path, images: dict[str, SourceManifest], home: Path, host: str) -> list[Contestant]:
    names = home / "names"
    names.write_text("".join(f"{name}\n" for name in images))
    # regctl can't name images with a slash in a layout, but their digests.
    digests = home / "digests"
    digests.write_text("".join(f"{image.digest} {name}\n" for name, image in images.items()))
    push = (
        f"{PYTHON} -m quaymirror push {layout} 'registry://{host}?insecure=true' --state {{out}}/state --progress none"
    )
    skopeo = f"skopeo --insecure-policy copy -q --dest-tls-verify=false oci:{layout}:% docker://{host}/%"
    regctl = f"regctl --host reg={host},tls=disabled image copy ocidir://{layout}@$digest {host}/$name"
    return [
        Contestant(OURS, push, always=True),
        Contestant(_BASE, f"xargs -a {names} -I % {skopeo}", ("skopeo",)),
        Contestant(_OTHERS[1], f"while read -r digest name; do {regctl} || exit 1; done < {digests}", ("regctl",)),
    ]


SCENARIO = Scenario("push", "a mirror into a registry", ("layout",), run)
