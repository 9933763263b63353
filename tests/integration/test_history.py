"""The history of targets and the status of jobs: what changed, which runs were killed, and how much space it takes."""

from __future__ import annotations

import json
import zlib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from commands import run
from organizations import TAG, kolla, small_image

from quaymirror import Job, Selection, job_statuses
from quaymirror.cli.main import main
from quaymirror.events import ChangeCounts
from quaymirror.store.database import Format, open_database
from quaymirror.store.history import FORMAT, History
from quaymirror.store.records import PastRun, Usage
from quaymirror.testing import Fault, QuayServer, Status

DAY = 86_400.0
CONFIG = """
[defaults]
server = "{server}"

[jobs.nightly]
organization = "kolla"
tags = ["{tag}"]
to = "mirror"

[jobs.never]
organization = "kolla"
tags = ["{tag}"]
to = "other"
"""


def past_run(night: int, **changes: Any) -> PastRun:
    values: dict[str, Any] = {
        "id": f"{night:08x}",
        "subject": '{"server": "https://quay.io"}',
        "started": 1_790_000_000.0 + night * DAY,
        "elapsed": 60.0,
        "exit_code": 0,
        "complete": True,
        "images": {"unchanged": 1},
        "bytes_fetched": 0,
    }
    return PastRun(**values | changes)


def shown(*words: str) -> str:
    """Return the output of a command that needs no process of its own."""
    result = CliRunner().invoke(main, words, standalone_mode=False)
    assert result.exception is None
    return result.stdout


def history(*words: str) -> Any:
    return json.loads(shown("history", *words, "--json"))


async def test_what_changed_is_in_the_summary_the_history_and_its_runs(tmp_path: Path) -> None:
    registry, images = kolla(4)
    names = sorted(images)
    organization = registry.organization("kolla")
    async with QuayServer(registry) as server:
        words = ("sync", "kolla", "*", TAG, "--server", server.url, "--full-check", "--log-file", "log.txt")
        first = await run(*words, cwd=tmp_path, check=0)
        organization.repository("new").push(TAG, small_image("new"))
        organization.repository(names[0]).push(TAG, small_image("moved"))
        organization.delete_repository(names[1])
        second = await run(*words, cwd=tmp_path, check=0)

    assert "missing at source" not in first.stderr
    assert "  +1 new  ~1 moved  -1 missing at source\n" in second.stderr
    assert "exit code 0, +1 new  ~1 moved  -1 missing at source" in (tmp_path / "log.txt").read_text()
    rows = history("--to", str(tmp_path / "mirror"))
    assert [row["changes"] for row in rows] == [{"new": 1, "moved": 1, "missing": 1}, None]
    assert rows[0]["usage"]["images"] == 5
    assert rows[0]["usage"]["bytes"] > rows[1]["usage"]["bytes"] > 0
    assert rows[0]["usage"]["free_bytes"] > 0
    table = shown("history", "--to", str(tmp_path / "mirror"))
    assert "+1 ~1 -1" in table
    lines = shown("history", rows[0]["id"], "--to", str(tmp_path / "mirror")).splitlines()
    assert [line.split()[:2] for line in lines[2:5]] == [["+", "new"], ["~", "moved"], ["-", "missing"]]
    assert lines[4].endswith(f"kolla/{names[1]}:{TAG}")


async def test_runs_that_were_killed_and_prunes_are_in_the_history(tmp_path: Path) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        await run("sync", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=0)

    await run("prune", "mirror", "--yes", cwd=tmp_path, check=0)
    home = tmp_path / "mirror" / ".quaymirror"
    past, _ = History.open(home)
    with closing(past):
        killed = past.runs()[1]
        past.begin(past_run(0, subject=killed.subject, started=killed.started + 3600))

    (home / "live.json").unlink()
    rows = history("--to", str(tmp_path / "mirror"))
    assert [(row["kind"], row["exit_code"]) for row in rows] == [("sync", None), ("prune", 0), ("sync", 0)]
    assert rows[1]["remark"] == "nothing to prune"
    lines = shown("history", "--to", str(tmp_path / "mirror")).splitlines()
    assert "killed" in lines[1]
    assert "nothing to prune" in lines[2]
    done = await run("history", "00000000", "--to", "mirror", cwd=tmp_path, check=2)
    assert "was killed" in done.stderr


async def test_the_status_shows_every_job_with_its_first_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, images = kolla(3)
    async with QuayServer(registry) as server:
        (tmp_path / "quaymirror.toml").write_text(CONFIG.format(server=server.url, tag=TAG))
        await run("run", "nightly", cwd=tmp_path, check=0, env={"QUAYMIRROR_SERVER": ""})
        server.faults.append(Fault(rf"^/v2/kolla/{min(images)}/manifests/.*", Status(403)))
        registry.organization("kolla").repository(min(images)).push(TAG, small_image("moved"))
        await run("run", "nightly", "--full-check", cwd=tmp_path, check=3, env={"QUAYMIRROR_SERVER": ""})
        asked = len(server.requests)
        monkeypatch.delenv("QUAYMIRROR_SERVER", raising=False)
        table, found = (
            shown("status", "--config", str(tmp_path / "quaymirror.toml"), *more) for more in ([], ["--json"])
        )
        assert len(server.requests) == asked

    nightly, never = json.loads(found)
    assert (nightly["job"], nightly["state"], nightly["exit_code"]) == ("nightly", "failed", 3)
    assert nightly["problem"] == f"403 Forbidden: private, or needs credentials: kolla/{min(images)}:{TAG}"
    assert nightly["last_success"] < nightly["last_run"]
    assert nightly["usage"]["images"] == 3
    assert (never["state"], never["last_run"], never["age"]) == ("never ran", None, None)
    lines = table.splitlines()
    assert [line.split()[0] for line in lines] == ["job", "nightly", "403", "never"]
    rows = history("--config", str(tmp_path / "quaymirror.toml"))
    assert [(row["jobs"], row["target"]) for row in rows] == [(["nightly"], str(tmp_path / "mirror"))] * 2


