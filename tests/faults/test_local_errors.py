"""Errors of this machine: whatever path, limit or stream it is about, a command ends with a line and its exit code."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from commands import Done, run
from organizations import TAG, kolla, small_image
from receiver import Receiver
from serving import write_layout
from strangers import NOBODY, as_stranger, open_directory, stranger

from quaymirror.testing import Fault, QuayServer, Redirect

pytestmark = pytest.mark.timeout(120)

UNUSED = "registry://127.0.0.1:9?insecure=true"
COMMANDS = {
    "sync": ["sync", "kolla", "*", TAG, "--to", "{}"],
    "sync --dry-run": ["sync", "kolla", "*", TAG, "--dry-run", "--to", "{}"],
    "sync to dir": ["sync", "kolla", "*", TAG, "--to", "dir://{}"],
    "sync to tar": ["sync", "kolla", "*", TAG, "--to", "tar://{}/{{repo}}.tar"],
    "sync --state": ["sync", "kolla", "*", TAG, "--retries", "0", "--to", UNUSED, "--state", "{}"],
    "sync --report": ["sync", "kolla", "*", TAG, "--dry-run", "--report", "{}"],
    "sync --report-html": ["sync", "kolla", "*", TAG, "--dry-run", "--report-html", "{}"],
    "sync --lock-file": ["sync", "kolla", "*", TAG, "--dry-run", "--lock-file", "{}"],
    "sync --log-file": ["sync", "kolla", "*", TAG, "--dry-run", "--log-file", "{}"],
    "sync --metrics-textfile": ["sync", "kolla", "*", TAG, "--dry-run", "--metrics-textfile", "{}"],
    "sync --from-lock": ["sync", "--dry-run", "--from-lock", "{}"],
    "list --token-file": ["list", "kolla", "*", TAG, "--token-file", "{}"],
    "list --cafile": ["list", "kolla", "*", TAG, "--cafile", "{}"],
    "info --authfile": ["info", "kolla", "*", TAG, "--authfile", "{}"],
    "info --cert-dir": ["info", "kolla", "*", TAG, "--src-cert-dir", "{}"],
    "verify": ["verify", "{}"],
    "verify --state": ["verify", UNUSED, "--state", "{}"],
    "watch": ["watch", "{}"],
    "watch --state": ["watch", UNUSED, "--state", "{}"],
    "history": ["history", "--to", "{}"],
    "history --state": ["history", "--to", UNUSED, "--state", "{}"],
    "prune": ["prune", "{}"],
    "prune --yes": ["prune", "--yes", "{}"],
    "run --config": ["run", "--config", "{}"],
    "config show": ["config", "show", "--config", "{}"],
    "config import": ["config", "import", "{}"],
}
# What is at the path, and whether nothing can come of a command with it.
PATHS = {
    "in a directory that may not be entered": "closed/directory",
    "too long a name": "x" * 300,
    "too long a path": "y/" * 3000 + "y",
    "a loop": "loop",
    "below a loop": "loop/x",
    "below a file": "file/x",
    "a pipe": "pipe",
    "a device": "/dev/full",
}
# Nothing is there, nor in the way of looking; a log may go to a device; a dry run writes no lock file.
FINE = {("sync --dry-run", "below a file"), ("sync --log-file", "a device"), ("sync --lock-file", "a pipe")}
MIRRORS = {"closed blobs and state": ("blobs", ".quaymirror"), "a closed state": (".quaymirror",), "closed": (".",)}


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory of root's with all kinds of paths, and `home` in it, which belongs to the stranger."""
    with open_directory() as directory:
        (directory / "closed").mkdir()
        (directory / "closed/directory").mkdir()
        (directory / "closed").chmod(0o700 if os.geteuid() == 0 else 0)
        (directory / "file").write_text("x")
        (directory / "loop").symlink_to("loop")
        os.mkfifo(directory / "pipe")
        (directory / "pipe").chmod(0o666)
        (directory / "home").mkdir()
        if os.geteuid() == 0:
            os.chown(directory / "home", NOBODY, NOBODY)

        yield directory
        (directory / "closed").chmod(0o700)


