"""The helper process: when it starts, how it ends, and what happens to bodies then."""

from __future__ import annotations

import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from bodies import BODY, SIZE, STALL, BodyFile, Server, answered

import quaymirror
from quaymirror.errors import QuaymirrorError, ReadInterrupted, SizeMismatch, TimedOut
from quaymirror.http import helper as module
from quaymirror.http.connections import Connection, Opening
from quaymirror.http.frames import Decoder, Message
from quaymirror.http.guard import AddressGuard
from quaymirror.http.helper import Helper, Site
from quaymirror.http.origin import Origin
from quaymirror.http.receiver import Receiver, _Exchange, _File
from quaymirror.http.threads import ThreadResponse
from quaymirror.http.timeouts import Timeouts
from quaymirror.http.tls import Trust
from quaymirror.http.transport import AiohttpTransport
from quaymirror.oci import Digest

SITE = Site(AddressGuard(), is_guarded=False, trust=Trust(), timeouts=Timeouts(stall=60.0, headers=60.0))
MIB = 1024 * 1024


@pytest.fixture
async def helper() -> AsyncIterator[Helper]:
    """A helper that takes requests."""
    helper = Helper()
    helper.start()
    try:
        await settled(helper, is_ready=True)

        yield helper
    finally:
        await helper.close()


def number(helper: Helper) -> int:
    """Return the number of the process."""
    assert helper._process is not None
    return helper._process.pid


def is_started(helper: Helper) -> bool:
    return helper._process is not None


def has_ended(process: int, seconds: float = 30.0) -> bool:
    """Return True if a process that is no child of this one ends within `seconds`."""
    try:
        descriptor = os.pidfd_open(process)
    except ProcessLookupError:
        return True

    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


async def settled(helper: Helper, *, is_ready: bool) -> None:
    """Wait until `helper` takes requests, or does not any more."""
    with anyio.fail_after(30):
        while helper.is_ready is not is_ready:
            await anyio.sleep(0)


async def receive(helper: Helper, url: str, file: BodyFile) -> None:
    answer = await helper.open(SITE, url, {}, name="the blob")
    with closing(answer):
        await answer.receive(file, lambda _: None)


async def test_the_helper_hashes_what_it_writes(helper: Helper) -> None:
    async with Server().listening() as url:
        file = BodyFile(algorithm="sha256")
        await receive(helper, f"{url}/body", file)

    [written] = file.records
    assert file.content == BODY
    assert (written.size, f"sha256:{written.digest}") == (len(BODY), str(Digest.of(BODY)))


async def test_a_hash_goes_on_with_the_next_part_of_the_same_content(helper: Helper) -> None:
    async with Server().listening() as url:
        parts = [
            BodyFile(offset=offset, algorithm="sha256", key=key) for offset, key in ((0, 1), (len(BODY), 1), (5, 1))
        ]
        for file in parts:
            await receive(helper, f"{url}/body", file)

    digests = [file.records[0].digest for file in parts]
    assert digests == [Digest.of(BODY).encoded, Digest.of(2 * BODY).encoded, ""]


async def test_nothing_is_written_behind_the_end_of_the_part(helper: Helper) -> None:
    async with Server().listening() as url:
        file = BodyFile(len(BODY) - 1)
        with pytest.raises(SizeMismatch):
            await receive(helper, f"{url}/body", file)

    assert file.content == BODY[:-1]


async def test_a_killed_helper_breaks_its_bodies_and_keeps_what_it_counted(helper: Helper) -> None:
    async with Server().listening() as url, anyio.create_task_group() as tasks:
        answer, file = await helper.open(SITE, f"{url}/half", {}, name="the blob"), BodyFile(2 * len(BODY))
        counts: list[int] = []

        def count(received: int) -> None:
            counts.append(received)
            os.kill(number(helper), signal.SIGKILL)

        with closing(answer), anyio.fail_after(30), pytest.raises(ReadInterrupted, match="the connection broke"):
            await answer.receive(file, count)

        [written] = file.records
        assert written.size == sum(counts) > 0
        assert not helper.is_ready
        with pytest.raises(ReadInterrupted):
            await helper.open(SITE, f"{url}/body", {})

        tasks.cancel_scope.cancel()


async def test_without_a_helper_threads_receive_the_bodies(helper: Helper) -> None:
    async with (
        Server().listening() as url,
        AiohttpTransport(socket_factory=AddressGuard().trusted_socket, helper=(helper, SITE)) as client,
    ):
        os.kill(number(helper), signal.SIGKILL)
        await settled(helper, is_ready=False)

        for _ in range(2):
            answer = await client.send_large(f"{url}/body", {}, size=SIZE, to_file=True)
            with closing(answer):
                assert isinstance(answer, ThreadResponse)


async def test_a_silent_helper_is_killed_before_a_cancelled_body_is_over(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.05)
    async with Server().listening() as url:
        answer, file = await helper.open(SITE, f"{url}/half", {}), BodyFile(2 * len(BODY))
        os.kill(number(helper), signal.SIGSTOP)
        with closing(answer), anyio.move_on_after(STALL):
            await answer.receive(file, lambda _: None)

    assert file.ended == [True]
    assert has_ended(number(helper))


async def test_a_helper_that_hangs_is_killed_while_a_body_is_received(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.05)
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.05)
    async with Server().listening() as url:
        answer = await helper.open(SITE, f"{url}/half", {})
        os.kill(number(helper), signal.SIGSTOP)
        with closing(answer), anyio.fail_after(30), pytest.raises(ReadInterrupted):
            await answer.receive(BodyFile(2 * len(BODY)), lambda _: None)


class AbandonedAtItsEnd(Opening):
    """A request that is broken off just after its answer has come."""

    def run(self) -> Connection | QuaymirrorError:
        result = super().run()
        self.abandon()
        return result