async def test_the_status_names_what_matched_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry, _ = kolla(1)
    async with QuayServer(registry) as server:
        config = CONFIG.format(server=server.url, tag=f'{TAG}", "gone')
        (tmp_path / "quaymirror.toml").write_text(config)
        await run("run", "nightly", cwd=tmp_path, check=3, env={"QUAYMIRROR_SERVER": ""})
        monkeypatch.delenv("QUAYMIRROR_SERVER", raising=False)
        found = json.loads(shown("status", "--config", str(tmp_path / "quaymirror.toml"), "--json"))

    assert found[0]["problem"] == "nothing matches kolla/*:gone"


async def test_a_history_that_is_damaged_does_not_hide_the_other_jobs(tmp_path: Path) -> None:
    (tmp_path / "quaymirror.toml").write_text(CONFIG.format(server="https://quay.io", tag=TAG))
    home = tmp_path / "mirror" / ".quaymirror"
    home.mkdir(parents=True)
    (home / "history.db").write_bytes(b"no database at all" * 100)
    done = await run("status", cwd=tmp_path, check=2, env={"QUAYMIRROR_SERVER": ""})
    assert "is damaged" in done.stdout
    assert "never ran" in done.stdout


def test_a_history_of_an_earlier_format_is_readable_before_it_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / "history.db"
    connection, _ = open_database(path, Format(FORMAT.application_id, FORMAT.steps[:1]))
    run = past_run(1)
    columns = (run.id, run.subject, run.started, run.elapsed, run.exit_code, 1, json.dumps(run.images), 0)
    with closing(connection), connection:
        report = zlib.compress(b'{"run_id": "1"}')
        connection.execute(f"INSERT INTO run VALUES ({', '.join('?' * 9)})", (*columns, report))

    before = path.read_bytes()
    past, notice = History.open(tmp_path, read_only=True)
    with closing(past):
        assert notice is None
        assert past.runs() == [past_run(1)]
        assert past.report("00000001") == {"run_id": "1"}

    assert path.read_bytes() == before


def test_reports_stay_for_their_age_and_size_and_lines_for_good(tmp_path: Path) -> None:
    past, _ = History.open(tmp_path)
    with closing(past):
        for night in range(10):
            run = past_run(night, changes=ChangeCounts(1, 2, 3), usage=Usage(1, 2, 3), remark="look")
            past.record(run, {"night": night}, keep_seconds=5 * DAY)

        assert past.runs()[0] == run
        assert len(past.runs()) == 10
        assert [past.report(run.id) is not None for run in past.runs()] == [True] * 6 + [False] * 4
        noise = "".join(f"{number * 7919:x}" for number in range(300))
        for night in range(10, 13):
            past.record(past_run(night), {"noise": noise}, keep_bytes=1200)

        assert [run.id for run in past.runs() if past.report(run.id)] == ["0000000c"]


@pytest.mark.soak
def test_400_nights_take_bounded_space(tmp_path: Path) -> None:
    """Reports of 500 images each; once reports are deleted, only lines are added."""
    outcomes = [
        {"reference": f"quay.io/kolla/image-{number}:{TAG}", "digest": f"sha256:{number * 7919**9:064x}"[:71]}
        for number in range(500)
    ]
    job = Job((Selection("kolla"),), str(tmp_path / "mirror"), names=("nightly",))
    home = job.state_directory
    home.mkdir(parents=True)
    past, _ = History.open(home)
    sizes = []
    with closing(past):
        for night in range(400):
            run = past_run(night, jobs=("nightly",), exit_code=3 if night % 20 == 5 else 0)
            past.begin(run)
            if night % 50 != 7:
                past.record(run, {"outcomes": outcomes}, keep_seconds=100 * DAY)

            sizes.append((home / "history.db").stat().st_size)
            if night % 50 in (5, 7, 8):
                (status,) = job_statuses([job])
                assert status.state == {5: "failed" if night % 20 == 5 else "ok", 7: "killed", 8: "ok"}[night % 50]
                succeeded = night - {5: night % 20 == 5, 7: 1, 8: 0}[night % 50]
                assert status.last_success == past_run(succeeded).started + 60

        runs = past.runs()
        assert len(runs) == 400
        assert sum(not run.ended for run in runs) == 8
        assert sum(past.report(run.id) is not None for run in runs) in range(95, 102)

    # At most a page of the database per line.
    assert sizes[399] - sizes[110] <= 290 * 4096