@pytest.fixture(scope="module")
def run_as_stranger(place: Path) -> Iterator[Callable[..., Awaitable[Done]]]:
    """Run the command as a user who owns nothing but `home`."""
    home = place / "home"
    with stranger(home) as start:
        yield partial(start, env={"HOME": str(home)})


def lines(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a command says of its end: one line, with its name."""
    # Python itself complains first if a .pth file of its environment needs a descriptor.
    text = re.sub(r"Error processing line \d+ of .*?Remainder of file ignored\n", "", done.stderr, flags=re.DOTALL)
    assert "Traceback" not in text
    return [line for line in text.splitlines() if line.startswith("quaymirror: ")]


# Each runs many commands.
_SLOW = ("too long a name", "a loop", "below a loop", "too long a path", "below a file", "a pipe", "a device")


@pytest.mark.parametrize(
    "what", [pytest.param(each, marks=pytest.mark.soak if each in _SLOW else ()) for each in PATHS]
)
async def test_a_path_that_cannot_be_used_ends_a_command_with_a_line(
    what: str, place: Path, run_as_stranger: Callable[..., Awaitable[Done]]
) -> None:
    path = str(place / PATHS[what])
    wrong: dict[str, object] = {}

    async def check(command: str) -> None:
        words = [word.format(path) for word in COMMANDS[command]]
        if words[0] in ("sync", "list", "info"):
            words += ["--server", server.url]

        done = await run_as_stranger(*words)
        is_fine = done.returncode == 0 and (command, what) in FINE
        if not (is_fine or (done.returncode in (2, 6) and len(lines(done)) == 1)):
            wrong[command] = (done.returncode, done.stderr[-500:])

    async with QuayServer(kolla(1)[0]) as server, anyio.create_task_group() as tasks:
        for command in COMMANDS:
            tasks.start_soon(check, command)

    assert not wrong


@pytest.mark.parametrize("closed", MIRRORS)
async def test_a_user_who_may_not_read_a_mirror_gets_a_message(
    closed: str, place: Path, run_as_stranger: Callable[..., Awaitable[Done]]
) -> None:
    registry, _ = kolla(2)
    mirror = place / "mirror"
    async with QuayServer(registry) as server:
        server_options = ["--server", server.url]
        shutil.rmtree(mirror, ignore_errors=True)
        await run("sync", "kolla", "*", TAG, "--to", str(mirror), *server_options, cwd=place, check=0)
        for name in MIRRORS[closed]:
            (mirror / name).chmod(0o700 if os.geteuid() == 0 else 0)

        for command in (
            ["sync", "kolla", "*", TAG, "--to", str(mirror), *server_options],
            ["sync", "kolla", "*", TAG, "--dry-run", "--to", str(mirror), *server_options],
            ["verify", str(mirror)],
            ["verify", "--fast", str(mirror)],
            ["verify", "--repair", str(mirror), *server_options],
            ["history", "--to", str(mirror)],
            ["watch", str(mirror)],
            ["prune", str(mirror)],
            ["prune", "--yes", str(mirror)],
        ):
            done = await run_as_stranger(*command)
            assert done.returncode in (2, 6, 8), (command, done.returncode, done.stderr[-500:])
            assert lines(done) or done.returncode == 8, command


@pytest.mark.parametrize("option", ["--report", "--report-html", "--lock-file", "--log-file", "--metrics-textfile"])
async def test_a_pipe_that_no_process_reads_is_not_waited_for(option: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    async with QuayServer(kolla(1)[0]) as server:
        done = await run(
            "sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", option, "pipe", cwd=tmp_path
        )

    assert done.returncode in (2, 6)
    assert len(lines(done)) == 1


async def test_a_report_is_written_to_a_pipe_that_a_process_reads(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    async with QuayServer(kolla(1)[0]) as server:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", "--report", "pipe"]
        await run(*words, cwd=tmp_path, check=0)

    assert json.loads(os.read(reader, 1 << 16))["exit_code"] == 0
    os.close(reader)


def limited(words: list[str], cwd: Path, limit: int, value: int, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run the command under a limit of the operating system."""
    return subprocess.run(
        [sys.executable, "-m", "quaymirror", *words], cwd=cwd, capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(limit, (value, value)), **options,
    )  # fmt: skip


# One of them; test_every_command.py has all commands with few.
@pytest.mark.parametrize(
    "descriptors", [20, *(pytest.param(number, marks=pytest.mark.soak) for number in (64, 40, 10, 6, 5))]
)
async def test_too_few_descriptors_end_a_command_with_a_line(descriptors: int, tmp_path: Path) -> None:
    async with QuayServer(kolla(30, layer_size=200_000)[0]) as server:
        for words in (
            [
                "sync",
                "kolla",
                "*",
                TAG,
                "--server",
                server.url,
                "--to",
                "mirror",
                "--retries",
                "1",
                "--report",
                "report",
            ],
            ["list", "kolla", "*", TAG, "--server", server.url, "--retries", "1"],
            ["verify", "mirror"],
            ["history", "--to", "mirror"],
        ):
            work = partial(limited, words, tmp_path, resource.RLIMIT_NOFILE, descriptors)
            done = await anyio.to_thread.run_sync(work)
            # A run that could not create its state leaves a mirror without an index.
            is_lacking = words[0] == "verify" and not (tmp_path / "mirror/index.json").exists()
            assert done.returncode in (0, 2, 6) or (is_lacking and done.returncode == 8), (words[0], done.stderr[-500:])
            assert len(lines(done)) == (done.returncode != 0), (words[0], done.stderr[-500:])

    index = tmp_path / "mirror/index.json"
    assert not index.exists() or json.loads(index.read_text())


@pytest.mark.parametrize("mebibytes", [60, 80, 120, 400])
async def test_too_little_memory_ends_a_command_with_a_line(mebibytes: int, tmp_path: Path) -> None:
    async with QuayServer(kolla(3)[0]) as server:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror"]
        work = partial(limited, words, tmp_path, resource.RLIMIT_AS, mebibytes << 20)
        done = await anyio.to_thread.run_sync(work)

    assert done.returncode in (0, 6), done.stderr[-500:]
    assert len(lines(done)) == (done.returncode != 0), done.stderr[-500:]


@pytest.mark.parametrize(
    "threads", [1, pytest.param(3, marks=pytest.mark.soak), pytest.param(6, marks=pytest.mark.soak)]
)
async def test_too_few_threads_end_a_command_with_a_line(threads: int, place: Path) -> None:
    home, wrong = place / "home", dict[str, object]()
    async with QuayServer(kolla(3)[0]) as server:
        target = str(home / f"mirror-{threads}")
        for words in (
            ["sync", "kolla", "*", TAG, "--server", server.url, "--to", target, "--retries", "0"],
            ["list", "kolla", "*", TAG, "--server", server.url, "--retries", "0"],
            ["verify", target],
        ):
            done = await anyio.to_thread.run_sync(partial(as_stranger, *words, cwd=home, threads=threads))
            if done.returncode not in (0, 2, 6) or len(lines(done)) != (done.returncode != 0):
                wrong[words[0]] = done.returncode, done.stderr[-500:]

    assert not wrong


async def test_a_layout_that_few_descriptors_leave_unread_is_not_called_damaged(tmp_path: Path) -> None:
    images = {f"kolla/{name}:{TAG}": small_image(name) for name in ("nova", "glance", "base")}
    write_layout(tmp_path / "layout", images)
    async with Receiver() as target:
        for descriptors in (11, 12, 13):
            words = ("push", "layout", target.address, "--state", f"state-{descriptors}")
            done = await run(*words, cwd=tmp_path, descriptors=descriptors)
            assert done.returncode in (0, 6), done.stderr
            assert "damaged" not in done.stderr
            assert "ulimit -n" in done.stderr or done.returncode == 0


CREDENTIALS = {
    "sync": ["sync", "kolla", "*", TAG, "--to", "mirror", "--username", "me", "--password-stdin"],
    "sync to a registry": ["sync", "kolla", "*", TAG, "--to", UNUSED, "--dest-username", "me", "--dest-password-stdin"],
    "info": ["info", "kolla", "*", TAG, "--username", "me", "--password-stdin"],
    "verify": ["verify", UNUSED, "--dest-username", "me", "--dest-password-stdin"],
}


@pytest.mark.parametrize("command", CREDENTIALS)
def test_a_password_from_a_closed_standard_input_is_refused(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "quaymirror", *CREDENTIALS[command]], cwd=tmp_path, capture_output=True, text=True,
        timeout=60, check=False, preexec_fn=lambda: os.close(0),
    )  # fmt: skip
    assert done.returncode == 2
    assert lines(done) == ["quaymirror: --password-stdin: standard input is closed"]


