"""Sets of options that several commands have, and the selection and the options that their values mean."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..auth.files import read_secret_file, read_secret_stdin
from ..errors import ConfigError
from ..run.paths import layout_path
from ..secret import Credentials, Secret
from ..selection.image_list import MAX_LIST_BYTES, ListedImages, parse_list, read_list
from ..selection.layouts import select_images
from ..selection.lockfile import read_lock
from ..selection.parse import parse_since
from ..selection.selection import Selection
from ..selection.words import Narrowing, select_list, select_words
from ..settings import DEFAULT_TARGET, Options, OutputOptions
from ..settings.register import OUTPUTS, SELECTION, field_values
from ..settings.spec import Heading
from .help import check_paths, command_option
from .hints import unquoted_wildcard
from .messages import say

if TYPE_CHECKING:
    from ..run.jobs import Job
    from ..shards.plan import Division

# The key of a context under which the password of standard input is kept.
_PASSWORD = "quaymirror.password"  # noqa: S105

F = TypeVar("F", bound=Callable[..., Any])

SELECTION_WORDS = ("organization", "glob", "tag", *(spec.name for spec in SELECTION if spec.name != "organization"))


def selection_arguments(function: F) -> F:
    """Add the arguments that select images."""
    for name, metavar in (("tag", "[TAG]"), ("glob", "[GLOB]"), ("organization", "ORG|IMAGE|ADDRESS")):
        function = click.argument(name, required=False, metavar=metavar)(function)

    return function


def json_option(text: str) -> Callable[[F], F]:
    """Add --json, whose help is `text`."""
    return command_option("--json", "as_json", is_flag=True, heading=Heading.OUTPUT, help=text)


def make_selections(given: Mapping[str, Any], options: Options) -> tuple[tuple[Selection, ...], Options]:
    """Return the selections that the words in `given` mean, and `options` with the names that a list gives.

    :raises ConfigError: if they are illegal.
    """
    server, narrowing = options.source.origin, _narrowing(given)
    words = {name: tuple(given.get(name) or ()) for name in ("globs", "tags")}
    globs = _with(given.get("glob"), words["globs"])
    tags = _with(given.get("tag"), words["tags"])
    file = given.get("images")
    sources = [name for name in ("organization", "source", "images", "from_lock") if given.get(name) is not None]
    if not sources:
        raise click.UsageError("Missing argument 'ORG'.")

    if len(sources) > 1 or (file is not None and (globs or tags)):
        raise ConfigError("an organization, a source, a list of images and a lock file are whole selections: give one")

    if file is not None:
        listed = read_images(Path(file), server.netloc, given.get("default_registry") or "")
        renames = (*options.target.renames, *listed.renames)
        return select_list(listed, server, narrowing), options.replace(renames=renames)

    if source := given.get("source"):
        selection = select_words(_at_source(source, globs, tags), (), (), server, narrowing, now=_now())
        return _of_layout(selection, given, options), options

    organization = given["organization"]
    if hint := unquoted_wildcard([given.get("glob"), given.get("tag")]):
        say(hint)

    if "/" not in organization and os.path.isfile(os.path.join(organization, "oci-layout")):  # noqa: PTH113, PTH118
        say(f"{organization} is read as an organization; for the OCI image layout of that name write ./{organization}")

    return _of_layout(select_words(organization, globs, tags, server, narrowing, now=_now()), given, options), options


def _of_layout(selection: Selection, given: Mapping[str, Any], options: Options) -> tuple[Selection, ...]:
    """Return a selection for each name that is selected of a layout, of another source the selection itself."""
    source, names = selection.source, given.get("select") or ()
    if source is not None and source.is_layout:
        if (at := given.get("at")) is not None:
            from ..run.snapshots import snapshot_source

            source = snapshot_source(source.path, at, options)

        selected = select_images(source, names, exclude=selection.exclude, since=selection.since)
        narrowed = {"exclude_tags": selection.exclude_tags, "newest": selection.newest, "labels": selection.labels}
        return tuple(each.replace(**narrowed) for each in selected)

    if names:
        raise ConfigError("--select is for layouts (ocidir://PATH): narrow other sources by GLOB and TAG")

    return (selection,)


def read_images(file: Path, server: str, default_registry: str) -> ListedImages:
    """Return the images of a list in `file`, which is standard input if it is called `-`.

    :raises ConfigError: if it is not a list of images.
    """
    if str(file) != "-":
        return read_list(file, server, default_registry=default_registry)

    if sys.stdin is None:
        raise ConfigError("--images -: standard input is closed")

    content = sys.stdin.buffer.read(MAX_LIST_BYTES + 1)
    return parse_list(content, "standard input", server, default_registry=default_registry)


def _narrowing(given: Mapping[str, Any]) -> Narrowing:
    since = given.get("since")
    return Narrowing(
        exclude=tuple(given.get("exclude") or ()),
        since=parse_since(since, now=_now()) if since is not None else None,
        exclude_tags=tuple(given.get("exclude_tags") or ()),
        newest=given.get("newest"),
        labels=tuple(given.get("labels") or ()),
    )


def _now() -> datetime:
    return datetime.now(UTC)


def _with(word: str | None, others: tuple[str, ...]) -> tuple[str, ...]:
    return others if word is None else (word, *others)


def _at_source(source: str, globs: tuple[str, ...], tags: tuple[str, ...]) -> str:
    """Return the address of a selection at `source`, an address without globs and tags."""
    if not globs and not tags:
        return source

    place, mark, query = source.partition("?")
    escaped = [",".join(words).replace("?", "%3F") for words in (globs or ("*",), tags or ("latest",))]
    return f"{place.rstrip('/')}/{escaped[0]}:{escaped[1]}{mark}{query}"


def make_outputs(given: Mapping[str, Any]) -> OutputOptions:
    """Return the options of outputs in `given`."""
    return OutputOptions(**{name: value for name, value in given.items() if name in OUTPUTS and value is not None})


def make_options(given: Mapping[str, Any]) -> Options:
    """Return the options that `given`, values by name, means, with secrets from files and standard input."""
    context = click.get_current_context(silent=True)
    if context is not None:
        check_paths(context)

    if given.get("password_stdin") and given.get("dest_password_stdin"):
        raise ConfigError("standard input can't be the password of both registries; put one into an auth file")

    return Options.of(
        **field_values(given),
        api_token=_api_token(given.get("token_file")),
        credentials=_credentials(given, ""),
        dest_credentials=_credentials(given, "dest"),
        environment=os.environ,
    )


def make_job(given: Mapping[str, Any], names: tuple[str, ...] = ()) -> Job:
    """Return the job that `given`, values by the names of options, means."""
    options = make_options({name: value for name, value in given.items() if name not in OUTPUTS})
    division = _division(given)
    planning = given.get("plan_only") is not None
    from_lock = given.get("from_lock")
    if division is not None:
        from ..run.planning import options_of_share

        selections, options = options_of_share(division, options)
    elif from_lock is None:
        selections, options = make_selections(given, options)
    elif any(given.get(name) for name in SELECTION_WORDS):
        raise ConfigError("--from-lock is a whole selection: ORG, GLOB, TAG and options that narrow don't go with it")
    else:
        server, selections = read_lock(from_lock)
        options = options.replace(server=given.get("server") or server or options.source.server)

    # An empty --to, such as that of an unset variable of a script, is refused.
    target = given.get("target")
    options = options.replace(dry_run=True) if planning else options
    from ..run.jobs import Job  # a whole run comes with it

    return Job(selections, DEFAULT_TARGET if target is None else target, options, names, division, planning)


def _division(given: Mapping[str, Any]) -> Division | None:
    """Return the share of the plan in `given`, None without one.

    :raises ConfigError: if the options contradict each other, or the plan is none.
    """
    plan, share = given.get("plan"), given.get("shard")
    if (plan is None) is not (share is None):
        raise ConfigError("--plan FILE and --shard I/N go together")

    if plan is None or share is None:
        return None

    if any(given.get(name) for name in (*SELECTION_WORDS, "from_lock", "plan_only")):
        raise ConfigError("--plan is a whole selection: ORG, GLOB, TAG and options that select don't go with it")

    from ..shards.plan import Division, read_plan

    return Division(read_plan(plan), share, given.get("shard_timeout") or 600.0)


def mirror_at(mirror: str, state: Path | None) -> Path:
    """Return the path of MIRROR; for one in an object store, of the directory of its state, which may be in `state`.

    :raises ConfigError: if no layout is there.
    :raises StoreError: if the object store fails.
    """
    return layout_path(mirror, Options.of(state=state, environment=os.environ))


def home_at(target: str, state: Path | None) -> Path:
    """Return the directory with the state of `target`, as given to sync together with --state."""
    from ..targets.kinds import find_target

    known = Options.of(state=state, environment=os.environ)
    return find_target(target, known).state_directory(known)


def _api_token(file: Path | None) -> Secret | None:
    if file is not None:
        return read_secret_file(file, on_notice=say)

    token = os.environ.get("QUAY_API_TOKEN")
    return Secret(token, what="QUAY_API_TOKEN") if token else None


def _credentials(given: Mapping[str, Any], side: str) -> Credentials | None:
    prefix, dashed = (f"{side}_", f"{side}-") if side else ("", "")
    username, from_stdin = given.get(f"{prefix}username"), bool(given.get(f"{prefix}password_stdin"))
    if (username is None) is from_stdin:
        raise ConfigError(f"--{dashed}username and --{dashed}password-stdin go together")

    return Credentials(username, _password()) if username is not None else None


def _password() -> Secret:
    """Read it from standard input, once for all jobs of a command."""
    meta = click.get_current_context().meta
    if _PASSWORD not in meta:
        if sys.stdin is None:
            raise ConfigError("--password-stdin: standard input is closed")

        meta[_PASSWORD] = read_secret_stdin(sys.stdin.buffer)

    password: Secret = meta[_PASSWORD]
    return password
