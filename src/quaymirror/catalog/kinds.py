"""The register of catalog kinds: a new kind is one module that defines `KIND`, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from ..errors import ConfigError
from ..http.client import Client
from ..selection.grammar import is_pattern
from ..selection.selection import Selection
from ..values import dataclass
from .base import Catalog, Discovery, TagResolver, Traits

DEFAULT = "quay"
_MODULES = {DEFAULT: "quaymirror.catalog.quay.catalog"}


@dataclass(frozen=True, slots=True)
class CatalogAccess:
    """The connections that a catalog is opened with: a client of its API, with a token or not, and the registry."""

    client: Client
    registry: TagResolver
    has_token: bool
    discovery: Discovery


@dataclass(frozen=True, slots=True)
class CatalogKind:
    """One kind of catalog. `traits` returns those of a catalog that is opened for a way of discovery."""

    traits: Callable[[Discovery], Traits]
    open: Callable[[CatalogAccess], Catalog]


def register(name: str, module: str) -> None:
    """Register the kind `name`, which the module of that name defines as `KIND`."""
    _MODULES[name] = module


def find_kind(name: str = DEFAULT) -> CatalogKind:
    """Return the kind called `name`.

    :raises KeyError: if it is not registered.
    """
    kind: CatalogKind = import_module(_MODULES[name]).KIND
    return kind


def check_selection(selection: Selection, discovery: Discovery) -> None:
    """Check that the catalog of `selection` knows what it needs, before any request.

    :raises ConfigError: if `--since` or a glob for tags can't work with this way of discovery.
    """
    traits = find_kind().traits(discovery)
    if selection.since is not None and not traits.has_dates:
        raise ConfigError(f"{traits.name} can't tell when a tag was updated, which --since needs")

    if any(is_pattern(tag) for tag in selection.tags) and not traits.lists_tags:
        raise ConfigError(f"{traits.name} can't list tags, which a glob for tags needs")
