"""The command as another user than the owner of a mirror: root may read everything, so its errors need one."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from commands import Done, run, start_zygote

import quaymirror

NOBODY = 65534
_SOURCE = str(Path(quaymirror.__file__).parents[1])


@cache
def _python() -> str:
    """Return an interpreter of this version that a stranger may run: that of the tests may be in a home directory."""
    for python in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin:/bin") or ""):
        if python and _run([python, "-m", "quaymirror", "--version"], Path("/")).returncode == 0:
            return python

    raise AssertionError("no interpreter that another user may run, with this version's packages")


def _options(cwd: Path) -> dict[str, Any]:
    is_root = os.geteuid() == 0
    return {
        "cwd": cwd,
        "env": {
            "PATH": "/usr/bin:/bin",
            "HOME": str(cwd),
            "PYTHONPATH": os.pathsep.join([_SOURCE, *filter(None, sys.path)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "QUAYMIRROR_SERVER": "http://127.0.0.1:9",
        },
        "user": NOBODY if is_root else None,
        "group": NOBODY if is_root else None,
        "extra_groups": [] if is_root else None,
    }


def _run(
    command: list[str], cwd: Path, timeout: float = 30, threads: int | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            **_options(cwd),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
            preexec_fn=None
            if threads is None
            else lambda: resource.setrlimit(resource.RLIMIT_NPROC, (threads, threads)),
        )
    except PermissionError:
        return subprocess.CompletedProcess(command, 126, "", "")


def as_stranger(*arguments: str, cwd: Path, threads: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run quaymirror as a user who owns nothing but `cwd`, with so many processes and threads at most."""
    return _run([_python(), "-m", "quaymirror", *arguments], cwd, threads=threads)


@contextmanager
def stranger(cwd: Path) -> Iterator[Callable[..., Awaitable[Done]]]:
    """Hand out `commands.run` for a user who owns nothing but `cwd`."""
    options, path = _options(cwd), str(cwd / "socket")
    process = start_zygote(path, _python(), **options)
    try:
        yield partial(run, cwd=cwd, zygote=path)
    finally:
        process.communicate()


@contextmanager
def open_directory() -> Iterator[Path]:
    """Hand out a directory that others may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="quaymirror-") as name:
        Path(name).chmod(0o755)
        yield Path(name)