def test_a_connection_that_is_closed_just_after_its_answer_does_not_end_the_helper() -> None:
    (parent, mine), (server, client) = socket.socketpair(), socket.socketpair()
    with parent, mine, server:
        server.sendall(answered(b""))
        origin = Origin.of("http://127.0.0.1:1/")
        receiver = Receiver(mine)
        receiver._add_site(1, False, None, (60.0, 60.0, 60.0))
        opening = AbandonedAtItsEnd(origin, b"GET", "the blob", Connection(origin, client), lambda _: never())
        receiver._opened(_Exchange(2, receiver._sites[1], opening, "the blob"))
        [message] = Decoder().feed(parent.recv(10_000))

    assert message[:2] == ("head", 2)


def never() -> Connection:
    raise AssertionError("no other connection is needed")


async def test_a_cancelled_reading_is_over_before_its_connection_is_closed(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    send, handle = helper.send, helper._handle

    def sends(kind: str, number: int, *arguments: object, descriptors: tuple[int, ...] = ()) -> None:
        messages.append(kind)
        send(kind, number, *arguments, descriptors=descriptors)

    def handles(message: Message) -> None:
        messages.append(message[0])
        handle(message)

    server = Server()
    server.answers["/head"] = answered(b"", announced=1)
    async with server.listening() as url:
        answer = await helper.open(SITE, f"{url}/head", {})
        monkeypatch.setattr(helper, "send", sends)
        monkeypatch.setattr(helper, "_handle", handles)
        with closing(answer), anyio.move_on_after(STALL):
            await answer.read(1)

    assert [kind for kind in messages if kind != "counts"] == ["read", "break", "chunk", "close"]


class Dribble:
    """A body of ten bytes at a time, each a second after the one before."""

    def __init__(self, seconds: list[float]) -> None:
        self.exchange: Any = SimpleNamespace(body=self, received=0, name="the blob")
        self.counted: list[int] = []
        self._seconds = seconds

    def read_into(self, view: memoryview) -> int:
        self._seconds[0] += 1
        self.counted.append(self.exchange.received)
        view[:10] = b"x" * 10
        return 0 if len(self.counted) == 4 else 10


def test_a_body_that_comes_slowly_is_counted_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: seconds[0])
    body, file = Dribble(seconds), BodyFile()
    parent, mine = socket.socketpair()
    with parent, mine:
        assert Receiver(mine)._received(body.exchange, _File(file.descriptor, 0, 1000, None)) is None

    assert body.counted == [0, 10, 20, 30]
    assert file.content == b"x" * 30


async def test_a_silent_helper_is_killed_after_a_request_without_answer(
    helper: Helper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.05)
    hasty = Site(AddressGuard(), is_guarded=False, trust=Trust(), timeouts=Timeouts(headers=0.05))
    async with Server().listening() as url:
        os.kill(number(helper), signal.SIGSTOP)
        with pytest.raises(TimedOut):
            await helper.open(hasty, f"{url}/body", {})

        await settled(helper, is_ready=False)


async def test_a_module_beside_the_package_takes_the_place_of_none_of_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "queue.py").write_text("raise SystemExit\n")
    (tmp_path / "quaymirror").symlink_to(Path(quaymirror.__file__).parent)
    monkeypatch.setattr(module, "_HOME", tmp_path)
    helper = Helper()
    helper.start()
    try:
        await settled(helper, is_ready=True)
    finally:
        await helper.close()


async def test_signals_of_a_terminal_are_left_to_the_parent(helper: Helper) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(number(helper), each)

    assert os.getsid(number(helper)) != os.getsid(0)
    async with Server().listening() as url:
        file = BodyFile()
        await receive(helper, f"{url}/body", file)
        assert file.content == BODY


_PARENT = """
import asyncio, os, signal
from quaymirror.http.helper import Helper

async def main():
    helper = Helper()
    helper.start()
    while not helper.is_ready:
        await asyncio.sleep(0)

    print(helper._process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""


def test_a_helper_ends_with_its_parent_even_if_that_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(quaymirror.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", _PARENT], capture_output=True, env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert has_ended(int(done.stdout))


async def test_the_helper_starts_once_enough_is_fetched_and_takes_large_bodies_only() -> None:
    helper = Helper()
    try:
        assert not any(helper.takes(15 * MIB // 10) for _ in range(10))
        assert not is_started(helper)
        assert not helper.takes(2 * MIB)
        assert is_started(helper)
        await settled(helper, is_ready=True)

        assert helper.takes(64 * 1024)
        assert not helper.takes(64 * 1024 - 1)
    finally:
        await helper.close()

    assert not helper.takes(SIZE)


@pytest.mark.parametrize("executable", ["/no/python", None])
async def test_a_helper_that_cannot_be_started_is_done_without(
    monkeypatch: pytest.MonkeyPatch, executable: str | None
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    helper = Helper()
    assert not helper.takes(SIZE)
    assert not helper.takes(SIZE)
    await helper.close()


async def test_certificates_that_were_given_to_this_interpreter_only_are_not_left_to_a_helper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ssl, "SSLContext", type("SSLContext", (ssl.SSLContext,), {}))
    helper = Helper()
    assert not helper.takes(SIZE)
    assert not helper.takes(SIZE)
    assert not is_started(helper)
    await helper.close()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
async def test_the_helper_gets_no_secrets_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUAY_API_TOKEN", "sesame")
    helper = Helper()
    helper.start()
    try:
        await settled(helper, is_ready=True)
        process = Path(f"/proc/{number(helper)}")
        assert b"quaymirror.http.receiver" in (process / "cmdline").read_bytes()
        assert b"sesame" not in (process / "environ").read_bytes()
    finally:
        await helper.close()
