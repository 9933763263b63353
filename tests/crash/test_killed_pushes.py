"""Pushes that are killed, and registries that are: the next push completes, and nothing is uploaded twice for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import peers
import pytest
from commands import run
from crashes import KILLED
from layout_writer import LayoutWriter

from quaymirror.testing import SourceManifest, kolla_like

pytestmark = [pytest.mark.interop, pytest.mark.timeout(120)]

TAG = "2025.1"
IMAGES = 8


def mirror(tmp_path: Path) -> dict[str, SourceManifest]:
    writer, images = LayoutWriter(tmp_path / "mirror"), kolla_like(IMAGES, layer_size=200_000)
    writer.entries = [writer.store(image, f"kolla/{name}:{TAG}") for name, image in images.items()]
    writer.write()
    return images


@contextmanager
def pushing(tmp_path: Path, target: peers.DockerRegistry) -> Iterator[subprocess.Popen[str]]:
    """Run a push whose events are the lines of stderr."""
    words = ["push", "mirror", f"registry://{target.host}?insecure=true", "--state", "state", "--progress", "json"]
    command = [sys.executable, "-m", "quaymirror", *words, "--concurrency", "2", "--layer-concurrency", "2"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        yield process


def wait_for(process: subprocess.Popen[str], event: str, count: int) -> None:
    """Return when `count` events of a kind have come, or at the end."""
    assert process.stdout is not None
    for line in process.stdout:
        count -= f'"{event}"' in line
        if not count:
            return


def push_to_the_end(tmp_path: Path, target: peers.DockerRegistry) -> int:
    with pushing(tmp_path, target) as process:
        process.communicate()

    return process.returncode


def check(target: peers.DockerRegistry, images: dict[str, SourceManifest]) -> None:
    for name, image in images.items():
        reference = f"docker://{target.host}/kolla/{name}:{TAG}"
        assert peers.skopeo("inspect", "--raw", "--tls-verify=false", reference).encode() == image.raw


def uploads(target: peers.DockerRegistry) -> Counter[str]:
    finished = (asked for asked in target.requests() if asked.method == "PUT" and asked.status == 201)
    return Counter(asked.path.partition("digest=")[2] for asked in finished if "/blobs/uploads/" in asked.path)


@pytest.mark.parametrize(
    ("event", "count"),
    [
        ("blob_finished", 4),
        *(pytest.param("blob_finished", count, marks=pytest.mark.soak) for count in range(5, 20)),
        *(pytest.param("image_finished", count, marks=pytest.mark.soak) for count in range(1, IMAGES)),
    ],
)
def test_after_kill_9_the_next_push_completes_without_uploading_finished_blobs_again(
    tmp_path: Path, event: str, count: int
) -> None:
    images = mirror(tmp_path)
    with peers.DockerRegistry(tmp_path) as target:
        with pushing(tmp_path, target) as process:
            wait_for(process, event, count)
            process.kill()

        before = uploads(target)
        assert push_to_the_end(tmp_path, target) == 0
        check(target, images)
        # Only blobs whose answer the killed process did not see, or of images that it did not record.
        again = [digest for digest, number in uploads(target).items() if number > 1]
        assert len(again) <= 4, before
        assert push_to_the_end(tmp_path, target) == 0
        assert target.requests()[-1].path == "/v2/"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("step", [9, pytest.param(1, marks=pytest.mark.soak)])
async def test_a_push_killed_at_any_step_of_its_state_is_completed_by_the_next_one(tmp_path: Path, step: int) -> None:
    images = mirror(tmp_path)
    trace, note = tmp_path / "trace", tmp_path / "note"
    with peers.DockerRegistry(tmp_path) as target:

        def push(name: str) -> tuple[str, ...]:
            one = ("--concurrency", "1", "--layer-concurrency", "1", "--progress", "none")
            return ("push", "mirror", f"registry://{target.host}/{name}?insecure=true", "--state", name, *one)

        await run(*push("trial"), cwd=tmp_path, check=0, hook={"trace": {"file": str(trace)}})
        steps = trace.read_text().splitlines()
        assert len(steps) > IMAGES  # states that come together are committed together
        for number in range(0, len(steps), step):
            name = f"killed-{number}"
            hook = {"kill": {"number": number, "when": ("before", "after")[number % 2], "note": str(note)}}
            target.forget()
            done = await run(*push(name), cwd=tmp_path, hook=hook)
            # A run that committed more states together than the first one has fewer steps, and ends before this one.
            assert done.returncode == KILLED or (done.returncode == 0 and number > IMAGES), done.stderr
            await run(*push(name), cwd=tmp_path, check=0)
            # Only blobs of the image that the killed process did not record.
            assert len([digest for digest, times in uploads(target).items() if times > 1]) <= 4
            for image, manifest in images.items():
                assert peers.tag_digest(target.url, f"{name}/kolla/{image}", TAG) == manifest.digest


@pytest.mark.soak
@pytest.mark.parametrize("count", [1, 3, 8, 15])
def test_a_registry_that_is_killed_and_restarted_gets_everything(tmp_path: Path, count: int) -> None:
    images = mirror(tmp_path)
    with peers.DockerRegistry(tmp_path) as target:
        with pushing(tmp_path, target) as process:
            wait_for(process, "blob_finished", count)
            target.kill()
            wait_for(process, "retry_scheduled", 1)
            target.start()
            process.communicate()

        assert process.returncode in (0, 3, 5), os.strerror(process.returncode)
        assert push_to_the_end(tmp_path, target) == 0
        check(target, images)