DIGITS, FEWER = "9" * 5_000, "9" * 400  # Python reads the second one, as a whole number but not as any other
NUMBERS = {
    "server": ["list", "kolla", "*", TAG, "--server", f"http://h:{DIGITS}"],
    "target": ["sync", "kolla", "*", TAG, "--to", f"registry://h:{DIGITS}"],
    "ping": ["sync", "kolla", "*", TAG, "--to", "mirror", "--ping-url", f"http://h:{DIGITS}/"],
    "realm": ["sync", "kolla", "*", TAG, "--to", "mirror", "--allow-realm", f"h:{DIGITS}"],
    "verify": ["verify", f"registry://h:{DIGITS}"],
    "watch": ["watch", f"registry://h:{DIGITS}"],
    "retries": ["sync", "kolla", "*", TAG, "--to", "mirror", "--retries", DIGITS],
    "grace": ["sync", "kolla", "*", TAG, "--to", "mirror", "--prune", "--grace", DIGITS],
    "retries, fewer": ["sync", "kolla", "*", TAG, "--to", "mirror", "--retries", FEWER],
    "concurrency, fewer": ["sync", "kolla", "*", TAG, "--to", "mirror", "--concurrency", FEWER],
    "config": ["run", "--config", "port.toml"],
    "config, fewer": ["run", "--config", "fewer.toml"],
    "config, a number": ["run", "--config", "number.toml"],
    "import": ["config", "import", "number.yaml"],
}


