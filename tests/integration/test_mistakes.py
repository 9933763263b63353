"""The mistakes of users: each gets one line that says what is wrong, where, and what to do next, and its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
from crashes import zygote
from mistakes import MISTAKES
from organizations import TAG, kolla

from quaymirror.testing import QuayServer


@pytest.mark.timeout(180)
async def test_each_mistake_ends_with_one_line_that_says_the_next_step(tmp_path: Path) -> None:
    registry, images = kolla(12)
    registry.organization("kolla").repository("nova-api").push(TAG, next(iter(images.values())))
    wrong = []
    async with QuayServer(registry) as server, zygote(tmp_path / "outputs") as processes:
        for number, mistake in enumerate(MISTAKES):
            directory = tmp_path / str(number)
            for name, text in mistake.files.items():
                (directory / name).parent.mkdir(parents=True, exist_ok=True)
                (directory / name).write_text(text)

            directory.mkdir(exist_ok=True)
            words = mistake.command.format(tag=TAG).replace("docker:// ", "docker://?socket=none.sock").split(" ")
            env = {"QUAYMIRROR_SERVER": server.url, **mistake.env}
            done = await processes.run(*words, cwd=directory, env=env)
            last = (done.stderr.splitlines() or [""])[-1]
            is_short = done.stderr.count("\n") == 1 or mistake.code != 2
            if done.code != mistake.code or mistake.line not in last or not is_short or "secret" in done.stderr:
                wrong.append(f"{mistake.command}: {done.code}, {done.stderr!r}")

    assert len(MISTAKES) >= 50
    assert not wrong, "\n".join(wrong)
