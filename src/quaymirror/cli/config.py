"""`quaymirror config`: show, validate, schema, import."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from ..config.document import Mistakes, read_config
from ..config.schema import config_schema
from ..errors import ConfigError
from ..text import escape_controls
from .help import long_name
from .keys import file_options, shape_of
from .outputs import shown_url
from .run import ResolvedValue, config_file, job_settings, plan_of, run, run_settings
from .sync import sync

_FILE = click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")


@click.group(context_settings={"max_content_width": 100})
def config() -> None:
    """Show, check, describe or import a configuration file."""


@config.command()
@click.argument("jobs", nargs=-1, metavar="[JOB]...")
@_FILE
@click.option("--json", "as_json", is_flag=True, help="One object: jobs, their keys, value and origin of each.")
def show(jobs: tuple[str, ...], config: Path | None, as_json: bool) -> int:
    """Show what each job comes to, and where each value is from."""
    read = read_config(config_file(config), shape_of(sync))
    context = _run_context()
    tables = {"run": _values(run_settings(context, read))}
    for name, job in read.chosen(jobs).items():
        selection = {key: {"value": given.value, "origin": given.place} for key, given in job.items() if key in _WORDS}
        tables[f"jobs.{name}"] = selection | _values(job_settings(context, job))

    if as_json:
        click.echo(json.dumps(tables, indent=2))
    else:
        click.echo("\n\n".join(_table(name, values) for name, values in tables.items()))

    return 0


@config.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
def validate(file: Path | None) -> int:
    """Name every mistake of a configuration file, with line, column and key."""
    file = config_file(file)
    try:
        read = read_config(file, shape_of(sync))
    except Mistakes as mistakes:
        for line in mistakes.lines:
            click.echo(escape_controls(line))

        raise ConfigError(
            f"{file}: {len(mistakes.lines)} mistakes" if mistakes.lines[1:] else f"{file}: 1 mistake"
        ) from None

    context = _run_context()
    plans = [plan_of(context, name, job) for name, job in read.jobs.items()]
    click.echo(f"{file}: {len(plans)} {'job' if len(plans) == 1 else 'jobs'}, no mistake")
    return 0


@config.command()
def schema() -> int:
    """Print the JSON Schema of configuration files, for editors."""
    click.echo(json.dumps(config_schema(shape_of(sync)), indent=2))
    return 0


@config.command("import")
@click.argument("file", type=click.Path(path_type=Path))
def import_(file: Path) -> int:
    """Make a configuration file of skopeo's sync YAML or regctl's regsync.yml.

    It is printed on stdout; what it can't say is listed on stderr, and in the file.
    """
    from ..config.convert import convert

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read {file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None

    converted = convert(text, str(file))
    click.echo(converted.toml, nl=False)
    for line in converted.left_out:
        click.echo(f"quaymirror: not imported: {escape_controls(line)}", err=True)

    return 0


_WORDS = ("organization", "repositories", "tags", "exclude", "since")


def _run_context() -> click.Context:
    """What `quaymirror run` without a word on its command line would go by."""
    from .help import add_variables

    add_variables(run)
    return run.make_context("run", [])


def _values(settings: Mapping[str, ResolvedValue]) -> dict[str, dict[str, Any]]:
    names = {option.name: long_name(option) for option in file_options(sync)}
    return {
        names[name]: {"value": _shown(name, setting.value), "origin": setting.origin}
        for name, setting in settings.items()
        if name in names
    }


def _shown(name: str, value: Any) -> Any:
    if name == "ping_url" and value is not None:
        return shown_url(value)

    if isinstance(value, tuple):
        return list(value)

    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _table(name: str, values: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        (key, _toml(value["value"]), value["origin"]) for key, value in values.items() if value["value"] is not None
    ]
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    lines = [f"{key:<{widths[0]}} = {text:<{widths[1]}}  # {origin}" for key, text, origin in rows]
    return "\n".join([f"[{name}]", *map(escape_controls, lines)])


def _toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
