"""The JSON Schema of configuration files, for editors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..settings.register import JOB_TABLE, RUN_TABLE, SELECTION, SUBJECTS
from ..settings.spec import OptionSpec, OptionType

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PATHS = {OptionType.PATH, OptionType.TARGET}


def config_schema() -> dict[str, Any]:
    """Return the schema."""
    return {
        "$schema": _DIALECT,
        "title": "quaymirror.toml",
        "description": "Named jobs of quaymirror: a selection, a target, and options.",
        "type": "object",
        "additionalProperties": False,
        "required": ["jobs"],
        "properties": {
            "run": _table(RUN_TABLE, "Options of the whole run."),
            "defaults": _table(JOB_TABLE, "Options of all jobs that don't have their own."),
            "jobs": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": {
                    **_table([*SELECTION, *JOB_TABLE], "One job."),
                    "oneOf": [{"required": [key]} for key in SUBJECTS],
                },
            },
        },
    }


def _table(specs: Sequence[OptionSpec], description: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        "properties": {spec.key_name: _property(spec) for spec in specs},
    }


def _property(spec: OptionSpec) -> dict[str, Any]:
    kind = "string" if spec.kind in _PATHS else spec.kind.value
    one: dict[str, Any] = {"type": kind, **({"enum": list(spec.choices)} if spec.choices else {})}
    if spec.kind in (OptionType.NUMBER, OptionType.DECIMAL):
        one |= {"minimum": spec.least, "maximum": spec.most}

    described = {"description": spec.help}
    return {"type": "array", "items": one, **described} if spec.many else {**one, **described}
