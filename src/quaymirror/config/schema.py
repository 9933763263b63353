"""The configuration file's JSON Schema, for editors; made of the same keys that are checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .document import ConfigSchema
from .keys import OptionSpec, OptionType

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_PATHS = {OptionType.PATH, OptionType.TARGET}


def config_schema(shape: ConfigSchema) -> dict[str, Any]:
    """Return the schema of files of this `shape`."""
    return {
        "$schema": _DIALECT,
        "title": "quaymirror.toml",
        "description": "Named jobs of quaymirror: what to mirror, where to, and how.",
        "type": "object",
        "additionalProperties": False,
        "required": ["jobs"],
        "properties": {
            "run": _table(shape.run, "What holds for the whole run."),
            "defaults": _table(shape.options, "What jobs have that don't say otherwise."),
            "jobs": {
                "type": "object",
                "minProperties": 1,
                "additionalProperties": _table([*shape.selection, *shape.options], "One job."),
            },
        },
    }


def _table(keys: Sequence[OptionSpec], description: str) -> dict[str, Any]:
    required = [key.name for key in keys if key.required]
    return {
        "type": "object",
        "description": description,
        "additionalProperties": False,
        **({"required": required} if required else {}),
        "properties": {key.name: _property(key) for key in keys},
    }


def _property(key: OptionSpec) -> dict[str, Any]:
    kind = "string" if key.kind in _PATHS else key.kind.value
    one: dict[str, Any] = {"type": kind, **({"enum": list(key.choices)} if key.choices else {})}
    described = {"description": key.help} if key.help else {}
    return {"type": "array", "items": one, **described} if key.many else {**one, **described}
