"""A snapshot shows the same in another process as the run itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from run_stories import Run, runs
from scene import Clock, Scene

from quaymirror import events
from quaymirror.progress.rates import Speeds
from quaymirror.progress.run import RunProgress
from quaymirror.ui.dashboard import render
from quaymirror.ui.snapshot import SnapshotError, read_snapshot, take_snapshot
from quaymirror.ui.summary import summary_lines


@pytest.mark.parametrize("size", [(80, 24), (200, 50), (40, 10)])
def test_a_frame_of_a_snapshot_is_the_frame_of_the_run(size: tuple[int, int]) -> None:
    scene = Scene()
    snapshot = read_snapshot(take_snapshot(scene.progress, scene.rates.speeds, now=5.0))
    frames = [
        render(progress, speeds, width=size[0], height=size[1], now=now).lines
        for progress, speeds, now in (
            (scene.progress, scene.rates.speeds, scene.clock.now),
            (snapshot.progress, snapshot.speeds, snapshot.clock),
        )
    ]
    scene.close()

    assert frames[0] == frames[1]
    assert snapshot.time == 5.0


@given(runs(hostile=True))
def test_whatever_happened_survives_the_way(run: Run) -> None:
    progress = RunProgress(Clock())
    for event in run.events:
        progress.apply(event)

    progress.apply(events.RunFinished(3.0, 3))
    text = take_snapshot(progress, Speeds(), now=1.0)
    again = read_snapshot(text).progress

    assert text.isascii()
    assert summary_lines(again) == summary_lines(progress)
    assert (again.done, again.known_images, again.waiting, again.in_work) == (
        progress.done,
        progress.known_images,
        progress.waiting,
        progress.in_work,
    )


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"snapshot_version": 1}', '{"snapshot_version": 2}'])
def test_what_is_no_snapshot_is_an_error(text: str) -> None:
    with pytest.raises(SnapshotError):
        read_snapshot(text)


def test_a_snapshot_with_other_fields_is_an_error() -> None:
    scene = Scene(images=20)
    document = json.loads(take_snapshot(scene.progress, scene.rates.speeds, now=5.0))
    scene.close()
    document["progress"]["unknown"] = 1
    with pytest.raises(SnapshotError):
        read_snapshot(json.dumps(document))
