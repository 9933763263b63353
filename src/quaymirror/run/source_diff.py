"""The difference between a mirror and the source of its last run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..errors import ConfigError, SelectionEmpty
from ..events import Observer, ignore
from ..selection.rename import Renames
from ..selection.selection import Selection
from ..selection.source import parse_source
from ..settings import Options
from ..store.layout import OCILayout
from .changes import Difference, difference
from .info import find_images
from .past_runs import open_past
from .pruning import covers


async def diff_source(path: Path, options: Options, *, observer: Observer = ignore) -> Difference:
    """Return the difference from the mirror at `path` to its source, by the selections of the last complete run.

    Names that are gone are missing at the source. The server of `options` is that of the run.

    :raises ConfigError: if no complete run is known, or if it was one of a lock file.
    :raises QuaymirrorError: if the source can't be listed.
    """
    server, selections = _last(path)
    wanted = options.replace(server=server)
    renames, now = Renames(options.target.renames), dict[str, str]()
    try:
        async for image in find_images(selections, wanted, observer=observer):
            now[renames.apply(image.reference).name] = str(image.digest)
    except SelectionEmpty:
        pass  # everything is missing

    async with OCILayout.inspect(path) as layout:
        records = await layout.use(lambda _, state: state.visible_images())

    selected = [(each, wanted.source.address_of(each).registry_name) for each in selections]
    then = {
        record.name: str(record.source)
        for record in records
        if record.name in now or any(covers(each, registry, record, renames) for each, registry in selected)
    }
    return difference(then, now)


def _last(path: Path) -> tuple[str, list[Selection]]:
    """Return server and selections of the last complete run to the mirror at `path`."""
    with open_past(path / ".quaymirror", str(path)) as past:
        reports = (past.report(run.id) for run in past.runs() if run.complete)
        report: Mapping[str, Any] | None = next((each for each in reports if each is not None), None)

    if report is None:
        raise ConfigError(f"no complete run to {path} is in its history: run sync first")

    if any(each["locked"] for each in report["selections"]):
        raise ConfigError("the last run was that of a lock file, which lists no source")

    return report["server"], [_selection(each) for each in report["selections"]]


def _selection(each: Mapping[str, Any]) -> Selection:
    since, source = each["since"], each.get("source")
    images = [tuple(name.rsplit(":", 1)) for name in each.get("images", ())]
    return Selection(
        each["organization"],
        "*" if images else each["glob"],
        "latest" if images else each["tag"],
        each["exclude"],
        None if since is None else datetime.fromisoformat(since),
        source=None if source is None else parse_source(source),
        exclude_tags=each.get("exclude_tags", ()),
        newest=each.get("newest"),
        labels=each.get("labels", ()),
        exact=[(repository, tag) for repository, tag in images],
    )
