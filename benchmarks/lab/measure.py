"""Running one thing after the other, and what it cost."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# A process of its own, and a small one: the peak memory of a child begins with what its parent had when it forked.
_WRAPPER = """
import json, os, resource, subprocess, sys, time
began = time.perf_counter()
code = subprocess.call(["/bin/bash", "-c", sys.argv[1]])
wall = time.perf_counter() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stderr.write("\\0" + json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss, code]))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run: wall and CPU (children included) in seconds, peak memory of the largest process in MiB."""

    wall: float
    cpu: float
    peak_mib: float
    code: int
    asked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something to measure: `command` is run by a shell in an empty directory, which `{out}` stands for."""

    name: str
    command: str


def run(command: str, out: Path, *, environment: Mapping[str, str] | None = None, timeout: float = 600.0) -> Cost:
    """Run `command`, and return what it cost."""
    out.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _WRAPPER, command],
        cwd=out,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**_environment(), **(environment or {})},
        start_new_session=True,
    )
    assert process.stderr is not None
    words: list[bytes] = []
    reader = threading.Thread(target=lambda: words.append(process.stderr.read()))  # type: ignore[union-attr]
    reader.start()
    killer = threading.Timer(timeout, lambda: os.killpg(process.pid, 9))
    killer.start()
    process.wait()
    killer.cancel()
    reader.join()
    said, _, figures = b"".join(words).decode(errors="replace").rpartition("\0")
    if not figures.startswith("["):
        said, figures = figures, "[0, 0, 0, -9]"

    wall, cpu, peak, code = json.loads(figures)
    if code != 0:
        sys.stderr.write(said[-2000:])

    return Cost(wall, cpu, peak / 1024, code)


def compare(
    contestants: Sequence[Contestant],
    out: Path,
    *,
    rounds: int = 3,
    asked: Callable[[], Mapping[str, int]] = dict,
    prepare: Callable[[Path, Contestant], None] = lambda _out, _contestant: None,
    environment: Mapping[str, str] | None = None,
) -> dict[str, list[Cost]]:
    """Run all contestants in turns, so that what the machine does besides hits all of them alike."""
    costs: dict[str, list[Cost]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants:
            subprocess.run(["rm", "-rf", str(out)], check=True)
            out.mkdir(parents=True)
            prepare(out, contestant)
            asked()
            cost = run(contestant.command.format(out=out), out, environment=environment)
            costs[contestant.name].append(Cost(cost.wall, cost.cpu, cost.peak_mib, cost.code, dict(asked())))
            sys.stderr.write(f"  {number + 1}/{rounds}  {contestant.name:<44} {cost.wall:8.2f} s\n")

    subprocess.run(["rm", "-rf", str(out)], check=True)
    return costs


def table(costs: Mapping[str, Sequence[Cost]], *, base: str) -> list[str]:
    """Return a Markdown table; ratios are medians of the pairs of one round each, against `base`."""
    lines = ["| what | wall s | ratio | CPU s | peak MiB | requests | bytes |", "|---|---|---|---|---|---|---|"]
    for name, runs in sorted(costs.items(), key=lambda item: _median(item[1], "wall")):
        failed = "" if all(cost.code == 0 for cost in runs) else " (failed)"
        ratio = statistics.median(mine.wall / theirs.wall for mine, theirs in zip(runs, costs[base], strict=True))
        asked = runs[-1].asked
        lines.append(
            f"| {name}{failed} | {_median(runs, 'wall'):.2f} [{min(c.wall for c in runs):.2f}-"
            f"{max(c.wall for c in runs):.2f}] | {ratio:.2f} | {_median(runs, 'cpu'):.2f} |"
            f" {_median(runs, 'peak_mib'):.0f} | {asked.get('requests', 0):,} | {asked.get('bytes', 0):,} |"
        )

    return lines


def ratio(costs: Mapping[str, Sequence[Cost]], mine: str, theirs: str) -> float:
    """Return how many times as long `mine` took as `theirs`: the median of the rounds' own ratios."""
    return statistics.median(a.wall / b.wall for a, b in zip(costs[mine], costs[theirs], strict=True))


def save(name: str, costs: Mapping[str, Sequence[Cost]], facts: Mapping[str, Any], results: Path) -> None:
    """Write the costs with the machine's facts to `results`/`name`.json."""
    results.mkdir(parents=True, exist_ok=True)
    document = {
        "scenario": name,
        "machine": machine(),
        **facts,
        "costs": {n: [asdict(c) for c in r] for n, r in costs.items()},
    }
    (results / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "load": os.getloadavg(),
    }


def _environment() -> dict[str, str]:
    """Compiled modules are kept, as for any user: compiling them anew each time is not what is to be measured."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _median(runs: Sequence[Cost], what: str) -> float:
    return statistics.median(getattr(cost, what) for cost in runs)
