"""JSON schemas of everything that quaymirror writes for programs, generated from the types."""

from __future__ import annotations

import types
from collections import Counter, deque
from dataclasses import is_dataclass
from enum import Enum
from typing import Annotated, Any, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from quaymirror import events
from quaymirror.documents import common, images, lock, media, plan, removal, report, runs, snapshots, verification
from quaymirror.errors import Failure, Phase, Scope, Side
from quaymirror.oci import Digest, Reference, Repository
from quaymirror.ui import snapshot
from quaymirror.ui.jsonl import VERSION, event_name

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_SIMPLE = {bool: "boolean", int: "integer", float: "number", str: "string", types.NoneType: "null"}
_ARRAYS = (list, tuple, deque)


def schemas() -> dict[str, dict[str, Any]]:
    """Return all schemas by the names of their files."""
    reported = _Schema("The report of --report", report.REPORT_VERSION)
    listed = _Schema("The images of list --json", 1)
    history = _Schema("The runs of history --json", 2)
    return {
        "events.schema.json": _events(),
        "report.schema.json": reported.of(report.ReportJson | report.ReportsJson),
        "list.schema.json": listed.of(list[images.ListedImageJson]),
        "history.schema.json": history.of(list[runs.PastRunJson]),
        "notification.schema.json": _Schema("The standard input of --notify-command", 1).of(runs.NotificationJson),
        "status.schema.json": _Schema("The jobs of status --json", 1).of(list[runs.JobStatusJson]),
        "info.schema.json": _Schema("The images of info --json", 1).of(
            list[images.InfoJson | images.FailedInfoJson | images.DerivedInfoJson]
        ),
        "verify.schema.json": _Schema("The result of verify --json", 1).of(verification.VerificationJson),
        "snapshots.schema.json": _Schema("The snapshots of snapshots --json", 1).of(list[snapshots.SnapshotJson]),
        "diff.schema.json": _Schema("The differences of diff --json", 1).of(snapshots.DiffJson),
        "hold.schema.json": _Schema("The held names of hold --json", 1).of(list[snapshots.HoldJson]),
        "prune.schema.json": _Schema("The plan of prune --json", 1).of(removal.PruneJson | list[removal.ForgottenJson]),
        "check.schema.json": _Schema("The result of check --json", 1).of(verification.CheckJson),
        "remove.schema.json": _Schema("The images of remove --json", 1).of(removal.RemovalJson),
        "export.schema.json": _Schema("The export of export --json", 1).of(media.ExportJson),
        "import.schema.json": _Schema("The result of import --json", 1).of(media.ImportJson),
        "plan.schema.json": _Schema("A plan for shards", plan.PLAN_VERSION).of(plan.PlanJson),
        "lock.schema.json": _Schema("A lock file", lock.LOCK_VERSION).of(lock.LockJson),
        "progress.schema.json": _progress(),
    }


class _Schema:
    """One schema in the making: types with members become definitions."""

    def __init__(self, title: str, version: int) -> None:
        self._title = f"{title}, version {version}"
        self._definitions: dict[str, Any] = {}

    def of(self, hint: Any) -> dict[str, Any]:
        """Return the schema of values of the type `hint`."""
        return self.with_definitions(self.type(hint))

    def with_definitions(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return the whole document for `schema`, whose types are from here."""
        head = {"$schema": _DIALECT, "title": self._title}
        return head | schema | {"$defs": dict(sorted(self._definitions.items()))}

    def type(self, hint: Any) -> dict[str, Any]:
        """Return the schema of one type."""
        if hint is Any:
            return {}

        if hint in _SIMPLE:
            return {"type": _SIMPLE[hint]}

        if hint in (Digest, Repository, Reference):
            return {"type": "string"}

        return self._annotated(hint) if get_origin(hint) is Annotated else self._generic(hint)

    def object(self, properties: dict[str, Any], *, description: str = "", optional: set[str] | None = None) -> Any:
        """Return the schema of an object with exactly these `properties`."""
        words = {"description": " ".join(description.split())} if description else {}
        required = [name for name in properties if name not in (optional or ())]
        return (
            {"type": "object"}
            | words
            | {"required": required, "additionalProperties": False}
            | {"properties": properties}
        )

    def members(self, cls: Any) -> dict[str, Any]:
        """Return the schemas of the fields of a class."""
        hints = get_type_hints(cls, include_extras=True)
        return {name: self.type(hint) for name, hint in hints.items()}

    def _annotated(self, hint: Any) -> dict[str, Any]:
        base, detail = get_args(hint)
        if isinstance(detail, int):
            return {"const": detail}

        return self.type(detail) if isinstance(detail, type) else self.type(base) | {"format": detail}

    def _generic(self, hint: Any) -> dict[str, Any]:
        origin, arguments = get_origin(hint), get_args(hint)
        if origin is NotRequired:
            return self.type(arguments[0])

        if origin in (Union, types.UnionType):
            return {"anyOf": [self.type(part) for part in arguments]}

        if origin in _ARRAYS:
            return {"type": "array", "items": self.type(arguments[0])}

        if origin in (dict, Counter):
            return {"type": "object", "additionalProperties": self.type(int if origin is Counter else arguments[1])}

        return self._class(hint)

    def _class(self, cls: Any) -> dict[str, Any]:
        if is_dataclass(cls) or is_typeddict(cls) or common.TypedDict in cls.__bases__:
            return self._reference(cls)

        if issubclass(cls, dict):
            return self.type(cls.__orig_bases__[0])

        assert issubclass(cls, Enum)
        return {"enum": [member.value for member in cls]}

    def _reference(self, cls: Any) -> dict[str, Any]:
        name = cls.__name__
        if name not in self._definitions:
            self._definitions[name] = {}
            hints = get_type_hints(cls, include_extras=True)
            optional = {member for member, hint in hints.items() if get_origin(hint) is NotRequired}
            properties = _error(self) if cls is Failure else self.members(cls)
            self._definitions[name] = self.object(properties, description=cls.__doc__, optional=optional)

        return {"$ref": f"#/$defs/{name}"}


def _error(schema: _Schema) -> dict[str, Any]:
    """Return the members of an error in an event."""
    text = schema.type(str)
    enums = {name: schema.type(hint) for name, hint in (("side", Side), ("phase", Phase | None), ("scope", Scope))}
    return {"type": text, "message": text, **enums}


def _events() -> dict[str, Any]:
    schema = _Schema("An event: one line of --progress json", VERSION)
    return schema.with_definitions({"oneOf": [_event(schema, event) for event in get_args(events.Event)]})


def _event(schema: _Schema, event: type) -> dict[str, Any]:
    head = {
        "v": {"const": VERSION},
        "time": {"type": "number", "description": "POSIX time"},
        "run_id": {"type": ["string", "null"]},
        "event": {"const": event_name(object.__new__(event))},
    }
    whole: dict[str, Any] = schema.object(head | schema.members(event), description=event.__doc__ or "")
    return whole


def _progress() -> dict[str, Any]:
    schema = _Schema("The progress file that quaymirror watch reads", snapshot.VERSION)
    members = schema.members(snapshot.SnapshotDocument) | {"snapshot_version": {"const": snapshot.VERSION}}
    fields = {name: schema.type(hint) for name, hint in snapshot.progress_fields().items()}
    return schema.with_definitions(schema.object(members | {"progress": schema.object(fields)}))
