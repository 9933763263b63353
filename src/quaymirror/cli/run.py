"""`quaymirror run`: the jobs of a configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ..config.document import FILE_NAME, Config, LocatedValue, read_config
from ..errors import ConfigError
from .help import GroupedCommand, long_name
from .jobs import Plan, execute, make_plan
from .keys import CREDENTIALS, converted, file_options, shape_of, words_of
from .options import make_selection
from .outputs import take_outputs
from .sync import sync

CONFIG = click.Option(
    ["--config"],
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"The jobs are in here.  [default: {FILE_NAME}]",
)


@dataclass(frozen=True, slots=True)
class ResolvedValue:
    """A value, and who said so."""

    value: Any
    origin: str


def _job_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of jobs; a file with mistakes has none."""
    try:
        read = read_config(config_file(context.params.get("config")), shape_of(sync))
    except ConfigError:
        return []

    return [name for name in read.jobs if name.startswith(incomplete)]


@click.command(cls=GroupedCommand, context_settings={"max_content_width": 100})
@click.argument("jobs", nargs=-1, metavar="[JOB]...", shell_complete=_job_names)
@click.pass_context
def run(context: click.Context, /, jobs: tuple[str, ...], config: Path | None, **_: Any) -> int:
    """Run the jobs of a configuration file: those named, or all.

    Jobs go on at once and share connections, limits, blobs and the dashboard. An option given here, or its variable,
    counts for every job, whatever the file says.

    \b
    quaymirror run
    quaymirror run nightly --dry-run
    """
    read = read_config(config_file(config), shape_of(sync))
    outputs = take_outputs({name: setting.value for name, setting in run_settings(context, read).items()})
    plans = [plan_of(context, name, job) for name, job in read.chosen(jobs).items()]
    return execute(list(_joined(plans)), outputs)


# The same options as sync has, whoever adds one there: only the selection is the file's alone.
run.params += [
    CONFIG,
    *(
        param
        for param in sync.params
        if isinstance(param, click.Option) and param.name not in ("globs", "tags", "exclude", "since", "from_lock")
    ),
]


def config_file(given: Path | None) -> Path:
    """Return the configuration file: the one `given`, or the first that is where such files are.

    :raises ConfigError: when there is none.
    """
    if given is not None:
        return given

    # Where nobody knows the home directory, its name stays, and no file is found there.
    home = Path(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"))  # noqa: PTH111
    places = [Path(FILE_NAME), home / "quaymirror" / FILE_NAME, Path("/etc/quaymirror") / FILE_NAME]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise ConfigError(f"there is no configuration file: {', '.join(map(str, places))}; name one with --config")

    return found


def run_settings(context: click.Context, config: Config) -> dict[str, ResolvedValue]:
    """Return the values of the outputs, and where each came from."""
    names = {key.name for key in shape_of(sync).run}
    return _settings(context, config.run, [option for option in file_options(sync) if long_name(option) in names]) | {
        name: ResolvedValue(context.params[name], "") for name in ("verbose", "quiet")
    }


def job_settings(context: click.Context, job: Mapping[str, LocatedValue]) -> dict[str, ResolvedValue]:
    """Return the values of a job's options, and where each came from."""
    names = {key.name for key in shape_of(sync).options}
    return _settings(context, job, [option for option in file_options(sync) if long_name(option) in names])


def _settings(
    context: click.Context, given: Mapping[str, LocatedValue], options: Iterable[click.Option]
) -> dict[str, ResolvedValue]:
    """Command line before environment before file before default."""
    found: dict[str, ResolvedValue] = {}
    for option in options:
        assert option.name is not None
        source, name = context.get_parameter_source(option.name), long_name(option)
        value = context.params[option.name]
        if source is ParameterSource.COMMANDLINE:
            found[option.name] = ResolvedValue(value, "command line")
        elif source is ParameterSource.ENVIRONMENT:
            found[option.name] = ResolvedValue(value, f"environment, {_variable(option)}")
        elif name in given:
            found[option.name] = ResolvedValue(converted(option, given[name].value, sync), given[name].place)
        else:
            found[option.name] = ResolvedValue(value, "default")

    return found


def _variable(option: click.Option) -> str:
    variables = [option.envvar] if isinstance(option.envvar, str) else option.envvar or ()
    return next((variable for variable in variables if os.environ.get(variable)), "")


def plan_of(context: click.Context, name: str, job: Mapping[str, LocatedValue]) -> Plan:
    """Return the run that one job is.

    :raises ConfigError: when its parts make no sense together.
    """
    options = {name: setting.value for name, setting in job_settings(context, job).items()}
    credentials = {name: context.params[name] for name in (*CREDENTIALS, "yes")}
    words = words_of(job)
    try:
        make_selection(**words)
        return make_plan(**words, **options, **credentials, jobs=(name,))
    except ConfigError as error:
        raise ConfigError(f"{job['organization'].place}: jobs.{name}: {error.message}") from None


def _joined(plans: Iterable[Plan]) -> Iterable[Plan]:
    """Make one run of what can be one, in the order of the first job of each."""
    runs: list[Plan] = []
    for plan in plans:
        for number, known in enumerate(runs):
            both = known.joined(plan)
            if both is not None:
                runs[number] = both
                break
        else:
            runs.append(plan)

    return runs