@pytest.mark.parametrize("where", NUMBERS)
async def test_a_number_of_5000_digits_is_refused(where: str, tmp_path: Path) -> None:
    job = f'[jobs.a]\norganization = "kolla"\ntags = ["{TAG}"]\nto = "mirror"\n'
    (tmp_path / "port.toml").write_text(f'{job}server = "http://h:{DIGITS}"\n')
    (tmp_path / "number.toml").write_text(f"{job}retries = {DIGITS}\n")
    (tmp_path / "fewer.toml").write_text(f"{job}retries = {FEWER}\n")
    (tmp_path / "number.yaml").write_text(f"quay.io:\n  images:\n    kolla/nova: [{DIGITS}]\n")
    done = await run(*NUMBERS[where], cwd=tmp_path)
    assert done.returncode == 2
    assert len(lines(done)) == 1


async def test_a_server_that_names_a_port_of_5000_digits_fails_its_image(tmp_path: Path) -> None:
    async with QuayServer(kolla(1)[0]) as server:
        server.faults.append(Fault("^/v2/.*/blobs/", Redirect(f"http://127.0.0.1:{DIGITS}/x")))
        done = await run("sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", cwd=tmp_path, check=3)

    assert "internal" not in done.stderr


async def test_a_ping_with_user_and_password_sends_them_as_a_header(tmp_path: Path) -> None:
    async with QuayServer(kolla(1)[0]) as server:
        ping = f"http://me:p%40w@{server.host}/ping"
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", "--ping-url", ping]
        done = await run(*words, cwd=tmp_path, check=0)
        pings = [request for request in server.requests if request.path.startswith("/ping")]

    assert "internal" not in done.stderr
    assert {request.headers["authorization"] for request in pings} == {"Basic bWU6cEB3"}


