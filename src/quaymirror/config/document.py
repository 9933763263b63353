"""Reading of `quaymirror.toml`: every mistake is reported with its line, its column and its key.

[run]            options of the whole run: reports, logs
[defaults]       options of all jobs that don't have their own
[jobs.NAME]      a selection, a target, and options
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..auth.files import read_config_file
from ..errors import ConfigError
from ..settings.register import JOB_TABLE, RUN_TABLE, SELECTION, SUBJECTS
from ..settings.spec import OptionSpec, OptionType
from ..targets.spelling import check_spelling
from ..values import dataclass
from .locations import KeyPath, Place, find_places

FILE_NAME = "quaymirror.toml"
_MAX_BYTES = 4 * 1024 * 1024
_TABLES = ("run", "defaults", "jobs")
_JOB = (*SELECTION, *JOB_TABLE)

Value = str | int | float | bool | list[str]


@dataclass(frozen=True, slots=True)
class Mistake:
    """A fault of a value; `path` is empty for the document as a whole."""

    place: Place
    path: KeyPath
    message: str

    def __str__(self) -> str:
        key = ".".join(str(part) if isinstance(part, int) else _quoted(part) for part in self.path)
        return f"{self.place}: {key}: {self.message}" if key else f"{self.place}: {self.message}"


class Mistakes(ConfigError):
    """A configuration file has mistakes; the message has the first one, `lines` all of them."""

    lines: tuple[str, ...] = ()

    @classmethod
    def of(cls, file: Path, mistakes: Sequence[Mistake]) -> Mistakes:
        """Return the error for `mistakes`, of which there is at least one."""
        more = f" (and {len(mistakes) - 1} more: see quaymirror config validate)" if len(mistakes) > 1 else ""
        properties: dict[str, Any] = {"lines": tuple(f"{file}:{mistake}" for mistake in mistakes)}
        return cls(f"{file}:{mistakes[0]}{more}", **properties)


@dataclass(frozen=True, slots=True)
class LocatedValue:
    """A value of the file, with absolute paths, and its place."""

    value: Value
    place: str


@dataclass(frozen=True, slots=True)
class Config:
    """A file without mistakes: values by key, of the run and of each job, `[defaults]` merged in."""

    file: Path
    run: Mapping[str, LocatedValue] = field(default_factory=dict)
    jobs: Mapping[str, Mapping[str, LocatedValue]] = field(default_factory=dict)

    def chosen(self, names: Sequence[str]) -> dict[str, Mapping[str, LocatedValue]]:
        """Return the jobs called `names`, in their order; all without names.

        :raises ConfigError: if a job is unknown.
        """
        for name in names:
            if name not in self.jobs:
                raise ConfigError(f"{self.file} has no job {name!r}{_near(name, self.jobs)}")

        return {name: self.jobs[name] for name in names or self.jobs}


def read_config(file: Path) -> Config:
    """Return the content of `file`.

    :raises Mistakes: if it has mistakes.
    :raises ConfigError: if it can't be read.
    """
    content = read_config_file(file, limit=_MAX_BYTES)
    document, places = _parse(file, content)
    check = _Check(file, places)
    mistakes = sorted(check.document(document), key=lambda mistake: (mistake.place.line, mistake.place.column))
    if mistakes:
        raise Mistakes.of(file, mistakes)

    return _config(file, document, places)


def _parse(file: Path, content: bytes) -> tuple[dict[str, Any], dict[KeyPath, Place]]:
    try:
        text = content.decode()
        return tomllib.loads(text), find_places(text.replace("\r\n", "\n"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise Mistakes.of(file, [Mistake(Place(line, 1), (), "not UTF-8")]) from None
    except tomllib.TOMLDecodeError as error:
        message, place = _syntax(str(error), content.decode())
        raise Mistakes.of(file, [Mistake(place, (), message)]) from None
    except RecursionError:
        raise ConfigError(f"{file} is nested too deeply") from None
    except ValueError:
        raise ConfigError(f"{file} has a number or a date that is out of range") from None


def _syntax(message: str, text: str) -> tuple[str, Place]:
    """Take tomllib's message apart: `Expected '=' after a key (at line 3, column 7)`."""
    words, _, place = message.partition(" (at ")
    numbers = [int(word) for word in place.replace(",", " ").replace(")", " ").split() if word.isdigit()]
    at = Place(*numbers) if len(numbers) == 2 else Place(text.count("\n") + 1, 1)
    return f"not TOML: {words[:1].lower()}{words[1:]}", at


