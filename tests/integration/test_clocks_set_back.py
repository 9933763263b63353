"""Runs on a machine whose clock was set back: snapshots stay in order, and nothing is pruned before its time."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import layouts
import pytest
from crashes import blobs_there
from organizations import TAG, kolla, small_image

import quaymirror
from quaymirror import Options, Report, Selection, list_mirror
from quaymirror.errors import ConfigError
from quaymirror.events import Event, Notice
from quaymirror.run.snapshots import list_snapshots
from quaymirror.store.fsops import Fsync
from quaymirror.store.records import Snapshot
from quaymirror.store.retention import Retention
from quaymirror.testing import QuayServer, Registry

DAY = 86_400.0
TODAY = datetime(2033, 3, 10, 12).timestamp()
# A machine without a battery begins its time here.
RESET = datetime(1970, 1, 3, 12).timestamp()


class Machine:
    """A machine with a mirror, and the clock that it has."""

    def __init__(self, mirror: Path, server: QuayServer, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
        self.mirror = mirror
        self.registry = registry
        self.now = TODAY
        self.told: list[Event] = []
        self._server = server
        monkeypatch.setattr("quaymirror.run.pruning.time.time", lambda: self.now)

    async def night(self, **changes: object) -> Report:
        self.told.clear()
        options = Options.of(
            server=self._server.url, prune=True, keep_last=1, max_delete=50, full_check_every=0, fsync=Fsync.NEVER
        )
        return await quaymirror.sync(
            Selection("kolla", "*", TAG), self.mirror, options.replace(**changes), observer=self.told.append
        )

    def lines(self) -> list[str]:
        return [event.message for event in self.told if isinstance(event, Notice) and "clock" in event.message]

    def push(self, name: str, seed: str) -> str:
        image = small_image(seed)
        self.registry.organization("kolla").repository(name).push(TAG, image)
        return image.digest

    def retire(self, name: str) -> str:
        self.registry.organization("kolla").repository(name).delete_tag(TAG)
        return f"kolla/{name}:{TAG}"

    async def snapshots(self) -> list[Snapshot]:
        return [each.snapshot for each in await list_snapshots(self.mirror)]

    def digest_at(self, name: str, at: str) -> str:
        [image] = list_mirror(self.mirror, [f"kolla/{name}:{TAG}"], at=at).images
        return image.digest


@pytest.fixture
async def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        yield Machine(tmp_path / "mirror", server, registry, monkeypatch)


async def test_snapshots_stay_in_the_order_of_the_runs_and_are_found_by_date(machine: Machine) -> None:
    digests = {}
    for name, moment in (("first", TODAY), ("second", TODAY + DAY), ("early", RESET), ("third", TODAY + 2 * DAY)):
        machine.now, digests[name] = moment, machine.push("nova", name)
        await machine.night(prune=False)

    machine.now = RESET
    found = await machine.snapshots()
    assert [each.number for each in found] == [1, 2, 3, 4]
    assert len({each.id for each in found}) == 4
    wanted = {
        "latest": "third",
        "previous": "early",
        "1970-01-03": "early",
        "2033-03-10": "early",  # the latest run whose clock showed this day, or less
        "2033-03-12": "third",
        found[1].id: "second",
    }
    for at, name in wanted.items():
        assert machine.digest_at("nova", at) == digests[name], at

    for at in ("1969-01-01", "2033-04-01"):
        with pytest.raises(ConfigError, match="the nearest is"):
            machine.digest_at("nova", at)


async def test_a_clock_that_was_set_back_is_one_line(machine: Machine) -> None:
    await machine.night()
    assert machine.lines() == []
    machine.now = TODAY - 60
    await machine.night()
    assert machine.lines() == [], "clocks differ by a minute"
    machine.now = RESET
    await machine.night()
    [line] = machine.lines()
    [snapshot] = await machine.snapshots()
    assert line.startswith("the clock shows 1970-01-03 12:00, but ")
    assert f"snapshot {snapshot.id} of 2033-03-10 12:00" in line


@pytest.mark.parametrize("is_known", [False, True], ids=["went away then", "was away before"])
async def test_an_image_that_is_missing_while_the_clock_is_wrong_keeps_its_grace(
    machine: Machine, is_known: bool
) -> None:
    await machine.night()
    name = machine.retire(min(layouts.names(machine.mirror)).partition("/")[2].partition(":")[0])
    if is_known:
        machine.now += DAY
        await machine.night()

    machine.now, right = RESET, machine.now + 30 * DAY
    for night in range(3):
        machine.push("other", f"a snapshot of night {night}")
        await machine.night()
        machine.now += DAY

    assert all(each.dropped is None for each in await machine.snapshots())
    machine.now = right
    await machine.night()
    assert (name in layouts.names(machine.mirror)) is not is_known
    machine.now = right + 8 * DAY
    await machine.night()
    assert name not in layouts.names(machine.mirror)


async def test_a_blob_that_is_not_needed_while_the_clock_is_wrong_stays_for_its_readers(machine: Machine) -> None:
    machine.push("nova", "old")
    await machine.night()
    machine.now = RESET
    machine.push("nova", "new")
    before = blobs_there(machine.mirror)
    await machine.night()
    await machine.night()
    assert blobs_there(machine.mirror) >= before
    machine.now = TODAY + 60
    await machine.night()
    assert blobs_there(machine.mirror) >= before
    machine.now = TODAY + DAY
    await machine.night()
    assert not blobs_there(machine.mirror) >= before


async def test_a_date_that_was_wrong_itself_stops_pruning_until_two_weeks_contradict_it(machine: Machine) -> None:
    await machine.night()
    machine.now = TODAY + 5000 * DAY
    machine.push("nova", "made by a clock that is ahead")
    await machine.night()
    for day in range(1, 20, 3):
        machine.now = TODAY + day * DAY
        machine.push("nova", f"day {day}")
        await machine.night()
        assert len(machine.lines()) == (day < 18), day

    kept = [each for each in await machine.snapshots() if each.dropped is None]
    assert [each.created for each in kept] == [TODAY + 19 * DAY]


def test_days_are_those_of_the_latest_runs_although_an_earlier_one_had_the_same_date() -> None:
    moments = [TODAY + 5 * DAY, *(TODAY + day * DAY for day in range(7))]
    snapshots = [
        Snapshot(id=f"{number:08x}", number=number, created=moment, images=1, cause="sync")
        for number, moment in enumerate(moments, 1)
    ]
    assert Retention(last=1, daily=2).kept(snapshots) == {7, 8}
    assert Retention(last=1, daily=3).kept(snapshots) == {6, 7, 8}
