"""Errors for selections that match nothing, with the nearest names."""

from __future__ import annotations

from collections.abc import Iterable

from ..catalog.base import Catalog
from ..errors import QuaymirrorError, SelectionEmpty
from ..oci import Repository
from ..selection.grammar import literal_parts
from ..selection.selection import Selection

_SHOWN = 3
# Repositories whose tags are read for a hint.
ASKED = 3


async def no_such_tag(catalog: Catalog, repositories: Iterable[Repository], selection: Selection) -> SelectionEmpty:
    """Return the error for a tag that no repository has, with the nearest tags of `repositories`."""
    names: set[str] = set()
    for repository in repositories:
        try:
            names.update(await catalog.some_tags(repository))
        except QuaymirrorError:
            continue  # a hint is not worth another error

    tag = " or ".join(selection.tags)
    return SelectionEmpty(
        f"no repository of {selection.listed} has the tag {tag}{nearest(selection.tags, names) or _some(names)}"
    )


def no_such_repository(selection: Selection, names: Iterable[str]) -> SelectionEmpty:
    """Return the error for a selection that no repository matches, with the nearest of `names`."""
    glob = " or ".join(selection.globs)
    excluded = " (less what is excluded)" if selection.exclude else ""
    known = tuple(names)
    hint = nearest(selection.globs, known) or _some(known)
    return SelectionEmpty(f"no repository of {selection.listed} matches {glob}{excluded}{hint}")


def _some(names: Iterable[str]) -> str:
    """Return `; existing: …` with the last `names` in their order: the newest of most tags."""
    known = sorted(names, reverse=True)
    more = " and others" if len(known) > _SHOWN else ""
    return f"; existing: {', '.join(known[:_SHOWN])}{more}" if known else ""


def nearest(wanted: Iterable[str], names: Iterable[str]) -> str:
    """Return `; nearest: …` with the names most similar to one of `wanted`, '' if none is similar."""
    shown = nearest_names(wanted, names)
    return f"; nearest: {', '.join(shown)}" if shown else ""


def nearest_names(wanted: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return a few of `names` that are similar to one of `wanted`, the most similar first."""
    from difflib import get_close_matches  # not by a run in which all names match

    literals = ["".join(literal_parts(text)) for text in wanted]
    known = sorted(names)
    close = [name for text in literals for name in get_close_matches(text, known, _SHOWN, 0.6)]
    # A glob names only a part: names that hold it are near, too.
    close += [name for text in literals if len(text) > 2 for name in known if text.strip("-._") in name]
    return list(dict.fromkeys(close))[:_SHOWN]
