"""What the docs say of the code is what the code says."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest

DOCS = Path(__file__).parents[2] / "docs"
GOLDEN_EVENTS = Path(__file__).parent / "ui" / "golden" / "events.jsonl"


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_reference_is_up_to_date(generate: ModuleType) -> None:
    assert generate.stale() == [], "run python docs/generate.py"


def test_every_event_fits_the_published_schema() -> None:
    schema = json.loads((DOCS / "reference/events.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for line in GOLDEN_EVENTS.read_text().splitlines():
        validator.validate(json.loads(line))


def test_help_names_every_command_and_is_no_wider_than_asked(generate: ModuleType) -> None:
    names = [name for name, _ in generate.commands(generate.main)]
    assert {"quaymirror sync", "quaymirror run", "quaymirror config import"} <= set(names)
    for name, command in generate.commands(generate.main):
        assert all(len(line) <= 100 for line in generate.help_of(name, command).splitlines())
