"""The names of images that are selected one by one: each is for one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..errors import ConfigError, InvalidName
from ..oci import Reference, Repository
from ..selection.rename import Renames
from ..selection.selection import Selection
from ..settings import Options
from .finding import advice


def exact_references(selections: Sequence[Selection], options: Options) -> Iterator[Reference]:
    """Yield the images that `selections` name one by one: with their tags, with their digests, or with both."""
    for selection in selections:
        registry = options.source.address_of(selection).registry_name
        for name, tag in selection.exact:
            yield Reference(Repository(registry, selection.prefix + name), tag)

        for pin in selection.pinned:
            yield Reference(Repository(registry, selection.prefix + pin.repository), pin.tag, pin.digest)


def check_names(selections: Sequence[Selection], options: Options) -> None:
    """Check that no two images that are selected one by one have the same name in a target, before any request.

    :raises ConfigError: if two have, or if an option gives one no valid name.
    """
    renames = Renames(options.target.renames)
    claimed: dict[str, Reference] = {}
    for reference in exact_references(selections, options):
        try:
            name = renames.apply(reference).name
        except InvalidName as error:
            raise ConfigError(f"{reference} can't be renamed: {error.message}") from None

        first = claimed.setdefault(name, reference)
        if first != reference:
            raise ConfigError(f"{first} and {reference} would have the same name, {name}: {advice(reference)}")
