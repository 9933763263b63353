"""Count the frames and context objects between the command and the HTTP request for one blob.

    python benchmarks/lab/frames.py

runs a `sync` of one image to a layout, from a server of `quaymirror.testing` on loopback, with the quaymirror that this
Python imports, and prints a JSON document. It uses nothing else of quaymirror, so that it measures any commit.

A frame counts if its code is in the package `quaymirror`. Counted are the frames on the stack when `aiohttp` is called,
and those of every suspended task on the way: the task that created the requesting one, the task that created that one,
and so on to the first. A context object is an instance of a class of quaymirror that is `self` or an argument in one of
these frames, or a variable of an enclosing function, and refers to another such instance by an attribute (directly,
through a list, tuple, set or mapping, or as a bound method).
"""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import gc
import importlib
import inspect
import itertools
import json
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import aiohttp

# Long enough for listing, tag checks and everything else that runs at the same time to end.
_SETTLE_S = 1.0


@dataclasses.dataclass
class _Found:
    frames: list[list[FrameType]] = dataclasses.field(default_factory=list)
    document: dict[str, Any] | None = None


def main() -> int:
    """Run one sync and print what was counted."""
    found, creators = _Found(), weakref.WeakKeyDictionary[asyncio.Task[Any], asyncio.Task[Any]]()
    with tempfile.TemporaryDirectory() as directory, _Server() as server:
        _record_creators(creators)
        _watch_requests(server.blob, creators, found)
        _run_command(server.url, Path(directory))

    if found.document is None:
        print("no request for a blob was seen", file=sys.stderr)
        return 1

    print(json.dumps(found.document, indent=2))
    return 0


class _Server:
    """A Quay with one image of one layer, in a thread of its own."""

    def __enter__(self) -> _Server:
        self._ready, self._end = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(20)

    async def _serve(self) -> None:
        testing = importlib.import_module("quaymirror.testing")
        registry = testing.Registry()
        layer = testing.make_layer("only", 2000)
        image = testing.make_image([layer])
        registry.organization("kolla").repository("only").push("latest", image)
        async with testing.QuayServer(registry) as server:
            self.url, self.blob = str(server.url), str(layer.blob.digest)
            self._ready.set()
            while not self._end.is_set():
                await asyncio.sleep(0.05)


def _run_command(url: str, directory: Path) -> None:
    os.environ["HOME"] = str(directory)
    entry = importlib.import_module("quaymirror.cli.main").entry
    words = ["sync", "kolla", "*", "latest", "--to", str(directory / "mirror"), "--server", url]
    # Not stderr itself, whose buffer the command takes.
    output, sys.stdout = sys.stdout, os.fdopen(os.dup(2), "w")
    try:
        sys.argv = ["quaymirror", *words]
        entry()
    except SystemExit as end:
        if end.code:
            print(f"the sync ended with {end.code}", file=sys.stderr)
    finally:
        sys.stdout = output


def _record_creators(creators: weakref.WeakKeyDictionary[asyncio.Task[Any], asyncio.Task[Any]]) -> None:
    create = asyncio.BaseEventLoop.create_task

    def recorded(self: asyncio.BaseEventLoop, *args: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = create(self, *args, **options)
        creator = asyncio.current_task(self) if self.is_running() else None
        if creator is not None:
            creators[task] = creator

        return task

    asyncio.BaseEventLoop.create_task = recorded  # type: ignore[method-assign]


def _watch_requests(
    blob: str, creators: weakref.WeakKeyDictionary[asyncio.Task[Any], asyncio.Task[Any]], found: _Found
) -> None:
    request = aiohttp.ClientSession._request
    package = Path(importlib.import_module("quaymirror").__file__ or "").parent

    async def watched(self: aiohttp.ClientSession, method: str, url: Any, **options: Any) -> Any:
        if blob in str(url) and found.document is None:
            await asyncio.sleep(_SETTLE_S)
            found.document = _count(list(_tasks(creators)), package)

        return await request(self, method, url, **options)

    aiohttp.ClientSession._request = watched  # type: ignore[method-assign, assignment]


def _tasks(creators: weakref.WeakKeyDictionary[asyncio.Task[Any], asyncio.Task[Any]]) -> Iterator[list[FrameType]]:
    """Yield the frames of the running task, innermost first, then those of its creator, and so on."""
    yield list(_callers(sys._getframe()))
    task = asyncio.current_task()
    while task is not None and task in creators:
        task = creators[task]
        yield list(_awaited(task.get_coro()))


def _callers(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _awaited(awaitable: Any) -> Iterator[FrameType]:
    """Yield the frames of a suspended coroutine, from the outermost to where it waits."""
    while awaitable is not None:
        for prefix in ("cr", "gi", "ag"):
            if hasattr(awaitable, f"{prefix}_frame"):
                frame = getattr(awaitable, f"{prefix}_frame")
                if frame is not None:
                    yield frame

                awaitable = getattr(awaitable, "gi_yieldfrom" if prefix == "gi" else f"{prefix}_await")
                break
        else:
            # What `__anext__` and `asend` of a generator return shows it only to the garbage collector.
            inner = [one for one in gc.get_referents(awaitable) if hasattr(one, "ag_frame") or hasattr(one, "cr_frame")]
            awaitable = inner[0] if inner else None


def _count(tasks: list[list[FrameType]], package: Path) -> dict[str, Any]:
    testing = package / "testing"
    own = [[frame for frame in frames if _is_below(frame, package, testing)] for frames in tasks]
    holders = {id(value): type(value).__name__ for frames in own for frame in frames for value in _contexts(frame)}
    return {
        "frames": sum(len(frames) for frames in own),
        "tasks": [[_name(frame, package) for frame in frames] for frames in own],
        "context": len(holders),
        "contexts": sorted(holders.values()),
    }


def _is_below(frame: FrameType, package: Path, testing: Path) -> bool:
    path = Path(frame.f_code.co_filename)
    return path.is_relative_to(package) and not path.is_relative_to(testing)


def _name(frame: FrameType, package: Path) -> str:
    return f"{Path(frame.f_code.co_filename).relative_to(package)}: {frame.f_code.co_qualname}"


def _contexts(frame: FrameType) -> Iterator[object]:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + _variable_arguments(code)]
    for name in (*names, *code.co_freevars):
        for value in _ours(frame.f_locals.get(name)):
            if any(any(_ours(held)) for held in _attributes(value)):
                yield value


def _variable_arguments(code: CodeType) -> int:
    return bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)


def _ours(value: object) -> Iterator[object]:
    """Yield the instances of our classes that `value` is, contains, or calls."""
    kind = type(value)
    if kind.__module__.partition(".")[0] == "quaymirror" and not issubclass(kind, enum.Enum):
        yield value
    elif isinstance(value, dict):
        yield from itertools.chain.from_iterable(map(_ours, list(value.values())))
    elif isinstance(value, list | tuple | set | frozenset):
        yield from itertools.chain.from_iterable(map(_ours, list(value)))
    elif inspect.ismethod(value):
        yield from _ours(value.__self__)


def _attributes(value: object) -> Iterator[object]:
    yield from getattr(value, "__dict__", {}).values()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            yield getattr(value, slot, None)


if __name__ == "__main__":
    sys.exit(main())
