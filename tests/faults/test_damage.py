"""Damaged mirrors: the next run repairs them, or names the obstacle."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import commands
import layouts
import pytest
from organizations import TAG, kolla, small_image
from trouble import GLANCE, NOVA, messages, mirror, two_images

import quaymirror
from quaymirror import Options, QuaymirrorError, Report, Selection, Status
from quaymirror.errors import ExitCode
from quaymirror.events import Event, Notice
from quaymirror.store import fsops
from quaymirror.testing import Delay, Fault, QuayServer, RequestRecord, Reset

STATE, HISTORY, INDEX = ".quaymirror/state.db", ".quaymirror/history.db", "index.json"
Harm = Callable[[Path], object]


def overwritten(content: bytes) -> Harm:
    return lambda path: path.write_bytes(content)


def zeroed(start: int, count: int) -> Harm:
    def harm(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[:start] + bytes(count) + content[start + count :])

    return harm


def halved(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_program(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE theirs (x)")

    connection.close()


def without_tables(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        names = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (name,) in names:
            if not name.startswith("sqlite_"):
                connection.execute(f'DROP TABLE "{name}"')

    connection.close()


def full_of_nonsense(path: Path) -> None:
    """Every text of every row is another one."""
    with sqlite3.connect(path) as connection:
        for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            for column in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
                if column[2] == "TEXT":
                    connection.execute(f'UPDATE OR IGNORE "{table}" SET "{column[1]}" = ?', ("\x1b[2J",))

    connection.close()


DATABASES: dict[str, Harm] = {
    "cut": halved,
    "a header of zeros": zeroed(0, 100),
    "a page of zeros": zeroed(4096, 4096),
    "noise": overwritten(b"\xa5" * 50_000),
    "of another program": of_another_program,
    "without its tables": without_tables,
    "other texts in its rows": full_of_nonsense,
    "empty": overwritten(b""),
    "gone": Path.unlink,
}


@pytest.mark.parametrize("file", [STATE, HISTORY], ids=["state", "history"])
@pytest.mark.parametrize("name", DATABASES)
async def test_a_damaged_database_costs_no_byte_of_a_blob(name: str, file: str, tmp_path: Path) -> None:
    path = tmp_path / "mirror"
    registry, images = kolla(6)
    async with QuayServer(registry) as server:
        await mirror(server, path)
        DATABASES[name](path / file)
        server.reset_records()
        report = await mirror(server, path)
        assert server.blob_bytes() == 0

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(layouts.names(path)) == len(images)


async def test_an_old_state_loses_no_image(tmp_path: Path) -> None:
    """A backup that was played back; the layout is newer."""
    path, registry = tmp_path / "mirror", two_images()
    async with QuayServer(registry) as server:
        await mirror(server, path)
        shutil.copy(path / STATE, tmp_path / "backup")
        registry.organization("kolla").repository("nova").push(TAG, small_image("newer"))
        registry.organization("kolla").repository("neutron").push(TAG, small_image("neutron"))
        await mirror(server, path, full_check_every=0.0)
        shutil.copy(tmp_path / "backup", path / STATE)
        server.reset_records()
        report = await mirror(server, path, full_check_every=0.0)
        assert server.blob_bytes() == 0

    assert report.exit_code is ExitCode.OK, messages(report)
    assert layouts.names(path)[NOVA] == small_image("newer").digest
    assert len(layouts.names(path)) == 3


async def test_a_state_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mirror"
    async with QuayServer(two_images()) as server:
        await mirror(server, path)
        with sqlite3.connect(path / STATE) as connection:
            connection.execute("PRAGMA user_version = 9999")

        connection.close()
        before = (path / STATE).read_bytes()
        words = ("sync", "kolla", "*", TAG, "--server", server.url)
        done = await commands.run(*words, cwd=tmp_path, check=2)

    assert "was written by a newer quaymirror" in done.stderr
    assert (path / STATE).read_bytes() == before


@pytest.mark.parametrize("damage", ["gone", "cut", "longer", "other bytes"])
async def test_a_blob_that_the_state_knows_but_that_is_missing_or_wrong_is_fetched(damage: str, tmp_path: Path) -> None:
    """A run notices wrong sizes; wrong bytes are found by verify."""
    path = tmp_path / "mirror"
    async with QuayServer(two_images()) as server:
        await mirror(server, path)
        blob = path / "blobs/sha256" / small_image("nova", 400_000).blobs[1].digest.partition(":")[2]
        content = blob.read_bytes()
        blob.chmod(0o644)
        if damage == "gone":
            blob.unlink()
        else:
            blob.write_bytes({"cut": content[:9], "longer": content + b"x"}.get(damage, content[:-1] + b"\x00"))

        words = ("verify", "mirror", "--repair", "--server", server.url)
        if damage == "other bytes":
            await commands.run(*words, cwd=tmp_path, check=0)
        else:
            report = await mirror(server, path)
            assert report.exit_code is ExitCode.OK, messages(report)

    assert blob.read_bytes() == content
    layouts.check(path)


INDEXES: dict[str, Harm] = {
    "cut": halved,
    "empty": overwritten(b""),
    "gone": Path.unlink,
    "noise": overwritten(b"\xff\xfe\x00" * 1000),
    "another document": overwritten(b'{"manifests": {"a": 1}}'),
    "very deep": overwritten(b"[" * 500_000),
    "NaN": overwritten(b'{"schemaVersion": NaN, "manifests": []}'),
    "a number that has no end": overwritten(b'{"schemaVersion": ' + b"9" * 10_000 + b', "manifests": []}'),
    "no entries": overwritten(b'{"schemaVersion": 2, "manifests": []}'),
}


@pytest.mark.parametrize("state", ["good", "gone"])
@pytest.mark.parametrize("name", INDEXES)
async def test_a_damaged_index_costs_no_byte_of_a_blob(name: str, state: str, tmp_path: Path) -> None:
    """With the state or without it."""
    path = tmp_path / "mirror"
    async with QuayServer(two_images()) as server:
        await mirror(server, path)
        INDEXES[name](path / INDEX)
        if state == "gone":
            (path / STATE).unlink()

        server.reset_records()
        report = await mirror(server, path, full_check_every=0.0)
        assert server.blob_bytes() == 0

    assert report.exit_code is ExitCode.OK, messages(report)
    assert {*layouts.names(path)} == {NOVA, GLANCE}


async def test_index_entries_of_another_tool_stay_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "mirror"
    theirs: dict[str, Any] = {
        "mediaType": "application/x",
        "digest": small_image("theirs").digest,
        "size": 5,
        "annotations": {"org.opencontainers.image.ref.name": "latest", "x": "\u202e"},
        "odd": [None, 1.5, {"deep": []}],
    }
    async with QuayServer(registry := two_images()) as server:
        await mirror(server, path)
        document = json.loads((path / INDEX).read_text())
        document["manifests"] += [theirs, {"digest": 5}, {}]
        document["annotations"] = {"kept": "by us"}
        (path / INDEX).write_text(json.dumps(document))
        registry.organization("kolla").repository("neutron").push(TAG, small_image("neutron"))
        await mirror_only(server, path)
        after = json.loads((path / INDEX).read_text())

    assert after["annotations"] == {"kept": "by us"}
    assert [entry for entry in after["manifests"] if entry in (theirs, {"digest": 5}, {})] == [
        theirs,
        {"digest": 5},
        {},
    ]
    assert len(after["manifests"]) == 6


async def mirror_only(server: QuayServer, path: Path, **options: Any) -> None:
    """Mirror, where the layout holds more than can be checked."""
    report = await quaymirror.sync(Selection("kolla", "*", TAG), path, Options.of(server=server.url, **options))
    assert report.exit_code is ExitCode.OK, messages(report)


async def test_a_backup_that_reads_the_state_for_a_while_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "mirror"
    async with QuayServer(registry := two_images()) as server:
        await mirror(server, path)
        registry.organization("kolla").repository("neutron").push(TAG, small_image("neutron"))
        connection = sqlite3.connect(path / STATE, isolation_level=None, check_same_thread=False)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        waiting = threading.Timer(1.0, lambda: connection.execute("COMMIT"))
        waiting.start()
        try:
            report = await mirror(server, path)
        finally:
            waiting.join()
            connection.close()

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(layouts.names(path)) == 3


# Other objects in place of directories and files


def instead(make: Harm) -> Harm:
    """Replace a path by another object."""

    def harm(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

        make(path)

    return harm


A_BLOB = f"blobs/sha256/{small_image('nova', 400_000).blobs[1].digest.partition(':')[2]}"
IN_THE_WAY: dict[str, tuple[str, Harm]] = {
    "a directory for the index": (INDEX, instead(Path.mkdir)),
    "a pipe for the index": (INDEX, instead(os.mkfifo)),
    "a directory for the state": (STATE, instead(Path.mkdir)),
    "a pipe for the state": (STATE, instead(os.mkfifo)),
    "a pipe for the history": (HISTORY, instead(os.mkfifo)),
    "a link for the lock": (".quaymirror/lock", instead(lambda path: path.symlink_to("/dev/null"))),
    "a file for the blobs": ("blobs", instead(overwritten(b"x"))),
    "a file for our directory": (".quaymirror", instead(overwritten(b"x"))),
    "a link to nowhere for our directory": (".quaymirror", instead(lambda path: path.symlink_to("/nowhere"))),
    "a directory in a blob's place": (A_BLOB, instead(Path.mkdir)),
    "a pipe in a blob's place": (A_BLOB, instead(os.mkfifo)),
    "another version": ("oci-layout", overwritten(b'{"imageLayoutVersion": "9.9.9"}')),
    "no version": ("oci-layout", overwritten(b"\x00")),
}


@pytest.mark.parametrize("name", IN_THE_WAY)
async def test_a_file_that_is_in_the_way_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    """It is not ours to remove."""
    where, harm = IN_THE_WAY[name]
    async with QuayServer(two_images()) as server:
        await mirror(server, tmp_path / "mirror")
        harm(tmp_path / "mirror" / where)
        words = ("sync", "kolla", "*", TAG, "--server", server.url, "--progress", "plain", "--full-check")
        done = await commands.run(*words, cwd=tmp_path)

    assert done.returncode in (2, 6, 8), done.stderr
    assert "mirror" in done.stderr.splitlines()[-1]


async def test_blobs_on_another_file_system_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs appear atomically by a rename, which copying can't replace."""
    honest = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if "blobs" in Path(target).parts:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

        return honest(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    async with QuayServer(two_images()) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.STORAGE
    assert "cross-device" in messages(report)[-1]
    assert not [path for path in (tmp_path / "mirror/blobs").rglob("*") if path.is_file()]


async def test_a_file_system_without_modes_and_directory_syncs_is_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As shares of other systems are, and files that another user began."""
    honest = fsops.step

    def step(name: str, path: Path) -> Any:
        if name == "chmod":
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        if name == "fsync" and path.is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

        return honest(name, path)

    monkeypatch.setattr(fsops, "step", step)
    async with QuayServer(two_images()) as server:
        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)


CODES = [errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO, errno.ENOSPC, errno.EMFILE]
OPERATIONS = ["open", "fsync", "rename", "mkdir", "chmod"]


@pytest.mark.parametrize(
    ("operation", "code"), [*(("write", code) for code in CODES), *((each, errno.EIO) for each in OPERATIONS)]
)
async def test_after_any_disk_error_the_run_ends_with_6_and_the_next_one_completes(
    operation: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, count = fsops.step, iter(range(1_000_000))

    def step(name: str, path: Path) -> Any:
        if name == operation and next(count) >= (0 if operation == "mkdir" else 5):
            raise OSError(code, os.strerror(code))

        return honest(name, path)

    registry, images = kolla(4)
    async with QuayServer(registry) as server:
        with monkeypatch.context() as patch:
            patch.setattr(fsops, "step", step)
            assert await code_of(mirror(server, tmp_path / "mirror")) is ExitCode.STORAGE

        report = await mirror(server, tmp_path / "mirror")

    assert report.exit_code is ExitCode.OK, messages(report)
    assert len(layouts.names(tmp_path / "mirror")) == len(images)


async def code_of(run: Awaitable[Report]) -> ExitCode:
    """Return the exit code of a run, or that of the error that kept it from starting."""
    try:
        return (await run).exit_code
    except QuaymirrorError as error:
        return error.exit_code


async def test_partial_files_of_a_crash_are_continued_or_deleted(tmp_path: Path) -> None:
    path, image = tmp_path / "mirror", small_image("nova", 3_000_000)
    encoded = image.blobs[1].digest.partition(":")[2]
    async with QuayServer(two_images(image)) as server:
        await mirror(server, path)
        (blob,) = path.glob(f"blobs/sha256/{encoded}")
        content = blob.read_bytes()
        directory = next(each for each in (path / ".quaymirror").iterdir() if each.is_dir())
        blob.unlink()
        (directory / f"sha256-{encoded}").write_bytes(content[:1_000_000])
        (directory / "sha256-zz").write_bytes(b"noise")
        (directory / "\udcff").write_bytes(b"noise") if sys.getfilesystemencoding() == "utf-8" else None
        report = await mirror(server, path)

    assert report.exit_code is ExitCode.OK, messages(report)
    assert blob.read_bytes() == content


async def test_a_strict_umask_and_read_only_blobs_are_supported(tmp_path: Path) -> None:
    path = tmp_path / "mirror"
    before = os.umask(0o077)
    try:
        async with QuayServer(registry := two_images()) as server:
            await mirror(server, path)
            for blob in (path / "blobs/sha256").iterdir():
                blob.chmod(0o400)

            registry.organization("kolla").repository("neutron").push(TAG, small_image("neutron"))
            report = await mirror(server, path)
    finally:
        os.umask(before)

    assert report.exit_code is ExitCode.OK, messages(report)
    assert not any(stat.S_IMODE(blob.stat().st_mode) & 0o222 for blob in (path / "blobs/sha256").iterdir())


async def test_a_mirror_that_is_moved_during_a_run_is_not_created_again(tmp_path: Path) -> None:
    """Half of it would be in each."""
    path = tmp_path / "mirror"
    registry, _ = kolla(12)

    def move(request: RequestRecord) -> None:
        if request.listener == "cdn" and path.exists() and not (tmp_path / "moved").exists():
            path.rename(tmp_path / "moved")

    async with QuayServer(registry, on_request=move) as server:
        settings = Options.of(server=server.url, concurrency=2)
        run = quaymirror.sync(Selection("kolla", "*", TAG), path, settings)
        assert await code_of(run) is ExitCode.STORAGE
        layouts.check(tmp_path / "moved")
        again = await mirror(server, tmp_path / "moved")

    assert again.exit_code is ExitCode.OK


# Clocks and signals


@pytest.mark.parametrize("jump", [-86_400.0, 10 * 365 * 86_400.0], ids=["a day back", "ten years"])
async def test_a_clock_that_jumps_during_a_run_changes_nothing(
    jump: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waits and lifetimes go by the other clock."""
    honest, jumped = time.time, list[int]()
    monkeypatch.setattr(time, "time", lambda: honest() + (jump if jumped else 0.0))
    registry, images = kolla(6)
    async with QuayServer(registry, require_token=True) as server:
        server.on_request = lambda request: jumped.append(1) if "/manifests/" in request.path else None
        report = await mirror(server, tmp_path / "mirror")
        assert report.exit_code is ExitCode.OK, messages(report)
        again = await mirror(server, tmp_path / "mirror")

    assert again.counts[Status.UNCHANGED] == len(images)


async def test_a_closed_terminal_ends_the_run_as_other_signals_do(tmp_path: Path) -> None:
    """SIGHUP ends a run; complete images stay."""
    registry, images = kolla(8)
    async with QuayServer(registry) as server:
        server.faults.append(Fault("", Delay(0.3), listener="cdn"))
        asked = anyio.Event()
        server.on_request = lambda request: asked.set() if request.listener == "cdn" else None
        command = [sys.executable, "-X", "dev", "-m", "quaymirror", "sync", "kolla", "*", TAG, "--server", server.url]
        async with await anyio.open_process(command, cwd=tmp_path, stdout=None, stderr=subprocess.PIPE) as process:
            with anyio.fail_after(40):
                await asked.wait()
                process.send_signal(signal.SIGHUP)
                assert process.stderr is not None
                text = "".join([chunk.decode() async for chunk in process.stderr])
                code = await process.wait()

        server.on_request = None
        server.faults.clear()
        layouts.check(tmp_path / "mirror")
        assert (await mirror(server, tmp_path / "mirror")).exit_code is ExitCode.OK

    assert code in (129, 143), text
    assert "Traceback" not in text
    assert len(layouts.names(tmp_path / "mirror")) == len(images)


async def test_an_interrupt_with_many_transfers_in_flight_leaves_nothing_open(tmp_path: Path) -> None:
    """Python's development mode reports every resource that is never closed or awaited."""
    registry, _ = kolla(30, layer_size=200_000)
    async with QuayServer(registry) as server:
        # The first answers show a CDN that is far away, from which many blobs come at a time.
        server.faults.append(Fault("", Delay(0.05), listener="cdn", nth=range(1, 9)))
        server.faults.append(Fault("", Delay(5), listener="cdn", nth=range(9, 500)))
        asked = anyio.Event()
        server.on_request = lambda request: (
            asked.set() if request.listener == "cdn" and server.count("", listener="cdn") > 30 else None
        )
        words = ["-X", "dev", "-W", "default", "-m", "quaymirror", "sync", "kolla", "*", TAG, "--server", server.url]
        command = [sys.executable, *words, "-c", "32", "--layer-concurrency", "32", "--progress", "plain"]
        async with await anyio.open_process(command, cwd=tmp_path, stdout=None, stderr=subprocess.PIPE) as process:
            with anyio.fail_after(40):
                await asked.wait()
                process.send_signal(signal.SIGINT)
                assert process.stderr is not None
                text = ""
                async for chunk in process.stderr:
                    text += chunk.decode()
                    if text.count("stopping") == 1:
                        process.send_signal(signal.SIGINT)

                code = await process.wait()

    assert code == 130, text
    for word in ("Traceback", "never retrieved", "ResourceWarning", "never awaited", "Unclosed"):
        assert word not in text, text

    layouts.check(tmp_path / "mirror")


async def test_notices_of_damage_are_lines(tmp_path: Path) -> None:
    notices: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Notice):
            notices.append(event.message)

    async with QuayServer(two_images()) as server:
        await mirror(server, tmp_path / "mirror")
        (tmp_path / "mirror" / STATE).write_bytes(b"\x1b[2J" * 1000)
        (tmp_path / "mirror" / INDEX).write_bytes(b"\x1b[2J" * 1000)
        await mirror(server, tmp_path / "mirror", note)

    assert any("set aside" in notice for notice in notices)
    assert all(notice.isprintable() for notice in notices)


