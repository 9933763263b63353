"""The sizes of listed images, which are recorded after a run and are those of the listed set whatever changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from quaymirror.oci import Descriptor, Digest, mediatype
from quaymirror.store.records import ImageRecord
from quaymirror.store.state import State


def node(name: str, size: int) -> Descriptor:
    return Descriptor(mediatype.UNKNOWN, Digest.of(name.encode()), size)


def image(name: str, *layers: str, root: str = "") -> ImageRecord:
    top = Descriptor(mediatype.OCI_MANIFEST, Digest.of(f"root {root or name}".encode()), 1)
    contents = (top, *(node(layer, 100 * number) for number, layer in enumerate(layers, 1)))
    return ImageRecord(f"kolla/{name}:1", "quay.io", top.digest, top, contents, mirrored=1.0)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened, _ = State.open(tmp_path / "state.db", sync=False)
    with closing(opened):
        opened.commit([image("one", "base", "one"), image("two", "base", "two")])
        opened.record_sizes()
        yield opened


def sizes(state: State) -> dict[str, tuple[int | None, int | None]]:
    found, *_ = state.listed_images(None)
    return {name: (each.size, each.own_size) for name, each in found.items()}


def test_recorded_sizes_are_those_that_are_added_up(state: State) -> None:
    assert sizes(state) == {"kolla/one:1": (301, 201), "kolla/two:1": (301, 201)}
    assert state.listed_images(None)[1:] == (5, 502)


CHANGES: dict[str, Callable[[State], None]] = {
    "an image is new": lambda state: state.commit([image("three", "base", "two")]),
    "an image moves": lambda state: state.commit([image("two", "base", "one", root="moved")]),
    "an image is removed": lambda state: state.untag(["kolla/two:1"]),
    "an image and its content are removed": lambda state: state.forget(["kolla/two:1"]),
    "all images are removed": lambda state: state.forget(["kolla/one:1", "kolla/two:1"]),
    "a name is added": lambda state: state.commit([image("again", "base", "two", root="two")]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("then", CHANGES.values(), ids=CHANGES)
def test_after_a_change_sizes_are_those_of_the_changed_set(
    state: State, change: Callable[[State], None], then: Callable[[State], None], tmp_path: Path
) -> None:
    change(state)
    then(state)
    unrecorded, _ = State.open(tmp_path / "unrecorded.db", sync=False)
    with closing(unrecorded):
        unrecorded.commit([record for name in sizes(state) if (record := state.image(name)) is not None])
        assert sizes(state) == sizes(unrecorded)
        assert state.listed_images(None)[1:] == unrecorded.listed_images(None)[1:]
        state.record_sizes()
        assert sizes(state) == sizes(unrecorded)


def test_an_id_that_is_used_again_has_no_sizes_of_the_version_before(state: State) -> None:
    state.forget(["kolla/two:1"])
    state.commit([image("other", "base", "large", "larger")])
    assert sizes(state)["kolla/other:1"] == (601, 501)