class _Check:
    """Finds every mistake of a document."""

    def __init__(self, file: Path, places: Mapping[KeyPath, Place]) -> None:
        self._file = file
        self._places = places

    def document(self, document: Mapping[str, Any]) -> Iterator[Mistake]:
        for name in document:
            if name not in _TABLES:
                yield self._mistake((name,), f"unknown table{_near(name, _TABLES)}; there are run, defaults and jobs")

        yield from self._table(document.get("run", {}), ("run",), RUN_TABLE)
        yield from self._table(document.get("defaults", {}), ("defaults",), JOB_TABLE)
        jobs = document.get("jobs", {})
        if not isinstance(jobs, dict):
            yield self._mistake(("jobs",), "must be a table of jobs: write [jobs.NAME]")
        elif not jobs:
            yield self._mistake(("jobs",), "no job: write [jobs.NAME]")
        else:
            for name, job in jobs.items():
                yield from self._job(name, job)

    def _job(self, name: str, job: object) -> Iterator[Mistake]:
        yield from self._table(job, ("jobs", name), _JOB)
        if isinstance(job, dict):
            given = [key for key in SUBJECTS if key in job]
            if not given:
                yield self._mistake(("jobs", name), "'organization' is missing (or 'source', or 'images')")

            for key in given[1:]:
                yield self._mistake(("jobs", name, key), f"a job has one of {', '.join(SUBJECTS)}")

    def _table(self, table: object, path: KeyPath, specs: Sequence[OptionSpec]) -> Iterator[Mistake]:
        if not isinstance(table, dict):
            yield self._mistake(path, "must be a table")
            return

        known = {spec.key_name: spec for spec in specs}
        for name, value in table.items():
            if name in known:
                yield from self._value(value, (*path, name), known[name])
            else:
                yield self._mistake((*path, name), f"unknown key{_near(name, known)}")

    def _value(self, value: object, path: KeyPath, spec: OptionSpec) -> Iterator[Mistake]:
        items = {path: value}
        if spec.many and isinstance(value, list):
            items = {(*path, number): item for number, item in enumerate(value)}

        for place, item in items.items():
            try:
                spec.check_type(item, is_item=item is not value)
                spec.item(_from_here(item, spec, self._file))
            except ConfigError as error:
                yield self._mistake(place, error.message)
            except RuntimeError:
                yield self._mistake(place, "unknown home directory")

    def _mistake(self, path: KeyPath, message: str) -> Mistake:
        nearest = next(path[:end] for end in range(len(path), -1, -1) if path[:end] in self._places or not end)
        return Mistake(self._places.get(nearest, Place(1, 1)), path, message)


def _config(file: Path, document: Mapping[str, Any], places: Mapping[KeyPath, Place]) -> Config:
    specs = {spec.key_name: spec for spec in (*RUN_TABLE, *_JOB)}

    def located(table: Mapping[str, Any], *path: str) -> dict[str, LocatedValue]:
        return {
            name: LocatedValue(_from_here(value, specs[name], file), f"{file}:{places[(*path, name)].line}")
            for name, value in table.items()
        }

    defaults = located(document.get("defaults", {}), "defaults")
    jobs = {name: defaults | located(job, "jobs", name) for name, job in document["jobs"].items()}
    return Config(file, located(document.get("run", {}), "run"), jobs)


def _from_here(value: Any, spec: OptionSpec, file: Path) -> Any:
    """Make a relative path start at the file's directory: the working directory of a timer's run can be any.

    :raises ConfigError: if it is a target in another tool's spelling.
    :raises RuntimeError: if it begins with a home directory that is not known.
    """
    if isinstance(value, str) and "\0" not in value:
        scheme, separator, rest = value.partition("://")
        if spec.kind is OptionType.TARGET:
            check_spelling(value, base=str(file.absolute().parent))

        if spec.word and value == spec.word:
            return value

        if spec.kind is OptionType.PATH or (spec.kind is OptionType.TARGET and not separator):
            return str(file.absolute().parent / Path(value).expanduser())

        if spec.kind is OptionType.TARGET and scheme == "ocidir":
            return f"ocidir://{file.absolute().parent / rest}"

    return value


def _near(name: str, names: Sequence[str] | Mapping[str, object]) -> str:
    name = name.replace("_", "-")
    close = get_close_matches(name, list(names), 1, 0.6) or [known for known in names if known.startswith(name)]
    return f"; did you mean {close[0]!r}?" if close else ""


def _quoted(part: str) -> str:
    return part if part.replace("-", "").replace("_", "").isalnum() else repr(part[:60])