async def test_a_suspended_run_continues(tmp_path: Path) -> None:
    """Connections are dead and tokens have expired by then."""
    registry, images = kolla(8, layer_size=200_000)
    async with QuayServer(registry, require_token=True) as server:
        asked, gone = anyio.Event(), Fault("", Reset(), times=3)
        server.on_request = lambda request: asked.set() if request.listener == "cdn" else None
        command = [sys.executable, "-m", "quaymirror", "sync", "kolla", "*", TAG, "--server", server.url]
        async with await anyio.open_process(command, cwd=tmp_path, stdout=None, stderr=subprocess.PIPE) as process:
            with anyio.fail_after(40):
                await asked.wait()
                process.send_signal(signal.SIGSTOP)
                # The server drops all connections and tokens.
                await server.close()
                server.on_request = None
                server.faults.append(gone)
                await server.open()
                process.send_signal(signal.SIGCONT)
                assert process.stderr is not None
                text = "".join([chunk.decode() async for chunk in process.stderr])
                code = await process.wait()

    assert code == 0, text
    assert len(layouts.names(tmp_path / "mirror")) == len(images)


async def test_a_child_that_outlives_the_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A credential helper may leave something behind that has all files open that it was given."""
    helper = tmp_path / "docker-credential-daemon"
    helper.write_text(
        "#!/bin/sh\nsleep 30 >/dev/null 2>&1 </dev/null & echo $! > " + str(tmp_path / "pid") + "\n"
        "echo 'credentials not found in native keychain'; exit 1\n"
    )
    helper.chmod(0o755)
    authfile = tmp_path / "auth.json"
    async with QuayServer(two_images(), require_token=True) as server:
        authfile.write_text(json.dumps({"credHelpers": {server.host: "daemon"}}))
        options: dict[str, Any] = {
            "authfile": authfile,
            "environment": {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path)},
            "full_check_every": 0.0,
        }
        try:
            first = await mirror(server, tmp_path / "mirror", **options)
            again = await mirror(server, tmp_path / "mirror", **options)
        finally:
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)

    assert first.exit_code is again.exit_code is ExitCode.OK, messages(first) + messages(again)


async def test_a_slow_disk_delays_only_the_tasks_that_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop does not wait for syncs."""
    honest, slow = fsops.step, threading.Event()
    lags: list[float] = []

    def step(name: str, path: Path) -> Any:
        if name == "fsync":
            slow.wait(0.2)

        return honest(name, path)

    async def look() -> None:
        while True:
            before = time.monotonic()
            await anyio.sleep(0.01)
            lags.append(time.monotonic() - before - 0.01)

    async with QuayServer(two_images(small_image("nova", 3_000_000))) as server, anyio.create_task_group() as tasks:
        monkeypatch.setattr(fsops, "step", step)
        tasks.start_soon(look)
        report = await mirror(server, tmp_path / "mirror")
        tasks.cancel_scope.cancel()

    assert report.exit_code is ExitCode.OK, messages(report)
    assert sorted(lags)[int(len(lags) * 0.9)] < 0.1
