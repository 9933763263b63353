"""Run contestants one after the other, and measure their cost."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# A small process of its own: the peak memory of a child starts with the memory of its parent at the fork.
_WRAPPER = """
import json, os, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.call(["/bin/bash", "-c", sys.argv[1]])
wall = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stderr.write("\\0" + json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss, code]))
"""
TIMEOUT = 300.0
# Contestants that take longer run once: a factor of ten needs no third digit.
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """One run: wall and CPU (children included) in seconds, peak memory of the largest process in MiB.

    `asked` has the counts of servers, and other measurements of a scenario. `said` is the reason of a failure.
    """

    wall: float
    cpu: float
    peak_mib: float
    code: int = 0
    asked: Mapping[str, float] = field(default_factory=dict)
    said: str = ""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A command to measure: a shell runs `command` in a directory, `{out}`.

    It takes part if all programs it `needs` are installed. With `always`, it runs in each round, even if it is slow.
    """

    name: str
    command: str
    needs: tuple[str, ...] = ()
    always: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str:
        """Return the programs that it needs and that are not installed."""
        return ", ".join(program for program in self.needs if shutil.which(program) is None)


def run(contestant: Contestant, out: Path, *, timeout: float = TIMEOUT) -> Cost:
    """Run the command of `contestant` in `out`, and return its cost."""
    if contestant.missing:
        return Cost(0, 0, 0, -1, said=f"not here: {contestant.missing}")

    out.mkdir(parents=True, exist_ok=True)
    # Some write whole layers there, and its default is on a disk.
    temporary = fresh(out.with_name(f"{out.name}-temporary"))
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WRAPPER, contestant.command.replace("{out}", str(out))],
        cwd=out,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**_environment(), "TMPDIR": str(temporary), **contestant.environment},
        start_new_session=True,
    )
    killer = threading.Timer(timeout, _kill, [process])
    killer.start()
    try:
        heard = process.communicate()[1].decode(errors="replace")
    finally:
        killer.cancel()
        _kill(process)  # when it is this process that is to end
        shutil.rmtree(temporary, ignore_errors=True)

    said, _, figures = heard.rpartition("\0")
    if not figures.startswith("["):
        return Cost(0, 0, 0, -9, said=f"ended after {timeout:.0f} s")

    wall, cpu, peak, code = json.loads(figures)
    return Cost(wall, cpu, peak / 1024, code, _figures(out), said=_last_line(said) if code else "")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, if it is still there: it leads a session of its own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def compare(
    contestants: Sequence[Contestant],
    turn: Callable[[Contestant], Cost],
    *,
    rounds: int,
    costs: dict[str, list[Cost]] | None = None,
) -> dict[str, list[Cost]]:
    """Run all in turn, so that other load of the machine affects all of them alike.

    A contestant that failed is not run again, and a slow one only if it has to run in each round. `costs` are those of
    earlier rounds.
    """
    costs = {} if costs is None else costs
    for number in range(rounds):
        for contestant in contestants:
            runs = costs.setdefault(contestant.name, [])
            if runs and (runs[-1].code or (runs[-1].wall > _PATIENCE and not contestant.always)):
                continue

            runs.append(turn(contestant))
            what = runs[-1].said if runs[-1].code else f"{runs[-1].wall:8.2f} s"
            sys.stderr.write(f"  {number + 1}/{rounds}  {contestant.name:<48} {what}\n")
            sys.stderr.flush()

    return costs


def fresh(out: Path) -> Path:
    """Empty `out`, and return it."""
    # In a process, so that removing 4 GB does not count for this one's memory and time.
    subprocess.run(["rm", "-rf", str(out)], check=True)
    out.mkdir(parents=True)
    return out


def with_counts(cost: Cost, counts: Mapping[str, float]) -> Cost:
    """Return `cost` with more counts."""
    return replace(cost, asked={**cost.asked, **counts})


def paired(costs: Mapping[str, Sequence[Cost]], mine: str, theirs: str) -> list[float]:
    """Return how many times as long `mine` took as `theirs`, for each round that both of them came through."""
    pairs = zip(costs.get(mine, ()), costs.get(theirs, ()), strict=False)
    return [a.wall / b.wall for a, b in pairs if not a.code and not b.code and b.wall]


def ratio(costs: Mapping[str, Sequence[Cost]], mine: str, theirs: str) -> float | None:
    """Return the median of the ratios of the rounds, None without a round that both completed."""
    ratios = paired(costs, mine, theirs)
    return statistics.median(ratios) if ratios else None


def median(runs: Iterable[Cost], what: str) -> float | None:
    """Return the median of an attribute of `Cost`, or of something that was counted; None if no run came through."""
    values = [getattr(cost, what) if hasattr(cost, what) else cost.asked.get(what, 0) for cost in runs if not cost.code]
    return statistics.median(values) if values else None


def divided(mine: float | None, theirs: float | None) -> float | None:
    """Divide where both are known."""
    return mine / theirs if mine is not None and theirs else None


def machine() -> dict[str, Any]:
    """Return a description of the machine."""
    return {
        "cores": os.cpu_count(),
        "cpu": _cpu(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": ".".join(platform.release().split(".")[:2]),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
    }


def _figures(out: Path) -> dict[str, float]:
    """Return the figures that a contestant wrote itself."""
    file = out / "figures.json"
    with contextlib.suppress(ValueError):
        return dict(json.loads(file.read_text())) if file.exists() else {}

    return {}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _environment() -> dict[str, str]:
    """Return an environment in which compiled modules are kept, as for users: compilation is not to be measured."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _last_line(text: str) -> str:
    """Return the line with the reason of the failure, without times and the directories of the lab."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "rror" in line or "fatal" in line] or lines
    if not telling:
        return "failed without a word"

    words = re.sub(r'^time="[^"]*" level=\w+ msg=', "", telling[-1])
    return re.sub(r"/\S*quaymirror-lab-\w+/", "", words).replace('\\"', "").strip('"')[:200]
