"""The command as a user meets it: a process, its streams, its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import layouts
import pytest
from commands import run
from organizations import TAG, kolla
from receiver import Receiver

from quaymirror.testing import Fault, Hold, QuayServer, Registry

BAD_INPUT = {
    "no organization": ([], "Missing argument"),
    "empty organization": ([""], "not an organization name: ''"),
    "malformed organization": (["Kolla!"], "not an organization name"),
    "empty glob": (["kolla", ""], "glob"),
    "unclosed bracket": (["kolla", "["], "not a valid glob"),
    "empty tag": (["kolla", "*", ""], "not a tag"),
    "malformed tag": (["kolla", "*", "a b"], "not a tag: 'a b'"),
    "one word too many": (["kolla", "*", "latest", "more"], "unexpected extra argument"),
    "not a quay address": (["dockr://kolla/x:y"], "unknown kind of source: 'dockr'"),
    "unknown query": (["quay://kolla/*:x?until=2025-01-01"], "unknown query"),
    "words after an address": (["quay://kolla/*:x", "*"], "no GLOB or TAG can follow it"),
    "impossible date": (["kolla", "--since", "2025-02-30"], "no such date"),
    "since in the future": (["kolla", "--since", "2999-01-01"], "future"),
    "malformed platform": (["kolla", "--platform", "amd64"], "not a platform: 'amd64'"),
    "zero workers": (["kolla", "--concurrency", "0"], "must be between 1"),
    "a word for a number": (["kolla", "-c", "many"], "must be an integer, not 'many'"),
    "server with a path": (["kolla", "--server", "https://quay.io/kolla"], "write https://HOST[:PORT]"),
    "server with a password": (["kolla", "--server", "https://me:secret@quay.io"], "no place in a URL"),
    "unknown kind of target": (["kolla", "--to", "s4://bucket"], "unknown kind of target: 's4'"),
    "a file as the target": (["kolla", "--to", "/etc/passwd"], "is not a directory"),
    "a directory of something else": (["kolla", "--to", "/etc"], "is not an OCI image layout"),
    "missing token file": (["kolla", "--token-file", "missing/token"], "missing/token"),
    "user without password": (["kolla", "--username", "me"], "go together"),
    "report nowhere": (["kolla", "--report", "missing/report.json"], "can't write a file at 'missing"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
async def test_bad_input_gets_one_clear_line_and_exit_code_2(case: str, tmp_path: Path) -> None:
    arguments, words = BAD_INPUT[case]
    done = await run("sync", *arguments, cwd=tmp_path, check=2)
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("quaymirror: ")
    assert words in done.stderr
    assert "secret" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [[], ["config"]])
async def test_a_command_without_its_arguments_prints_the_help(words: list[str], tmp_path: Path) -> None:
    done = await run(*words, cwd=tmp_path, check=0)
    assert done.stdout.startswith("Usage: quaymirror")
    assert "Commands:\n" in done.stdout
    assert done.stderr == ""


async def test_an_unreachable_server_is_told_in_one_line_with_exit_code_5(tmp_path: Path) -> None:
    done = await run("list", "kolla", "--server", "http://127.0.0.1:9", "--retries", "0", cwd=tmp_path, check=5)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(
        "quaymirror: can't list 'kolla': 127.0.0.1:9: cannot connect: connection refused; check"
    )


async def test_an_unknown_organization_is_told_with_exit_code_9(tmp_path: Path) -> None:
    async with QuayServer(Registry()) as server:
        done = await run("sync", "nobody", "--server", server.url, cwd=tmp_path, check=9)
        allowed = await run("sync", "nobody", "--server", server.url, "--allow-empty", cwd=tmp_path)

    assert "this server has no organization 'nobody'" in done.stderr.splitlines()[-1]
    assert allowed.returncode == 0


async def test_a_log_has_a_line_an_image_and_a_report_tells_the_whole_run(tmp_path: Path) -> None:
    registry, images = kolla(6)
    async with QuayServer(registry) as server:
        words = ["sync", "kolla", "*", TAG, "--server", server.url, "--report", "report.json"]
        done = await run(*words, cwd=tmp_path, check=0)

    assert done.stdout == ""
    for name, image in images.items():
        (line,) = [line for line in done.stderr.splitlines() if f"kolla/{name}:{TAG}" in line]
        assert line.startswith("mirrored")
        assert image.digest[:19] in line

    report = json.loads((tmp_path / "report.json").read_text())
    assert report["exit_code"] == 0
    assert report["images"]["mirrored"] == 6
    assert [outcome["reference"] for outcome in report["outcomes"]] == sorted(
        f"{server.host}/kolla/{name}:{TAG}" for name in images
    )
    layouts.check(tmp_path / "mirror")


async def test_json_progress_is_one_object_a_line_on_stdout(tmp_path: Path) -> None:
    registry, images = kolla(3)
    async with QuayServer(registry) as server:
        words = ["sync", f"quay://kolla/*:{TAG}?since=2001-01-01", "--server", server.url, "--progress", "json"]
        done = await run(*words, cwd=tmp_path, check=0)

    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert events[0]["event"] == "run_started"
    assert events[-1]["event"] == "run_finished"
    finished = [event for event in events if event["event"] == "image_finished"]
    assert len(finished) == len(images)


async def test_list_shows_a_table_and_json_with_the_promised_fields(tmp_path: Path) -> None:
    registry, images = kolla(6)
    async with QuayServer(registry) as server:
        table = await run("list", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=0)
        found = await run("list", "kolla", "*", TAG, "--json", "--server", server.url, cwd=tmp_path, check=0)
        nothing = await run("list", "kolla", "zzz*", TAG, "--json", "--server", server.url, cwd=tmp_path, check=9)
        assert server.count("^/v2/") == 0

    assert all(f"kolla/{name}:{TAG}" in table.stdout for name in images)
    rows: list[dict[str, Any]] = json.loads(found.stdout)
    assert [set(row) for row in rows] == [{"repository", "tag", "digest", "updated", "size"}] * len(images)
    assert {row["repository"]: row["digest"] for row in rows} == {f"kolla/{n}": i.digest for n, i in images.items()}
    assert json.loads(nothing.stdout) == []


async def test_verify_names_what_is_damaged_and_who_needs_it(tmp_path: Path) -> None:
    registry, images = kolla(4)
    name, image = next((name, image) for name, image in images.items() if not image.is_index)
    async with QuayServer(registry) as server:
        await run("sync", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=0)

    await run("verify", "mirror", cwd=tmp_path, check=0)
    config, layer = (tmp_path / "mirror/blobs/sha256" / blob.digest.partition(":")[2] for blob in image.blobs[:2])
    config.unlink()
    layer.chmod(0o644)
    layer.write_bytes(b"x" * layer.stat().st_size)
    done = await run("verify", "mirror", "--json", cwd=tmp_path, check=8)
    damages = {damage["digest"]: damage for damage in json.loads(done.stdout)["damages"]}
    assert damages[image.blobs[0].digest]["kind"] == "missing"
    assert damages[image.blobs[1].digest]["kind"] == "damaged"
    assert f"kolla/{name}:{TAG}" in damages[image.blobs[1].digest]["images"]
    await run("verify", "nowhere", cwd=tmp_path, check=2)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("synk", "'synk'; did you mean 'sync'? (try 'quaymirror --help')"),
        ("xyzzy", "'xyzzy' (try 'quaymirror --help')"),
    ],
)
async def test_a_command_that_is_none_is_answered_with_the_nearest(tmp_path: Path, word: str, said: str) -> None:
    done = await run(word, cwd=tmp_path, check=2)
    assert done.stderr == f"quaymirror: No such command {said}\n"


async def interrupted(server: QuayServer, cwd: Path, *signals: signal.Signals) -> int:
    """Start a sync, send it signals while a blob is on its way, and return its exit code."""
    held, asked = anyio.Event(), anyio.Event()
    server.on_request = lambda request: asked.set() if request.listener == "cdn" else None
    command = [sys.executable, "-m", "quaymirror", "sync", "kolla", "*", TAG, "--server", server.url, "-c", "2"]
    async with await anyio.open_process(command, cwd=cwd, stdout=None, stderr=subprocess.PIPE) as process:
        with anyio.fail_after(40):
            await asked.wait()
            process.send_signal(signals[0])
            assert process.stderr is not None
            text = ""
            async for chunk in process.stderr:
                text += chunk.decode()
                if "stopping" in text and not held.is_set():
                    held.set()
                    for again in signals[1:]:
                        process.send_signal(again)

                    if len(signals) == 1:
                        release(server)

            code = await process.wait()

    assert "Traceback" not in text
    return code


def release(server: QuayServer) -> None:
    """Let the held blobs go."""
    for fault in server.faults:
        if isinstance(fault.action, Hold):
            fault.action.until.set()


@pytest.mark.parametrize(
    ("signals", "code"),
    [((signal.SIGINT,), 130), ((signal.SIGTERM,), 143), ((signal.SIGINT, signal.SIGINT), 130)],
    ids=["ctrl-c drains", "sigterm drains", "a second ctrl-c stops at once"],
)
async def test_signals_end_a_run_and_the_next_one_completes_it(
    tmp_path: Path, signals: tuple[signal.Signals, ...], code: int
) -> None:
    import asyncio

    registry, images = kolla(8)
    async with QuayServer(registry) as server:
        server.faults.append(Fault(".*", Hold(asyncio.Event()), listener="cdn"))
        assert await interrupted(server, tmp_path, *signals) == code
        partly = layouts.names(tmp_path / "mirror")
        assert len(partly) < len(images)
        assert bool(partly) == (len(signals) == 1)
        layouts.check(tmp_path / "mirror")
        server.on_request = None
        server.faults.clear()
        await run("sync", "kolla", "*", TAG, "--server", server.url, cwd=tmp_path, check=0)

    assert len(layouts.names(tmp_path / "mirror")) == len(images)
    layouts.check(tmp_path / "mirror")


@pytest.mark.parametrize("target", ["registry://{}/quay?insecure=true", "s3://mirror/kolla"])
async def test_a_signal_ends_a_run_whose_target_accepts_connections_and_never_answers(
    tmp_path: Path, target: str
) -> None:
    asked = anyio.Event()

    async def keep(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            async for _ in stream:
                asked.set()

    async with QuayServer(kolla(1)[0]) as server, await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        silent = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        command = [sys.executable, "-m", "quaymirror", "sync", "kolla", "--server", server.url, "--state", "state"]
        command += ["--to", target.format(silent)]
        credentials = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "pw", "AWS_REGION": "us-east-1"}
        env = os.environ | credentials | {"AWS_ENDPOINT": f"http://{silent}", "AWS_ALLOW_HTTP": "true"}
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, keep)
            async with await anyio.open_process(command, cwd=tmp_path, env=env, stdout=None, stderr=None) as process:
                with anyio.fail_after(30):
                    await asked.wait()
                    process.send_signal(signal.SIGINT)
                    assert await process.wait() == 130

            tasks.cancel_scope.cancel()


async def test_the_demo_mirrors_and_says_what_to_try_next(tmp_path: Path) -> None:
    done = await run("demo", "--count", "12", "--to", "here", cwd=tmp_path, check=0)
    assert "skopeo inspect oci:" in done.stderr
    assert len(layouts.names(tmp_path / "here")) == 12
    layouts.check(tmp_path / "here")
    assert "which stays at here" in done.stderr


async def test_a_demo_without_a_target_removes_what_it_made(tmp_path: Path) -> None:
    done = await run("demo", "--count", "1", cwd=tmp_path, env={"TMPDIR": str(tmp_path)}, check=0)
    assert "was removed" in done.stderr
    assert list(tmp_path.iterdir()) == []


async def test_one_stdin_is_not_the_password_of_two_registries(tmp_path: Path) -> None:
    options = ["--src-username", "a", "--src-password-stdin", "--dest-username", "b", "--dest-password-stdin"]
    done = await run("sync", "kolla", "--to", "registry://r.example", *options, cwd=tmp_path, check=2)
    assert "standard input can't be the password of both" in done.stderr


async def test_verifying_a_registry_that_nothing_was_pushed_to_is_a_mistake(tmp_path: Path) -> None:
    done = await run("verify", "registry://r.example", "--state", str(tmp_path), cwd=tmp_path, check=2)
    assert "no run found for registry://" in done.stderr


async def test_a_target_that_is_down_is_told_in_one_line_with_exit_code_5(tmp_path: Path) -> None:
    target = "registry://127.0.0.1:1?insecure=true"
    options = ["--server", "http://127.0.0.1:2", "--retries", "0", "--state", str(tmp_path / "state")]
    done = await run("sync", "kolla", "--to", target, *options, cwd=tmp_path, check=5)
    assert done.stderr.count("\n") == 1
    told = "quaymirror: the target is not usable: 127.0.0.1:1: cannot connect: connection refused; check"
    assert done.stderr.startswith(told)


async def test_a_registry_is_filled_and_verified_from_the_command_line(tmp_path: Path) -> None:
    registry, images = kolla(3)
    async with QuayServer(registry) as server, Receiver() as target:
        options = ["--to", target.address, "--server", server.url, "--state", str(tmp_path / "state")]
        await run("sync", "kolla", "*", TAG, *options, "--verify-target", cwd=tmp_path, check=0)
        done = await run("history", "--to", target.address, "--state", str(tmp_path / "state"), cwd=tmp_path, check=0)
        assert len(done.stdout.splitlines()) == 2
        name = next(iter(images))
        lost = target.manifests[f"kolla/{name}"].pop(TAG)
        assert lost[1] == images[name].raw
        damaged = await run(
            "verify", target.address, "--state", str(tmp_path / "state"), "--json", cwd=tmp_path, check=8
        )
        (damage,) = json.loads(damaged.stdout)["damages"]
        assert damage == {"kind": "missing", "digest": images[name].digest, "images": [f"kolla/{name}:{TAG}"]}
        verified = ("verify", target.address, "--state", str(tmp_path / "state"))
        again = await run(*verified, cwd=tmp_path, check=8)
        assert again.stdout == f"missing  {images[name].digest}  needed by kolla/{name}:{TAG}\n"
        await run("sync", "kolla", "*", TAG, *options, "--verify-target", cwd=tmp_path, check=0)
        assert target.manifests[f"kolla/{name}"][TAG] == lost
