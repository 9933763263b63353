"""`quaymirror run`: the jobs of a configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import anyio
import click
from click.core import ParameterSource

from ..config.document import FILE_NAME, LocatedValue, read_config
from ..errors import ConfigError
from ..run.jobs import Job, run_jobs
from ..settings import OutputOptions
from ..settings.register import JOB_TABLE, SELECTION, SUBJECTS
from ..settings.spec import OptionSpec
from ..values import dataclass
from .console import announced, report
from .help import GroupedCommand, RegisteredOption, check_paths, options
from .options import make_job, make_outputs


@dataclass(frozen=True, slots=True)
class ResolvedValue:
    """The value of an option (None: the default), the text of it, and its origin; `is_in_file` if that is a file."""

    spec: OptionSpec
    value: Any
    text: Any
    origin: str
    is_in_file: bool = False


def job_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of jobs; a file with mistakes has none."""
    try:
        read = read_config(config_file(context.params.get("config")))
    except ConfigError:
        return []

    return [name for name in read.jobs if name.startswith(incomplete)]


@click.command(cls=GroupedCommand)
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=job_names)
@options("run")
@click.pass_context
def run(context: click.Context, /, jobs: tuple[str, ...], config: Path | None, **_: Any) -> int:
    """Run the jobs of a configuration file: all, or the ones you name.

    Jobs run at the same time and share connections, limits, blobs and the dashboard. An option on the command line, or
    its environment variable, overrides the file for every job.

    \b
    quaymirror run
    quaymirror run nightly --dry-run
    """
    check_paths(context)
    read = read_config(config_file(config))
    outputs = make_outputs(_usable(resolve(context, read.run, OutputOptions.specs()), "run"))
    chosen = [job_of(context, name, job) for name, job in read.chosen(jobs).items()]
    with announced(outputs) as watch:
        return report(outputs, anyio.run(run_jobs, chosen, watch))


def configured_jobs(config: Path | None, names: tuple[str, ...] = ()) -> list[Job]:
    """Return the jobs of a configuration file that are called `names`, all without names.

    :raises ConfigError: if the file has mistakes.
    """
    context = run.make_context("run", [])
    return [job_of(context, name, job) for name, job in read_config(config_file(config)).chosen(names).items()]


def config_file(given: Path | None) -> Path:
    """Return the configuration file: the one `given`, or the first that exists in the usual directories.

    :raises ConfigError: if none exists.
    """
    if given is not None:
        return given

    # Without a known home directory `~` stays, and no file is found there.
    home = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))  # noqa: PTH111
    places = [Path(FILE_NAME), home / "quaymirror" / FILE_NAME, Path("/etc/quaymirror") / FILE_NAME]
    found = next((place for place in places if os.path.isfile(place)), None)  # noqa: PTH113 - it never raises
    if found is None:
        raise ConfigError(f"no configuration file found: {', '.join(map(str, places))}; name one with --config")

    return found


def resolve(
    context: click.Context, given: Mapping[str, LocatedValue], specs: Iterable[OptionSpec]
) -> dict[str, ResolvedValue]:
    """Return values by name: the command line overrides the environment, that the file, and that the default."""
    options = {option.name: option for option in context.command.params if isinstance(option, RegisteredOption)}
    found: dict[str, ResolvedValue] = {}
    for spec in specs:
        source, value = context.get_parameter_source(spec.name), context.params[spec.name]
        text = not value if spec.inverted else value
        if source is ParameterSource.COMMANDLINE:
            found[spec.name] = ResolvedValue(spec, value, text, "command line")
        elif source is ParameterSource.ENVIRONMENT:
            # As it was written: 3d, not its number of seconds.
            text = text if spec.parse is None or spec.many else os.environ[options[spec.name].variable]
            found[spec.name] = ResolvedValue(spec, value, text, f"environment, {options[spec.name].variable}")
        elif spec.key_name in given:
            located = given[spec.key_name]
            found[spec.name] = ResolvedValue(spec, spec.value(located.value), located.value, located.place, True)
        else:
            found[spec.name] = ResolvedValue(spec, None, spec.default_text, "default")

    return found


def _usable(resolved: Mapping[str, ResolvedValue], table: str) -> dict[str, Any]:
    """Return the values by name, having checked the paths of the file on this machine."""
    for each in resolved.values():
        try:
            if each.is_in_file:
                each.spec.check_disk(each.value)
        except ConfigError as error:
            raise ConfigError(f"{each.origin}: {table}.{each.spec.key_name}: {error.message}") from None

    return {name: each.value for name, each in resolved.items()}


def job_of(context: click.Context, name: str, job: Mapping[str, LocatedValue]) -> Job:
    """Return the job that a table of the file means."""
    words = {spec.name: spec.value(job[spec.key_name].value) for spec in SELECTION if spec.key_name in job}
    for spec in SELECTION:
        try:
            spec.check_disk(words.get(spec.name))
        except ConfigError as error:
            raise ConfigError(f"{job[spec.key_name].place}: jobs.{name}.{spec.key_name}: {error.message}") from None

    known = {param: value for param, value in context.params.items() if param not in ("jobs", "config")}
    values = _usable(resolve(context, job, JOB_TABLE), f"jobs.{name}")
    try:
        return make_job({**known, **words, **values}, (name,))
    except ConfigError as error:
        place = next(job[key].place for key in SUBJECTS if key in job)
        raise ConfigError(f"{place}: jobs.{name}: {error.message}") from None
