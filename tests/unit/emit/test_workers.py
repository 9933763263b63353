from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import anyio
import pytest

from quaymirror.emit import workers as workers_module
from quaymirror.emit.workers import Workers
from quaymirror.errors import EmitFailed, ExitCode, StoreError


def is_alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


async def test_calls_run_in_a_process_that_is_reused_and_ends_at_last() -> None:
    async with Workers.open(1) as workers:
        first, second = await workers.run(os.getpid), await workers.run(os.getpid)
        assert first == second != os.getpid()

    assert not is_alive(first)


async def test_an_error_keeps_its_properties_and_its_worker_is_not_reused(tmp_path: Path) -> None:
    from quaymirror.store import fsops

    async with Workers.open(1) as workers:
        first = await workers.run(os.getpid)
        with pytest.raises(StoreError, match="can't remove") as caught:
            await workers.run(fsops.remove, tmp_path)

        assert caught.value.phase is not None
        assert await workers.run(os.getpid) != first
        assert not is_alive(first)


async def test_a_cancelled_call_ends_its_process_within_a_second() -> None:
    async with Workers.open(1) as workers:
        pid = await workers.run(os.getpid)
        began = time.monotonic()
        with anyio.move_on_after(0.05):
            await workers.run(time.sleep, 600)

        assert time.monotonic() - began < 1
        assert not is_alive(pid)


async def test_a_worker_that_is_killed_fails_its_call_only() -> None:
    async with Workers.open(1) as workers:
        with pytest.raises(EmitFailed, match="a worker process died"):
            await workers.run(os._exit, 3)

        assert await workers.run(len, "abc") == 3


async def test_the_terminals_interrupt_does_not_reach_workers() -> None:
    async with Workers.open(1) as workers:
        pid = await workers.run(os.getpid)
        assert os.getpgid(pid) != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
        assert await workers.run(os.getpid) == pid


async def test_workers_get_no_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUAY_API_TOKEN", "hunter2")
    async with Workers.open(1) as workers:
        assert await workers.run(os.getenv, "QUAY_API_TOKEN") is None


async def test_a_worker_that_dies_before_its_first_call_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "started"
    dying = f"import os; mark = {str(mark)!r}; os.path.exists(mark) or (open(mark, 'x'), os._exit(1)); "
    monkeypatch.setattr("quaymirror.emit.workers._PROGRAM", dying + workers_module._PROGRAM)
    async with Workers.open(1) as workers:
        assert await workers.run(len, "abc") == 3

    assert mark.exists()


async def test_workers_that_cannot_start_are_a_failure_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quaymirror.emit.workers._PROGRAM", "import os; os._exit(1)")
    async with Workers.open(1) as workers:
        with pytest.raises(StoreError, match="can't start a worker process") as caught:
            await workers.run(len, "abc")

    assert caught.value.exit_code is ExitCode.STORAGE


async def test_a_worker_that_was_killed_between_two_calls_is_replaced() -> None:
    async with Workers.open(1) as workers:
        pid = await workers.run(os.getpid)
        os.kill(pid, signal.SIGKILL)
        while workers._idle[0].is_alive:
            await anyio.sleep(0.001)

        assert await workers.run(os.getpid) != pid
