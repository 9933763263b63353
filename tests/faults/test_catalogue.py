"""The catalogue of faults names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

FAULTS = Path(__file__).parent
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
