"""Print the measures of the code's structure and language as a table; `--check` fails if one exceeds its limit.

    python benchmarks/structure.py [LABEL=PACKAGE …]
    python benchmarks/structure.py --check
    python benchmarks/structure.py --places WORDS

The first column is this source tree. Further columns are directories of packages, such as `92e26c5=DIR/src/quaymirror`,
or installed packages by name, such as `httpcore`. Directories called `testing` or `tests` are left out. Rows that need
a run are measured for packages called quaymirror only, with this Python, which needs their dependencies.

`--check` measures what needs no run. `--places` lists the places that a row counts, of each row whose name contains
WORDS. The functions of `lab/counts.py`, `lab/language.py` and `lab/frames.py` say how each row is counted.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lab import counts, language
from lab.counts import Tree

_HERE = Path(__file__).parent
_SOURCE = _HERE.parent / "src" / "quaymirror"
# The module that fetches a blob, by package.
_FETCHING = {
    "quaymirror": "quaymirror.transfer.blob",
    "httpcore": "httpcore._async.http11",
    "bandersnatch": "bandersnatch.mirror",
}


@dataclass(frozen=True)
class Subject:
    """A source tree that is measured."""

    label: str
    tree: Tree

    @cached_property
    def passages(self) -> list[language.Passage]:
        """The docstrings and comments of the tree."""
        return list(language.passages(list(self.tree.paths.values())))

    @cached_property
    def words(self) -> int:
        """The number of words in them."""
        return language.count_words(self.passages)

    @cached_property
    def run(self) -> dict[str, Any]:
        """The result of `lab/frames.py`; empty for other packages."""
        if not self.is_ours:
            return {}

        environment = os.environ | {"PYTHONPATH": str(self.tree.root.parent)}
        command = [sys.executable, str(_HERE / "lab" / "frames.py")]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    @property
    def is_ours(self) -> bool:
        """Return True for a version of quaymirror."""
        return self.tree.root.name == "quaymirror"


@dataclass(frozen=True)
class Row:
    """A measure: its value for a tree, and the places that it counts, if they can be listed."""

    name: str
    measure: Callable[[Subject], float | None]
    limit: float | None = None
    places: Callable[[Subject], Iterator[str]] = field(default=lambda _: iter(()))
    is_cheap: bool = True
    is_enforced: bool = True

    def exceeds(self, value: float | None) -> bool:
        """Return whether `value` is above the limit."""
        return self.limit is not None and value is not None and value > self.limit


def _counted(name: str, count: Callable[[Tree], Iterator[str]], limit: float, *, ours: bool = True) -> Row:
    def measure(subject: Subject) -> float | None:
        return sum(1 for _ in count(subject.tree)) if subject.is_ours or not ours else None

    return Row(name, measure, limit, lambda subject: count(subject.tree))


def _worded(name: str, limit: float) -> Row:
    pattern = language.PATTERNS[name]

    def measure(subject: Subject) -> float:
        return round(1000 * sum(1 for _ in language.hits(subject.passages, pattern)) / subject.words, 2)

    def places(subject: Subject) -> Iterator[str]:
        for passage, text in language.hits(subject.passages, pattern):
            yield f"{passage.path}:{passage.line}: {text}"

    return Row(f"{name}, per 1,000 words", measure, limit, places)


def _ran(name: str, key: str, limit: float) -> Row:
    def places(subject: Subject) -> Iterator[str]:
        for task in subject.run["tasks"] if key == "frames" else [subject.run["contexts"]]:
            yield "; ".join(task)

    return Row(name, lambda subject: subject.run.get(key), limit, places, is_cheap=False)


def _closure(subject: Subject) -> float | None:
    start = _FETCHING.get(subject.tree.root.name)
    return counts.closure(subject.tree, start)[0] if start else None


def _registrations(subject: Subject) -> float | None:
    found = counts.registrations(subject.tree)
    return max(found.values()) if found else None


def _registered(subject: Subject) -> Iterator[str]:
    for option, number in counts.registrations(subject.tree).items():
        yield f"{option}: {number}"


def _questions(subject: Subject) -> Iterator[str]:
    for passage in language.questions(subject.passages):
        yield f"{passage.path}:{passage.line}: {passage.text.splitlines()[0]}"


ROWS = (
    _ran("own frames to a blob's request", "frames", 15),
    _ran("context objects on the way", "context", 8),
    Row("classes in the import closure of the blob fetch", _closure, 50),
    Row("source lines without `testing/`", lambda s: counts.lines(s.tree), 20_000, is_enforced=False),
    Row("modules", lambda s: len(s.tree.paths)),
    _counted("`isinstance` and `match` on kinds of targets, outside `targets/`", counts.kind_checks, 0),
    _counted("discovery pipelines", counts.discovery_pipelines, 1),
    _counted("reducers of events", counts.reducers, 1),
    Row("registrations per option, at most", _registrations, 1, _registered),
    _counted("edits of exceptions in flight", counts.error_edits, 0),
    Row("public names declared", lambda s: counts.declared_names(s.tree)),
    Row("public names defined in public modules", lambda s: counts.exported_names(s.tree)),
    Row("words in docstrings and comments", lambda s: s.words),
    _worded("somebody, nobody, everybody, anybody", 0),
    _worded('"Who …" as the subject of a sentence', 0),
    _worded('"What is/was/they …" clauses', 0),
    _worded('"there is/are"', 0.8),
    Row("docstrings", lambda s: sum(passage.is_docstring for passage in s.passages)),
    Row(
        "docstrings that begin with what, who, how, where, when or whether",
        lambda s: sum(1 for _ in _questions(s)),
        0,
        _questions,
    ),
)


def main(words: Sequence[str]) -> int:
    """Print what is asked for; return 1 if a limit is exceeded that is checked."""
    here = Subject("here", Tree(_SOURCE))
    if words[:1] == ["--check"]:
        return _check(here)

    if words[:1] == ["--places"]:
        for row in ROWS:
            if words[1] in row.name:
                print(row.name, *sorted(row.places(here)), sep="\n  ")

        return 0

    _print([here, *map(_subject, words)])
    return 0


def _subject(word: str) -> Subject:
    label, _, where = word.partition("=")
    path = Path(where or label)
    if path.is_dir():
        return Subject(label, Tree(path.resolve()))

    spec = importlib.util.find_spec(where or label)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"no such package: {word}")

    return Subject(label, Tree(Path(spec.submodule_search_locations[0])))


def _check(subject: Subject) -> int:
    bad = [row for row in ROWS if row.is_enforced and row.is_cheap and row.exceeds(row.measure(subject))]
    for row in bad:
        print(f"{row.name}: {row.measure(subject):g}, at most {row.limit:g}", *row.places(subject), sep="\n  ")

    return 1 if bad else 0


def _print(subjects: Sequence[Subject]) -> None:
    print("|", " | ".join(["", "limit", *(subject.label for subject in subjects)]), "|")
    print("|---|--:|" + "--:|" * len(subjects))
    for row in ROWS:
        limit = "" if row.limit is None else f"{row.limit:,g}"
        print("|", " | ".join([row.name, limit, *(_value(row.measure(subject)) for subject in subjects)]), "|")


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
