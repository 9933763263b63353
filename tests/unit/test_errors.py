"""Errors are immutable, become values without tracebacks, and have one order and one table of exit codes."""

from __future__ import annotations

import copy
import errno
import gc
import pickle
import re
import traceback
from pathlib import Path
from types import FrameType, TracebackType

import anyio
import pytest

from quaymirror import errors
from quaymirror.errors import (
    AccessDenied,
    ConfigError,
    ExitCode,
    Failure,
    NotFound,
    Phase,
    QuaymirrorError,
    RateLimited,
    Scope,
    ServiceError,
    Side,
    StoreError,
    from_os_error,
    most_severe,
)
from quaymirror.transfer.single_flight import SingleFlight

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def subclasses(kind: type[QuaymirrorError]) -> list[type[QuaymirrorError]]:
    return [kind, *(each for child in kind.__subclasses__() for each in subclasses(child))]


KINDS = [kind for kind in subclasses(QuaymirrorError) if kind.__module__.startswith(f"{errors.__name__}.")]
SOME = NotFound(
    "gone", scope=Scope.RUN, side=Side.TARGET, phase=Phase.FETCH, status=404, codes=frozenset({"BLOB_UNKNOWN"})
)


def test_every_public_class_of_the_module_is_exported() -> None:
    assert {kind.__name__ for kind in KINDS} <= set(errors.__all__)
    public = {
        name for name, value in vars(errors).items() if getattr(value, "__module__", "").startswith("quaymirror.")
    }
    assert {name for name in public if not name.startswith("_")} == set(errors.__all__)


@pytest.mark.parametrize("kind", subclasses(QuaymirrorError))
def test_an_error_cannot_be_changed(kind: type[QuaymirrorError]) -> None:
    error = kind("no")
    for name in ("scope", "side", "phase", "status", "codes", "retry_after", "args", "message", "anything"):
        with pytest.raises(AttributeError):
            setattr(error, name, None)


@pytest.mark.parametrize("kind", subclasses(QuaymirrorError))
def test_an_error_survives_being_replaced_copied_pickled_and_stored(kind: type[QuaymirrorError]) -> None:
    error = kind("no", phase=Phase.COMMIT, retry_after=3.0)
    copies = [error.replace(), copy.copy(error), pickle.loads(pickle.dumps(error)), Failure.of(error).error()]
    for each in copies:
        assert type(each) is kind
        assert Failure.of(each) == Failure.of(error)


def test_replace_returns_a_new_error_without_traceback_and_leaves_the_old_one_alone() -> None:
    try:
        raise SOME.replace()
    except NotFound as error:
        other = error.replace("the layer is gone", scope=Scope.ATTEMPT)

    assert (other.__traceback__, other.__context__) == (None, None)
    assert (other.message, other.scope, other.status, other.codes) == (
        "the layer is gone",
        Scope.ATTEMPT,
        404,
        SOME.codes,
    )
    assert (SOME.message, SOME.scope) == ("gone", Scope.RUN)


def test_classes_have_defaults_that_the_raiser_can_override() -> None:
    assert (StoreError("full").scope, StoreError("full").side) == (Scope.RUN, Side.STORE)
    assert RateLimited("slow down").status == 429
    assert RateLimited("slow down", status=503).status == 503
    assert ServiceError("no").status == 0


def test_a_failure_keeps_no_exception_and_no_frame_alive() -> None:
    def fail() -> None:
        large = bytearray(1_000_000)
        raise StoreError(f"no room for {len(large)} bytes")

    try:
        fail()
    except StoreError as error:
        failure = Failure.of(error)

    reached, new = {id(failure)}, [failure]
    while new:
        items: list[object] = [item for item in gc.get_referents(*new) if id(item) not in reached]
        reached |= {id(item) for item in items}
        assert not any(isinstance(item, BaseException | TracebackType | FrameType | bytearray) for item in items)
        new = [item for item in items if not isinstance(item, type)]  # type: ignore[misc]


async def test_every_waiter_of_a_flight_raises_an_error_of_its_own() -> None:
    raised: list[QuaymirrorError] = []

    async def broken() -> None:
        await anyio.lowlevel.checkpoint()
        raise SOME.replace()

    async def ask(flights: SingleFlight[str]) -> None:
        failure = await flights.run("x", broken)
        assert failure is not None
        try:
            raise failure.error()
        except QuaymirrorError as error:
            raised.append(error)

    async with anyio.create_task_group() as tasks:
        flights = SingleFlight[str](tasks)
        for _ in range(3):
            tasks.start_soon(ask, flights)

    assert len({id(error) for error in raised}) == 3
    assert all(Failure.of(error) == Failure.of(SOME) for error in raised)
    assert all(len(traceback.extract_tb(error.__traceback__)) == 1 for error in raised)


def test_exit_codes_are_ordered_by_the_severity_of_the_contract() -> None:
    assert [int(code) for code in ExitCode] == [1, 143, 130, 8, 6, 4, 5, 7, 2, 3, 9, 0]
    assert most_severe([ExitCode.OK, ExitCode.PARTIAL, ExitCode.STORAGE, ExitCode.LOCKED]) is ExitCode.STORAGE
    assert most_severe(ExitCode) is ExitCode.INTERNAL


def test_every_exit_code_has_a_meaning_and_is_documented() -> None:
    page = (REFERENCE / "exit-codes.md").read_text(encoding="utf-8")
    codes = [int(code) for row in re.findall(r"^\| ([0-9, ]+) \|", page, re.MULTILINE) for code in row.split(",")]
    assert sorted(codes) == sorted(ExitCode)
    assert all(code.meaning for code in ExitCode)


def test_an_error_that_ends_the_run_is_more_severe_than_one_of_an_image() -> None:
    image, run = StoreError("no room for it", scope=Scope.IMAGE), AccessDenied("no", scope=Scope.RUN)
    assert most_severe([image, run]) is run
    assert most_severe([NotFound("gone"), image]) is image
    assert most_severe([Failure.of(image), Failure.of(run)]) == Failure.of(run)


def test_advice_is_that_of_the_kind_or_of_the_exit_code() -> None:
    assert "--username" in Failure.of(AccessDenied("no")).advice
    assert Failure.of(StoreError("full")).advice == ExitCode.STORAGE.advice
    assert Failure.of(StoreError("no room for it", scope=Scope.IMAGE)).advice == ""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "no such file or directory"),
        (OSError("odd"), "oserror"),
        (ValueError("embedded null byte"), "not a valid path"),
    ],
)
def test_errors_of_the_operating_system_name_the_operation_the_path_and_the_reason(
    error: OSError | ValueError, reason: str
) -> None:
    made = from_os_error(error, "read", Path("/x/y"), kind=ConfigError, phase=Phase.STORE)
    assert (type(made), made.phase, made.message) == (ConfigError, Phase.STORE, f"can't read /x/y: {reason}")
