"""`quaymirror config`: show, validate, schema, import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import click

from ..auth.files import read_config_file
from ..config.document import Mistakes, read_config
from ..config.schema import config_schema
from ..errors import ConfigError
from ..settings.register import JOB_TABLE, RUN_TABLE, SELECTION
from ..settings.spec import OptionSpec
from ..text import counted, escape_controls
from .help import check_paths, options
from .messages import say
from .options import json_option
from .outputs import shown_url
from .run import ResolvedValue, config_file, job_names, job_of, resolve, run

_MAX_IMPORTED = 16 * 1024 * 1024


@click.group
def config() -> None:
    """Show, check, describe or import a configuration file."""


@config.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=job_names)
@options("config")
@json_option("Print an object with value and origin of each key of each job.")
def show(jobs: tuple[str, ...], config: Path | None, as_json: bool) -> int:
    """Show each job's effective settings and where they come from."""
    read = read_config(config_file(config))
    context = _run_context()
    tables = {"run": _values(resolve(context, read.run, RUN_TABLE))}
    for name, job in read.chosen(jobs).items():
        selection = {key: {"value": given.value, "origin": given.place} for key, given in job.items() if key in _WORDS}
        tables[f"jobs.{name}"] = selection | _values(resolve(context, job, JOB_TABLE))

    if as_json:
        click.echo(json.dumps(tables, indent=2))
    else:
        click.echo("\n\n".join(_table(name, values) for name, values in tables.items()))

    return 0


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def validate(file: Path | None) -> int:
    """Report every mistake in a configuration file, with line, column and key."""
    file = config_file(file)
    try:
        read = read_config(file)
    except Mistakes as mistakes:
        for line in mistakes.lines:
            click.echo(escape_controls(line))

        raise ConfigError(f"{file}: {counted(len(mistakes.lines), 'mistake')}") from None

    context = _run_context()
    check_paths(context)
    jobs = [job_of(context, name, job) for name, job in read.jobs.items()]
    click.echo(f"{file}: {counted(len(jobs), 'job')}, no mistakes")
    return 0


@config.command()
def schema() -> int:
    """Print the JSON Schema of configuration files, for editors."""
    click.echo(json.dumps(config_schema(), indent=2))
    return 0


@config.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_(file: Path) -> int:
    """Convert a file of skopeo, regsync, image-syncer, hauler, oc-mirror or imgpkg into a configuration file.

    The file is printed on stdout; parts that can't be converted are listed on stderr and in the file.
    """
    from ..config.convert import convert

    try:
        text = read_config_file(file, limit=_MAX_IMPORTED).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"can't read {file}: not UTF-8") from None

    converted = convert(text, str(file))
    click.echo(converted.toml, nl=False)
    for line in converted.left_out:
        say(f"not imported: {line}")

    return 0


_WORDS = {spec.key_name for spec in SELECTION}


def _run_context() -> click.Context:
    """Return the context of `quaymirror run` without arguments."""
    return run.make_context("run", [])


def _values(resolved: Mapping[str, ResolvedValue]) -> dict[str, dict[str, Any]]:
    return {
        each.spec.key_name: {"value": _shown(each.spec, each.text), "origin": each.origin} for each in resolved.values()
    }


def _shown(spec: OptionSpec, value: Any) -> Any:
    if spec.secret and value is not None:
        return shown_url(value)

    if isinstance(value, tuple):
        return [_shown(spec, item) for item in value]

    if isinstance(value, Enum):
        return value.value

    return value if value is None or isinstance(value, str | int | float | bool | list) else str(value)


def _table(name: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (key, json.dumps(value["value"], ensure_ascii=False), value["origin"])
        for key, value in values.items()
        if value["value"] is not None
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"{key:<{widths[0]}} = {text:<{widths[1]}}  # {origin}" for key, text, origin in rows]
    return "\n".join([f"[{name}]", *map(escape_controls, lines)])
