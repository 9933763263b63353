"""The catalogue of faults names tests that exist, and commits at which they can have failed."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
_COMMIT = re.compile("[0-9a-f]{7,8}")
ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in (FAULTS / "CATALOGUE.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith(("| class ", "| ID "))
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_of_the_catalogue_names_tests_that_exist(row: list[str]) -> None:
    tests = [*_tests_by_file(row[-1]), *_tests_by_path(row[2])]
    assert tests
    for file, name in tests:
        assert _has((FAULTS.parent / file).read_text(), name), f"{file} does not have {name!r}"


def test_no_case_has_two_rows() -> None:
    assert len({row[0] for row in ROWS}) == len(ROWS) > 100


@pytest.mark.soak
def test_the_commits_of_a_row_are_older_than_its_fix() -> None:
    """Needs the whole history; the runs themselves are described in the catalogue."""
    wrong = []
    for name, _, tests, failed_at, fix in (row for row in ROWS if len(row) == 5 and _COMMIT.fullmatch(row[3])):
        names = {test for _, test in _tests_by_path(tests)}
        if not (_is_ancestor(failed_at, "HEAD") and names - _tests_at(failed_at)):
            wrong.append(f"{name}: {failed_at} is no earlier commit, or has all of its tests")

        is_fix = fix == "-" or (
            _is_ancestor(failed_at, f"{fix}^")
            and _is_ancestor(fix, "HEAD")
            and names & _tests_at(fix) - _tests_at(f"{fix}^")
        )
        if not is_fix:
            wrong.append(f"{name}: {fix} adds none of its tests, or is not later than {failed_at}")

    assert not wrong, "\n".join(wrong)


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=FAULTS, capture_output=True, text=True, check=False)


def _is_ancestor(older: str, newer: str) -> bool:
    return _git("merge-base", "--is-ancestor", older, newer).returncode == 0


@functools.cache
def _tests_at(commit: str) -> frozenset[str]:
    found = _git("grep", "-h", "def test_", commit, "--", ":/tests").stdout
    return frozenset(re.findall(r"def (test_\w+)\(", found))


def _tests_by_file(cell: str) -> list[tuple[str, str]]:
    """Read `faults/test_a.py: name, name`, each name in back quotes."""
    found = re.findall(r"([\w/]+\.py): ((?:`[^`]+`(?:, )?)+)", cell)
    return [(file, name) for file, names in found for name in re.findall("`([^`]+)`", names)]


def _tests_by_path(cell: str) -> list[tuple[str, str]]:
    """Read `test_a.py::name`, `unit/test_b.py::name`, `::name`, each in back quotes; the default is this directory."""
    found: list[tuple[str, str]] = []
    for file, name in re.findall(r"`([\w/]+\.py)?::(\w+)", cell):
        path = file if "/" in file else f"faults/{file}"
        found.append((path if file else found[-1][0], name))

    return found


def _has(source: str, name: str) -> bool:
    """Return whether `name` is a test function, or a string that names a case, maybe with placeholders."""
    return f"def {name}(" in source if name.startswith("test_") else f'"{name}"' in source