@pytest.mark.parametrize(
    "name", ["index.json", "oci-layout", ".quaymirror/readers", ".quaymirror/state.db", ".quaymirror/live.json"]
)
async def test_a_pipe_in_place_of_a_file_of_a_mirror_is_not_waited_for(name: str, tmp_path: Path) -> None:
    async with QuayServer(kolla(2)[0]) as server:
        sync = ["sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror"]
        await run(*sync, cwd=tmp_path, check=0)
        (tmp_path / "mirror" / name).unlink()
        os.mkfifo(tmp_path / "mirror" / name)
        for words in (
            ["verify", "mirror"],
            ["watch", "--once", "mirror"],
            ["prune", "mirror"],
            ["history", "--to", "mirror"],
            sync,
        ):
            done = await run(*words, cwd=tmp_path)
            assert done.returncode in (0, 2, 6), (words, done.stderr)


@pytest.mark.parametrize("option", ["--src-cert-dir", "--dest-cert-dir"])
@pytest.mark.parametrize("name", ["a.crt", "a.cert"])
async def test_a_pipe_or_a_device_in_place_of_a_certificate_is_refused(name: str, option: str, tmp_path: Path) -> None:
    """OpenSSL would wait for a writer of the pipe, also after a signal, and read the device for ever."""
    target = [UNUSED, "--state", "state"] if option == "--dest-cert-dir" else ["mirror"]
    sync = ["sync", "kolla", "*", TAG, "--server", "http://127.0.0.1:8", "--retries", "0", "--to", *target]
    for place in ("pipe", "device"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "a.key").touch()
        file = tmp_path / place / name
        os.mkfifo(file) if place == "pipe" else file.symlink_to("/dev/zero")
        done = await run(*sync, option, place, cwd=tmp_path, kill_after=20)
        assert done.returncode == 2
        assert lines(done) == [f"quaymirror: {place}/{name} is not a regular file"]


@pytest.mark.parametrize("name", ["state.db", "history.db"])
async def test_commands_that_read_a_mirror_take_an_empty_database_for_a_missing_one(name: str, tmp_path: Path) -> None:
    """A disk that was full while it was created leaves it; for reading, no table can be created in it."""
    async with QuayServer(kolla(2)[0]) as server:
        await run("sync", "kolla", "*", TAG, "--server", server.url, "--to", "mirror", cwd=tmp_path, check=0)

    (tmp_path / "mirror/.quaymirror" / name).write_bytes(b"")
    for words in (["verify", "mirror"], ["list", "./mirror"], ["prune", "mirror"], ["snapshots", "mirror"]):
        done = await run(*words, cwd=tmp_path, check=0)
        assert lines(done) == [], words

    done = await run("history", "--to", "mirror", cwd=tmp_path)
    assert "read-only" not in done.stderr


async def test_a_current_directory_that_was_removed_is_named(tmp_path: Path) -> None:
    program = f"mkdir d && cd d && rmdir ../d && exec {sys.executable} -m quaymirror sync kolla '*' {TAG} --to mirror"
    command = ["sh", "-c", f"{program} --server http://127.0.0.1:9 --retries 0"]
    done = await anyio.to_thread.run_sync(
        partial(subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=False)
    )
    assert done.returncode == 6
    assert lines(done) == ["quaymirror: the current directory does not exist any more: change to another one"]
