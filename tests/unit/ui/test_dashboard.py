"""Frames of the dashboard. After a change on purpose run WRITE_GOLDEN=1 pytest tests/unit/ui, and look."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from run_stories import HOSTILE, Run, runs
from scene import MIB, Clock, Scene, finished, image, run_started

from quaymirror import events
from quaymirror.events import Status
from quaymirror.oci import Digest
from quaymirror.progress.combined import CombinedProgress
from quaymirror.progress.rates import Speeds
from quaymirror.progress.run import RunProgress
from quaymirror.ui.dashboard import Dashboard, Frame, Screen, render
from quaymirror.ui.dashboard.controls import Controls

GOLDEN = Path(__file__).parent / "golden"
SIZES = st.tuples(st.integers(1, 220), st.integers(1, 60))


@pytest.fixture(autouse=True)
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show times in UTC."""
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "UTC")
        time.tzset()
        yield

    time.tzset()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def drawn(scene: Scene, width: int, height: int, *, ascii_only: bool = False) -> Frame:
    return render(
        scene.progress,
        scene.rates.speeds,
        width=width,
        height=height,
        now=scene.clock.now,
        ascii_only=ascii_only,
    )


def printed(frame: Frame, width: int, **options: object) -> str:
    """Return rich's output of a frame, and check that it has only the frame's content."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=100, _environ={}, **options)  # type: ignore[arg-type]
    console.print(frame, end="")
    return file.getvalue()


def check_golden(name: str, frame: Frame) -> None:
    text = "\n".join(line.rstrip() for line in frame.lines) + "\n"
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("WRITE_GOLDEN"):
        path.write_text(text, encoding="utf-8")

    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50), (40, 10)])
def test_a_frame_in_the_middle_of_a_run_looks_as_it_should(scene: Scene, width: int, height: int) -> None:
    check_golden(f"{width}x{height}", drawn(scene, width, height))


def test_a_frame_for_a_console_that_is_not_utf8_is_ascii(scene: Scene) -> None:
    frame = drawn(scene, 80, 24, ascii_only=True)

    assert all(line.isascii() for line in frame.lines)
    check_golden("80x24-ascii", frame)


def test_a_frame_before_anything_happened_is_whole() -> None:
    clock = Clock()
    frame = render(RunProgress(clock), Speeds(), width=80, height=24, now=clock.now)

    check_golden("80x24-start", frame)


def test_a_frame_of_several_jobs_names_them(scene: Scene) -> None:
    scene.progress.run = run_started(jobs=("nightly", "weekly"), selections=3)
    scene.progress.listings = scene.progress.complete_listings = 3

    check_golden("80x24-jobs", drawn(scene, 80, 24))


def test_a_frame_of_a_run_with_limits_shows_them(scene: Scene) -> None:
    scene.progress.run = run_started(limit_rate=20 * 1024 * 1024, max_requests_per_second=5.0)

    assert drawn(scene, 80, 24).lines[1].endswith("  at most 20.0 MiB/s, 5 requests/s")


def test_a_frame_shows_what_a_host_lets_pass_and_how_often_it_complained(scene: Scene) -> None:
    lines = drawn(scene, 120, 35).lines

    assert any(line.startswith(" host     quay.io   api 4.8/s, 4 at once ") for line in lines)
    assert any(line.startswith(" paused   cdn01") and line.endswith("1 pause, 3x 429") for line in lines)


def test_a_high_frame_has_a_row_for_each_worker_of_a_cluster(scene: Scene) -> None:
    for number in range(8):
        scene.progress.apply(events.WorkerReported(f"tcp://10.0.0.{number}:40001", number * MIB, brought=True))

    lines = drawn(scene, 120, 60).lines
    shown = [line for line in lines if line.startswith(" worker ")]
    assert len(shown) == 6
    assert shown[0].startswith(" worker   tcp://10.0.0.7:40001 ")
    assert shown[0].endswith(" 1 blob, 7.0 MiB")
    assert lines[lines.index(shown[-1]) + 1].strip() == "2 more"
    assert not any(line.startswith(" worker ") for line in drawn(scene, 80, 24).lines)


def test_a_host_that_was_paused_and_goes_on_is_not_shown_as_paused(scene: Scene) -> None:
    scene.progress.apply(events.HostResumed("cdn01.quay.io"))

    assert not any(line.startswith(" paused") for line in drawn(scene, 120, 35).lines)


def test_a_frame_while_the_run_is_stopping_says_so(scene: Scene) -> None:
    scene.progress.apply(events.StopRequested("Ctrl-C"))

    check_golden("80x24-stopping", drawn(scene, 80, 24))


@given(run=runs(hostile=True), size=SIZES, ascii_only=st.booleans(), transfers=st.integers(0, 40))
def test_no_frame_is_wider_or_higher_than_asked_for(
    run: Run, size: tuple[int, int], ascii_only: bool, transfers: int
) -> None:
    width, height = size
    scene = Scene(transfers=0, images=0)
    for event in run.events:
        scene.progress.apply(event)

    for number in range(transfers):
        scene.transfer(HOSTILE, number % 3 - 1, number * 10)

    frame = drawn(scene, width, height, ascii_only=ascii_only)
    scene.close()

    assert len(frame.lines) <= height
    assert all(cell_len(line) <= width for line in frame.lines)
    assert all(line.isprintable() for line in frame.lines)
    assert not ascii_only or all(line.isascii() for line in frame.lines)
    assert printed(frame, width) == "".join(f"{line}\n" for line in frame.lines)


def test_a_frame_uses_the_room_of_a_large_terminal() -> None:
    scene = Scene(transfers=60)
    frame = drawn(scene, 200, 50)
    scene.close()

    assert "60 transfers" in "\n".join(frame.lines)
    assert "not shown" not in "\n".join(frame.lines)


def test_one_failure_of_thousands_is_seen_in_the_bar() -> None:
    clock = Clock()
    progress = RunProgress(clock)
    for number in range(3_000):
        progress.apply(events.ImageStarted(image("x")))
        progress.apply(finished(image("x"), Status.MIRRORED if number else Status.FAILED))

    frame = render(progress, Speeds(), width=80, height=24, now=clock.now)
    assert "\x1b[31m━" in printed(frame, 80, force_terminal=True, color_system="standard")


def test_a_frame_costs_the_same_whether_60_images_or_3000_are_done() -> None:
    def calls(images: int) -> int:
        scene, count = Scene(transfers=20, images=0), 0
        for number in range(images):
            scene.progress.apply(events.ImageStarted(image(f"done-{number}")))
            scene.progress.apply(finished(image(f"done-{number}")))

        def profile(_frame: object, event: str, _argument: object) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        drawn(scene, 200, 50)
        sys.setprofile(profile)
        try:
            drawn(scene, 200, 50)
        finally:
            sys.setprofile(None)
            scene.close()

        return count

    assert calls(3_000) <= 1.1 * calls(60)


def test_no_color_is_respected(scene: Scene) -> None:
    text = printed(drawn(scene, 80, 24), 80, force_terminal=True, color_system="standard", no_color=True)

    assert "\x1b[31m" not in text
    assert "\x1b[2m" in text


def work(scene: Scene, name: str, *blobs: int, done: int = 0) -> None:
    """Let an image fetch `blobs` of these sizes, of which the first has arrived."""
    reference = image(name)
    scene.progress.apply(events.ImageStarted(reference))
    scene.progress.apply(events.ImagePlanned(reference, 9, 900 * MIB, 800 * MIB, len(blobs), sum(blobs)))
    scene.progress.apply(events.BlobFinished(Digest.of(b""), blobs[0], reference))
    for size in blobs[1:]:
        scene.transfer(reference.name, size, done)


def test_images_stay_in_the_order_in_which_they_began_with_their_layers() -> None:
    scene = Scene(transfers=0, images=0)
    scene.progress.apply(run_started())
    for name in ("nova", "a-name-that-is-much-too-long-for-its-column-in-a-narrow-frame", "etcd"):
        work(scene, name, 10 * MIB, 20 * MIB, 30 * MIB, done=5 * MIB)

    rows = drawn(scene, 80, 24).lines[-4:]
    scene.close()
    assert rows[0].split() == ["fetching", "3", "images,", "6", "transfers"]
    assert [row.split()[0] for row in rows[1:]] == ["nova", "a-name-th…row-frame", "etcd"]
    assert all(" 1 of 3 layers " in row and " 20.0 of 60.0 MiB" in row for row in rows[1:])


@pytest.mark.parametrize(("width", "is_whole"), [(60, False), (70, False), (80, True), (120, True)])
def test_an_image_in_a_narrow_frame_has_a_share_instead_of_parts_of_columns(width: int, is_whole: bool) -> None:
    scene = Scene(transfers=0, images=0)
    scene.progress.apply(run_started())
    work(scene, "nova", 10 * MIB, 20 * MIB, 30 * MIB, done=5 * MIB)
    row = next(row for row in drawn(scene, width, 24).lines if row.startswith(" nova "))
    scene.close()
    assert "…" not in row
    assert (" 1 of 3 layers " in row, row.rstrip().endswith(" 33%")) == (is_whole, not is_whole)


def test_an_image_that_brings_layers_of_others_only_has_their_size() -> None:
    scene = Scene(transfers=0, images=0)
    reference = image("nova-base")
    scene.progress.apply(events.ImageStarted(reference))
    scene.progress.apply(events.ImagePlanned(reference, 9, 900 * MIB, 0, 0, 0))
    scene.transfer(reference.name, 20 * MIB, 5 * MIB)

    row = drawn(scene, 120, 24).lines[-1]
    scene.close()
    assert "nova-base" in row
    assert " 5.0 of 20.0 MiB" in row


def test_several_jobs_have_a_line_each_below_their_sum() -> None:
    runs = [RunProgress(Clock()) for _ in range(3)]
    for name, run in zip(("nightly", "weekly"), runs, strict=False):
        run.apply(run_started(jobs=(name,)))
        run.apply(events.CandidateChecked("x", 4))
        run.apply(finished(image("x")))

    combined = CombinedProgress(runs)
    frame = render(combined.now(), Speeds(), width=80, height=24, now=1_000.0, runs=combined.runs)
    jobs = [line.split() for line in frame.lines if line.startswith((" nightly", " weekly", " waiting"))]
    assert [job[0] for job in jobs] == ["nightly", "weekly", "waiting"]
    assert jobs[0][2:5] == ["1", "of", "4+"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [({}, "nova"), ({"tag": "2025.1"}, "nova:2025.1-debian"), ({"organization": "other"}, "kolla/nova")],
)
def test_names_lose_what_the_images_of_all_jobs_have_in_common(changes: dict[str, str], name: str) -> None:
    scene = Scene(transfers=0, images=0)
    other = RunProgress(Clock())
    scene.progress.apply(run_started(jobs=("nightly",)))
    other.apply(run_started(jobs=("weekly",), **changes))
    work(scene, "nova", 10 * MIB, 20 * MIB)
    combined = CombinedProgress([scene.progress, other])
    frame = render(combined.now(), Speeds(), width=80, height=24, now=1_000.0, runs=combined.runs)

    scene.close()
    assert frame.lines[-1].split()[0] == name


@pytest.mark.parametrize("width", [80, 120])
def test_a_source_that_is_down_has_a_reason_and_no_eta(width: int) -> None:
    scene = Scene(transfers=0)
    for _ in range(3):
        scene.progress.apply(events.HostPaused("quay.io", 30.0, "quay.io: cannot connect: connection refused"))
        scene.clock.now += 30.0
        scene.rates.sample(scene.clock.now, scene.meters.fetched_bytes)

    scene.clock.now -= 20.0
    lines = drawn(scene, width, 24).lines
    assert any(
        line.startswith(" paused   quay.io  cannot connect: connection refused  since 14:25, ") for line in lines
    )
    assert any("next try in 20 s" in line for line in lines) == (width == 120)
    assert any(line.endswith("ETA          —") for line in lines)
    assert not any(line.startswith(" limit") for line in lines)
    assert " waiting  16 images in flight, 31 queued" in lines
    scene.close()


def test_a_tall_frame_shows_the_last_and_the_largest_images(scene: Scene) -> None:
    lines = drawn(scene, 120, 50).lines

    assert any(line.split() == ["recent"] for line in lines)
    assert any(line.startswith(" service-323  ") and "40.0 MiB fetched in 12 s" in line for line in lines)
    assert any(line.split() == ["largest"] for line in lines)
    assert not any(line.split() == ["recent"] for line in drawn(scene, 120, 30).lines)


@pytest.mark.parametrize("width", [120, 200])
def test_no_image_is_among_the_last_and_the_largest_ones(width: int) -> None:
    scene = Scene(transfers=0, images=0)
    for number in range(20):
        scene.progress.apply(finished(image(f"image-{number:02}"), fetched=number * MIB))
        lines = drawn(scene, width, 50).lines
        text = "\n".join(lines)

        names = re.findall(r"image-\d\d", text)

        assert len(names) == len(set(names))
        assert ("largest" in text) == (number >= 2)

    scene.close()
    assert any("recent" in line and "largest" in line for line in lines) == (width == 200)


@pytest.mark.parametrize(("width", "height"), [(40, 5), (40, 10), (80, 24), (200, 50)])
def test_a_run_that_stops_has_no_eta(scene: Scene, width: int, height: int) -> None:
    scene.progress.matched += 100
    lines = drawn(scene, width, height).lines
    assert any(" ETA " in line for line in lines)
    assert any(line.startswith(" limit") for line in lines) == (width >= 80)

    scene.progress.apply(events.StopRequested("Ctrl-C"))
    lines = drawn(scene, width, height).lines
    assert not any("ETA" in line or line.startswith(" limit") for line in lines)
    assert sum(line.endswith("  stopping") for line in lines) == 1


@pytest.mark.parametrize(
    ("speeds", "limit"),
    [
        (Speeds(19 * MIB, 19 * MIB), "your limit of 20.0 MiB/s"),
        (Speeds(0.0, 0.0, idle=20.0), "nothing received for 20 s"),
        (Speeds(5 * MIB, 5 * MIB), ""),
    ],
)
def test_what_limits_the_run_is_shown(scene: Scene, speeds: Speeds, limit: str) -> None:
    scene.progress.run = run_started(limit_rate=20 * MIB)
    frame = render(scene.progress, speeds, width=80, height=24, now=scene.clock.now)

    assert [line[10:] for line in frame.lines if line.startswith(" limit")] == ([limit] if limit else [])


def test_a_host_that_limits_the_checks_is_shown(scene: Scene) -> None:
    scene.progress.matched += 100

    assert " limit    the API of quay.io, 4.8 requests/s" in drawn(scene, 80, 24).lines


def test_a_stop_by_a_signal_says_how_long_it_takes(scene: Scene) -> None:
    scene.progress.apply(events.StopRequested("interrupted", by_signal=True))

    text = "up to 10 s for what is nearly done; Ctrl-C again stops now"
    assert f" stopping {text}" in drawn(scene, 80, 24).lines


def test_the_title_of_the_window_and_the_taskbar_show_the_progress() -> None:
    terminal = Terminal()
    progress = RunProgress(Clock())
    controls = Controls(terminal, {"TERM": "xterm-256color", "WT_SESSION": "1"})
    progress.apply(run_started(organization="kolla\x1b"))
    controls.begin()
    for _ in range(2):
        controls.show(progress)

    controls.end()
    title = "\x1b]2;quaymirror kolla\\x1b\x1b\\"
    taskbar = "\x1b]9;4;1;0\x1b\\"
    assert terminal.written == f"\x1b[22;2t{title}{taskbar}\x1b[23;2t\x1b]9;4;0\x1b\\"
    plain = Terminal()
    Controls(plain, {"TERM": "linux"}).show(progress)
    assert plain.written == ""


class Terminal(Console):
    def __init__(self, encoding: str = "utf-8") -> None:
        self.bytes = io.BytesIO()
        file = io.TextIOWrapper(self.bytes, encoding=encoding, write_through=True)
        super().__init__(file=file, width=80, height=24, force_terminal=True, _environ={})

    @property
    def written(self) -> str:
        return self.bytes.getvalue().decode(self.encoding)


async def test_drawing_ends_when_the_run_has_finished_and_gives_the_cursor_back() -> None:
    terminal = Terminal()
    progress = RunProgress(Clock())
    dashboard = Dashboard(CombinedProgress([progress]), console=terminal, clock=Clock())
    dashboard.PERIOD_SECONDS = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dashboard.run)
        await anyio.lowlevel.checkpoint()
        progress.apply(run_started())
        dashboard.print("a line \x1b[31m[/x] above")
        progress.apply(events.RunFinished(1.0, 0))

    assert "\x1b[?25l" in terminal.written
    assert "starting" in terminal.written
    assert "a line \\x1b[31m[/x] above" in terminal.written
    assert terminal.written.rindex("\x1b[?25h") > terminal.written.rindex("\x1b[?25l")


@pytest.mark.parametrize(("took", "pause"), [(0.002, 0.25), (0.015, 0.5), (0.5, 1.0)])
def test_frames_that_take_long_are_drawn_less_often(took: float, pause: float) -> None:
    dashboard = Dashboard(CombinedProgress([RunProgress(Clock())]), console=Terminal(), clock=Clock())

    assert dashboard.pause_after(took) == pytest.approx(pause)


async def test_drawing_that_is_cancelled_gives_the_cursor_back() -> None:
    terminal = Terminal()
    progress = RunProgress(Clock())
    dashboard = Dashboard(CombinedProgress([progress]), console=terminal, clock=Clock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dashboard.run)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert "\x1b[2K" in terminal.written.rpartition("\x1b[?25h")[2]


async def test_a_terminal_that_changed_its_size_is_cleared() -> None:
    terminal = Terminal()
    progress = RunProgress(Clock())
    dashboard = Dashboard(CombinedProgress([progress]), console=terminal, clock=Clock())
    dashboard.PERIOD_SECONDS = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dashboard.run)
        await anyio.lowlevel.checkpoint()
        assert "\x1b[2J" not in terminal.written
        terminal.size = (60, 20)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        progress.apply(events.RunFinished(1.0, 0))

    assert "\x1b[2J" in terminal.written


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_console_that_is_not_utf8_can_take_every_character(encoding: str) -> None:
    terminal = Terminal(encoding)
    progress = RunProgress(Clock())
    screen = Screen(terminal)
    progress.apply(run_started(target="/srv/größe/大"))
    screen.print("größe 大")
    terminal.print(screen.frame(progress, Speeds(), 0.0))

    assert "/srv/gr\\xf6\\xdfe/\\u5927" in terminal.written
    assert "gr\\xf6\\xdfe \\u5927" in terminal.written


async def test_nothing_is_drawn_where_there_is_no_terminal() -> None:
    file = io.StringIO()
    progress = RunProgress(Clock())
    dashboard = Dashboard(CombinedProgress([progress]), console=Console(file=file, _environ={}), clock=Clock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dashboard.run)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert file.getvalue() == ""


async def test_a_forced_colour_makes_no_terminal_of_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    progress = RunProgress(Clock())
    dashboard = Dashboard(CombinedProgress([progress]), clock=Clock())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(dashboard.run)
        await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()

    assert capsys.readouterr().err == ""
