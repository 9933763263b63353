"""Mirrors in object stores, beside a server in this process."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.to_thread
import bucket
import layouts
import pytest
import serving
from bucket import S3Server
from commands import Done, run
from obstore import exceptions
from organizations import TAG, kolla, small_image
from threads_filling import fill_in_thread

import quaymirror
from quaymirror import Options, Report, Selection, Status
from quaymirror.carry.export import ExportOptions, export_mirror
from quaymirror.errors import (
    BucketDenied,
    BucketFailed,
    ConfigError,
    DigestMismatch,
    ExitCode,
    LockHeld,
    SelectionEmpty,
    StoreError,
)
from quaymirror.oci import Descriptor, Digest
from quaymirror.run.paths import layout_path
from quaymirror.run.pruning import prune_layout
from quaymirror.run.snapshots import list_snapshots
from quaymirror.selection.bucket import parse_bucket
from quaymirror.store import bucket_sink
from quaymirror.store.bucket import BucketStorage
from quaymirror.store.objects import Objects
from quaymirror.store.places import open_bucket
from quaymirror.store.storage import blob_key
from quaymirror.testing import QuayServer

MIRROR = "s3://mirrors/kolla"


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    with bucket.s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)

        yield server


def options(server: QuayServer, home: Path) -> Options:
    return Options.of(server=server.url, state=home / "state")


async def sync(server: QuayServer, home: Path, *, to: str = MIRROR) -> Report:
    return await quaymirror.sync(Selection("kolla", "*", TAG), to, options(server, home))


async def command(server: QuayServer, home: Path, *, to: str = MIRROR, check: int = 0) -> Done:
    words = ("sync", "kolla", "*", TAG, "--server", server.url, "--to", to, "--state", "state", "--progress", "plain")
    return await run(*words, cwd=home, check=check)


def names(s3: S3Server) -> set[str]:
    index = json.loads(s3.get("kolla/index.json") or b"{}")
    return {entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]}


async def test_a_mirror_is_written_and_a_quiet_night_asks_the_bucket_once(tmp_path: Path, s3: S3Server) -> None:
    registry, images = kolla(2)
    async with QuayServer(registry) as server:
        await command(server, tmp_path)
        assert names(s3) == {f"kolla/{name}:{TAG}" for name in images}
        assert all(digest == path.rpartition("/")[2] for path, digest in s3.hashes.items() if "/blobs/sha256/" in path)
        s3.requests.clear()
        await command(server, tmp_path)
        assert [method for method, _ in s3.requests] == ["GET"], s3.requests


def lock_of(s3: S3Server) -> dict[str, object]:
    found: dict[str, object] = json.loads(s3.get("kolla/.quaymirror/lock") or b"{}")
    return found


def hold_lock(s3: S3Server, *, renewed: float) -> None:
    """Let another machine hold the lock, which it last renewed at `renewed`."""
    held = {"writer": "theirs", "host": "elsewhere", "pid": 7, "renewed": renewed}
    s3.put("kolla/.quaymirror/lock", json.dumps({**lock_of(s3), **held}).encode())


async def test_commands_take_the_address_where_they_take_a_path(tmp_path: Path, s3: S3Server) -> None:
    registry, images = kolla(2)
    async with QuayServer(registry) as server:
        given = options(server, tmp_path)
        report = await sync(server, tmp_path)
        assert report.exit_code == ExitCode.OK

    found = await quaymirror.verify(MIRROR, given)
    assert (found.images, found.damages) == (len(images), ())
    report = await quaymirror.push(MIRROR, tmp_path / "copy", given)
    assert report.counts[Status.MIRRORED] == len(images)
    assert (await quaymirror.verify(str(tmp_path / "copy"), given)).damages == ()
    root = await anyio.to_thread.run_sync(layout_path, MIRROR, given)
    plan = await prune_layout(root, given.prune, dry_run=False)
    assert plan.is_empty
    assert [each.snapshot.images for each in await list_snapshots(root)] == [len(images)]
    exported = await export_mirror(root, tmp_path / "out")
    assert len(exported.files) == 1
    with pytest.raises(SelectionEmpty, match=f"no image in {MIRROR} matches kolla/none"):
        await export_mirror(root, tmp_path / "none", ExportOptions(select=("kolla/none",)))


async def test_a_bucket_is_served_and_new_images_appear_without_a_restart(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("quaymirror.serve.serving._REFRESH_SECONDS", 0.02)
    registry, images = kolla(1)
    (name, image), newer = next(iter(images.items())), small_image("newer")
    async with QuayServer(registry) as server:
        await sync(server, tmp_path)
        async with serving.served(MIRROR, state=tmp_path / "state") as client:
            answer = await client.get(f"/v2/kolla/{name}/manifests/{TAG}")
            assert (answer.status, answer.body) == (200, image.raw)
            assert (await client.get(f"/v2/kolla/{name}/tags/list")).json["tags"] == [TAG]
            for digest, blob in image.all_blobs().items():
                path = f"/v2/kolla/{name}/blobs/{digest}"
                assert (await client.get(path)).body == blob.data
                part = await client.get(path, Range="bytes=1-10")
                assert (part.status, part.body) == (206, blob.data[1:11])

            registry.organization("kolla").repository("new").push(TAG, newer)
            await sync(server, tmp_path)
            assert (await client.until(f"/v2/kolla/new/manifests/{TAG}", 200)).body == newer.raw


async def test_commands_of_snapshots_use_the_state_of_the_sync(tmp_path: Path, s3: S3Server) -> None:
    registry, images = kolla(2)
    moved = f"kolla/{min(images)}:{TAG}"
    elsewhere = {"XDG_STATE_HOME": str(tmp_path / "elsewhere")}

    async def at(*words: str) -> Done:
        return await run(words[0], MIRROR, *words[1:], "--state", "state", cwd=tmp_path, env=elsewhere, check=0)

    async with QuayServer(registry) as server:
        await command(server, tmp_path)
        registry.organization("kolla").repository(min(images)).push(TAG, small_image("newer"))
        await command(server, tmp_path)

    assert [each["images"] for each in json.loads((await at("snapshots", "--json")).stdout)] == [2, 2]
    assert (await at("diff")).stdout == f"moved  {moved}\n"
    assert (await at("rollback", "--to", "previous")).stdout == f"{moved}\n"
    index = json.loads(s3.get("kolla/index.json") or b"{}")
    assert {each["digest"] for each in index["manifests"]} == {image.digest for image in images.values()}
    assert len(json.loads((await at("hold", "--json")).stdout)) == 2
    assert len((await at("unhold", "*:*")).stdout.splitlines()) == 2
    listed = {each["digest"] for each in json.loads((await at("list", "--at", "previous", "--json")).stdout)}
    assert small_image("newer").digest in listed
    await at("push", str(tmp_path / "copy"), "--at", "previous")
    assert small_image("newer").digest in layouts.names(tmp_path / "copy").values()
    await at("remove", moved, "--yes")
    await at("export", "--to", "out", "--at", "previous")
    await at("info", moved, "--at", "previous")
    assert not (tmp_path / "elsewhere").exists(), "another state was made"
    done = await run("checkout", MIRROR, "latest", cwd=tmp_path, env=elsewhere, check=2)
    assert "checkout needs a mirror in a directory" in done.stderr


async def test_a_machine_without_state_gets_the_copy_and_fetches_nothing_again(tmp_path: Path, s3: S3Server) -> None:
    registry, images = kolla(2)
    async with QuayServer(registry) as server:
        for name in ("first", "second"):
            report = await sync(server, tmp_path / name)

    assert (report.counts[Status.UNCHANGED], report.bytes_fetched) == (len(images), 0)
    assert lock_of(s3)["writer"] == ""


async def test_a_lock_of_another_machine_is_respected_until_it_is_stale(tmp_path: Path, s3: S3Server) -> None:
    registry, images = kolla(2)
    hold_lock(s3, renewed=time.time())
    s3.put(
        "kolla/.quaymirror/lock",
        json.dumps({"lock_version": 1, "session": "s", "copy": "", "started": 0.0, **lock_of(s3)}).encode(),
    )
    async with QuayServer(registry) as server:
        with pytest.raises(LockHeld, match=r"in use by another run \(process 7 on 'elsewhere'"):
            await sync(server, tmp_path)

        assert s3.get("kolla/index.json") is None
        hold_lock(s3, renewed=time.time() - 601)
        await sync(server, tmp_path)

    assert names(s3) == {f"kolla/{name}:{TAG}" for name in images}
    assert lock_of(s3)["writer"] == ""


async def test_a_writer_that_lost_its_lock_writes_nothing_more(tmp_path: Path, s3: S3Server) -> None:
    storage = open_bucket(tmp_path, parse_bucket(MIRROR))

    async def overtaken() -> None:
        async with storage.writing(None):
            await anyio.to_thread.run_sync(storage.put, "first", b"1")
            hold_lock(s3, renewed=time.time())

    with pytest.raises(StoreError, match="another run took the lock"):
        await overtaken()

    moments = [0.0]
    slow = BucketStorage(tmp_path / "slow", Objects.at(parse_bucket(f"{MIRROR}/slow")), monotonic=lambda: moments[0])

    async def stopped() -> None:
        async with slow.writing(None):
            moments[0] = 301.0
            await anyio.to_thread.run_sync(slow.put, "second", b"2")

    with pytest.raises(StoreError, match="could not be renewed"):
        await stopped()

    assert s3.get("kolla/slow/second") is None


async def test_an_index_that_another_program_changed_is_not_overwritten(tmp_path: Path, s3: S3Server) -> None:
    registry, _ = kolla(2)
    async with QuayServer(registry) as server:
        await sync(server, tmp_path)
        registry.organization("kolla").repository("nova").push(TAG, small_image("nova"))
        theirs = b'{"schemaVersion": 2, "manifests": []}'
        s3.put("kolla/index.json", theirs)
        report = await sync(server, tmp_path)
        assert "was changed by another program" in str(report.fatal)
        assert s3.get("kolla/index.json") == theirs
        await sync(server, tmp_path)

    assert len(names(s3)) == 3


async def test_a_store_that_ignores_conditions_is_refused_before_anything_is_written(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.ignores_conditions = True
    registry, images = kolla(1)
    async with QuayServer(registry) as server:
        with pytest.raises(ConfigError, match="ignores conditions"):
            await sync(server, tmp_path)

        written = [path for method, path in s3.requests if method == "PUT"]
        assert written
        assert all(path.startswith("/mirrors/kolla/.quaymirror/probe-") for path in written)
        await sync(server, tmp_path, to=f"{MIRROR}?locks=none")

    assert len(names(s3)) == len(images)


async def test_a_blob_that_a_thread_received_is_stored_without_another_one_as_long_as_the_lock_is_held(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments = [0.0]
    objects = Objects.at(parse_bucket(MIRROR))
    storage = BucketStorage(tmp_path, objects, clock=time.time, monotonic=lambda: moments[0])

    async def bring(content: bytes) -> None:
        node = Descriptor("application/octet-stream", Digest.of(content), len(content))
        async with storage.sink(node) as sink:
            await sink.prepare()
            await fill_in_thread(sink.threaded(), content)
            with monkeypatch.context() as patched:
                if not moments[0]:
                    patched.setattr(anyio.to_thread, "run_sync", None)

                await sink.commit()

    async def overdue() -> None:
        async with storage.writing(None):
            await bring(b"1" * 2_000_000)
            moments[0] = 301.0
            await bring(b"2" * 2_000_000)

    with pytest.raises(StoreError, match="could not be renewed"):
        await overdue()

    assert s3.get(f"kolla/{blob_key(Digest.of(b'1' * 2_000_000))}") is not None
    assert s3.get(f"kolla/{blob_key(Digest.of(b'2' * 2_000_000))}") is None


async def test_a_run_that_is_cancelled_does_not_wait_for_a_store_that_does_not_answer(
    tmp_path: Path, s3: S3Server
) -> None:
    asked, released, has_ended = threading.Event(), threading.Event(), False

    def hold(*_: str) -> int:
        asked.set()
        return 0 if released.wait(10) else 503

    async def write() -> None:
        nonlocal has_ended
        try:
            async with open_bucket(tmp_path, parse_bucket(MIRROR)).writing(None):
                raise AssertionError("the lock should not be known yet")
        finally:
            has_ended = not released.is_set()

    s3.fault = hold
    try:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(write)
                await anyio.to_thread.run_sync(asked.wait, 4)
                tasks.cancel_scope.cancel()
    finally:
        released.set()

    assert has_ended


@pytest.mark.parametrize("in_thread", [False, True], ids=["in the event loop", "in a thread"])
async def test_a_large_blob_is_visible_only_if_its_digest_is_right(
    tmp_path: Path, s3: S3Server, *, in_thread: bool
) -> None:
    content = bytes(range(256)) * (40_000 + 1)
    node = Descriptor("application/octet-stream", Digest.of(content), len(content))
    storage = open_bucket(tmp_path, parse_bucket(MIRROR))
    async with storage.writing(None):
        for wrong in (True, False):
            async with storage.sink(node) as sink:
                await sink.prepare()
                sent = content[:-1] + b"?" if wrong else content
                if in_thread:
                    await fill_in_thread(sink.threaded(), sent)
                else:
                    for start in range(0, len(content), 300_000):
                        await sink.write(sent[start : start + 300_000])

                if wrong:
                    with pytest.raises(DigestMismatch):
                        await sink.commit()

                    assert s3.get(f"kolla/{blob_key(node.digest)}") is None
                else:
                    await sink.commit()

    assert s3.get(f"kolla/{blob_key(node.digest)}") == content
    assert b"<UploadId>" not in s3.ask("GET", f"/{bucket.BUCKET}?uploads")[1]
    await anyio.to_thread.run_sync(_read_parts, storage, blob_key(node.digest), content)


async def test_an_upload_that_is_cancelled_while_a_thread_receives_leaves_nothing_behind(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_sink, "SMALL_BYTES", 1024)
    monkeypatch.setattr(bucket_sink, "_PART_BYTES", 1024 * 1024)
    monkeypatch.setattr(bucket_sink, "_MOST_CONCURRENCY", 1)
    content = bytes(6 * 1024 * 1024)
    node = Descriptor("application/octet-stream", Digest.of(content), len(content))
    storage = open_bucket(tmp_path, parse_bucket(MIRROR))
    held, released = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> int:
        if method == "PUT" and path.endswith(node.digest.encoded):
            held.set()
            released.wait(10)
            return 503

        return 0

    async def bring() -> None:
        async with storage.sink(node) as sink:
            await sink.prepare()
            await fill_in_thread(sink.threaded(), content)
            raise AssertionError("the upload should wait for the first part")

    async with storage.writing(None):
        s3.fault = hold
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(bring)
            await anyio.to_thread.run_sync(held.wait, 10)
            tasks.cancel_scope.cancel()
            released.set()

        s3.fault = lambda *_: 0

    assert s3.get(f"kolla/{blob_key(node.digest)}") is None
    assert b"<UploadId>" not in s3.ask("GET", f"/{bucket.BUCKET}?uploads")[1]


async def test_large_blobs_leave_a_part_of_the_memory_to_small_ones(tmp_path: Path, s3: S3Server) -> None:
    nodes = [Descriptor("application/octet-stream", Digest.of(bytes([n])), n * 1024 * 1024) for n in (40, 41, 15)]
    storage = open_bucket(tmp_path, parse_bucket(MIRROR))
    async with storage.writing(None), AsyncExitStack() as stack:
        *large, small = [await stack.enter_async_context(storage.sink(node)) for node in nodes]
        for sink in large:
            await sink.write(bytes(2 * 1024 * 1024))

        # It would wait for one of the uploads, which never end.
        with anyio.fail_after(0):
            await small.prepare()


def _read_parts(storage: BucketStorage, key: str, content: bytes) -> None:
    with storage.open(key) as file:
        assert file.read(5) == content[:5]
        file.seek(len(content) - 10)
        assert file.read() == content[-10:]
        assert file.seek(0, 2) == len(content)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:secret@bucket/mirror", "an '@'"),
        ("s3://", "not the name of a bucket"),
        ("s3://bucket/a/../b", "'..' can't be part"),
        ("s3://bucket/{repo}", "can't be part"),
        ("s3://bucket/a?region=x", "no option 'region'"),
        ("gs://b", "not the name of a bucket"),
    ],
)
def test_addresses_that_are_refused(address: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_bucket(address)

    assert "secret" not in caught.value.message


async def test_failures_are_one_line_with_the_code_of_their_kind(
    tmp_path: Path, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, _ = kolla(1)
    async with QuayServer(registry) as server:
        with pytest.raises(BucketFailed, match="the bucket does not exist"):
            await sync(server, tmp_path, to="s3://missing-bucket/x")

        s3.fault = lambda *_: 403
        done = await command(server, tmp_path, check=ExitCode.CREDENTIALS)
        assert done.stderr.startswith("quaymirror: can't read s3://mirrors/kolla/.quaymirror/lock: 403 Forbidden")

    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigError, match=r"pip install 'quaymirror\[buckets\]'"):
        Objects.at(parse_bucket(MIRROR))


@pytest.mark.parametrize(
    ("status", "code", "message", "exit_code"),
    [
        (400, "ExpiredToken", "400 Bad Request (ExpiredToken): get new credentials", ExitCode.CREDENTIALS),
        (
            403,
            "InvalidAccessKeyId",
            "403 Forbidden (InvalidAccessKeyId): check AWS_ACCESS_KEY_ID",
            ExitCode.CREDENTIALS,
        ),
        (
            403,
            "SignatureDoesNotMatch",
            "403 Forbidden (SignatureDoesNotMatch): check AWS_SECRET_ACCESS_KEY",
            ExitCode.CREDENTIALS,
        ),
        (
            400,
            "AuthorizationHeaderMalformed",
            "400 Bad Request (AuthorizationHeaderMalformed): check AWS_REGION",
            ExitCode.UNAVAILABLE,
        ),
        (301, "PermanentRedirect", "the bucket is in another region: check AWS_REGION", ExitCode.UNAVAILABLE),
    ],
)
async def test_a_refused_request_is_told_with_its_reason_also_if_the_first_answer_has_none(
    tmp_path: Path, s3: S3Server, status: int, code: str, message: str, exit_code: ExitCode
) -> None:
    s3.fault, s3.code = (lambda *_: status), code
    async with QuayServer(kolla(1)[0]) as server:
        done = await command(server, tmp_path, check=exit_code)

    assert done.stderr == f"quaymirror: can't read {MIRROR}/.quaymirror/lock: {message}\n"
    done = await run("verify", MIRROR, "--state", "state", cwd=tmp_path, check=exit_code)
    assert done.stderr == f"quaymirror: can't read {MIRROR}/.quaymirror/state.db: {message}\n"


def test_missing_credentials_are_not_told_as_a_refusal_by_the_store(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise exceptions.GenericError(
            "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1.9ms - Server returned "
            "non-2xx status code: 403 Forbidden: denied"
        )

    monkeypatch.setattr("obstore.get", refused)
    with pytest.raises(BucketDenied, match="no credentials: neither the environment nor the metadata service"):
        Objects.at(parse_bucket(MIRROR)).get("lock")


@pytest.mark.soak
async def test_a_store_that_fails_one_request_in_twenty_gets_everything(tmp_path: Path, s3: S3Server) -> None:
    numbers = itertools.count()
    s3.fault = lambda *_: 500 if next(numbers) % 20 == 13 else 0
    registry, images = kolla(40)
    async with QuayServer(registry) as server:
        await sync(server, tmp_path)
        await sync(server, tmp_path)

    s3.fault = lambda *_: 0
    assert names(s3) == {f"kolla/{name}:{TAG}" for name in images}
    found = await quaymirror.verify(MIRROR, Options.of(state=tmp_path / "state"))
    assert (found.images, found.damages) == (len(images), ())


@pytest.mark.soak
async def test_no_process_aborts_at_its_end(tmp_path: Path, s3: S3Server) -> None:
    registry, _ = kolla(1)
    async with QuayServer(registry) as server:
        for number in range(20):
            await command(server, tmp_path, to=f"{MIRROR}/{number}")
