"""A snapshot shows in another process what the run itself shows."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from quaymirror import events
from quaymirror.progress.meters import Meters
from quaymirror.ui.dashboard import render
from quaymirror.ui.snapshot import SnapshotError, read_snapshot, take_snapshot
from quaymirror.ui.state import Rates, RunState
from quaymirror.ui.summary import summary_lines

from .scene import Clock, Scene
from .strategies import Run, runs


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 10)])
def test_a_frame_of_a_snapshot_is_the_frame_of_the_run(size: tuple[int, int]) -> None:
    scene = Scene()
    snapshot = read_snapshot(take_snapshot(scene.state, scene.meters, scene.rates, now=5.0))
    frames = [
        render(state, meters, rates, width=size[0], height=size[1], now=now).lines
        for state, meters, rates, now in (
            (scene.state, scene.meters, scene.rates, scene.clock.now),
            (snapshot.state, snapshot.meters, snapshot.rates, snapshot.clock),
        )
    ]
    scene.close()

    assert frames[0] == frames[1]
    assert snapshot.time == 5.0


@given(runs(hostile=True))
def test_whatever_happened_survives_the_way(run: Run) -> None:
    state, meters = RunState(Clock()), Meters()
    for event in run.events:
        state.apply(event)

    state.apply(events.RunFinished(3.0, 3))
    text = take_snapshot(state, meters, Rates(meters, clock=state.clock), now=1.0)
    again = read_snapshot(text).state

    assert text.isascii()
    assert summary_lines(again) == summary_lines(state)
    assert (again.done, again.known_images, again.waiting, again.in_work) == (
        state.done,
        state.known_images,
        state.waiting,
        state.in_work,
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"snapshot_version": 1}', '{"snapshot_version": 2}'])
def test_what_is_no_snapshot_is_an_error(text: str) -> None:
    with pytest.raises(SnapshotError):
        read_snapshot(text)


def test_a_snapshot_with_other_fields_is_an_error() -> None:
    scene = Scene(images=20)
    document = json.loads(take_snapshot(scene.state, scene.meters, scene.rates, now=5.0))
    scene.close()
    document["state"]["unknown"] = 1
    with pytest.raises(SnapshotError):
        read_snapshot(json.dumps(document))
