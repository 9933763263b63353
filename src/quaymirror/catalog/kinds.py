"""The register of the kinds of sources: a new kind is one module that defines `KIND`, and one line here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from pathlib import Path
from typing import Protocol

from ..errors import ConfigError
from ..http.authorizer import Authorizer
from ..http.budget import PullBudget
from ..http.client import Client
from ..http.origin import Origin
from ..registry.pull import RegistryPuller
from ..registry.puller import Puller
from ..registry.source import Attempts
from ..secret import Credentials, Secret
from ..selection.grammar import is_pattern
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..values import dataclass
from .base import Catalog, Discovery, Traits

DEFAULT = "quay"
_MODULES = {
    DEFAULT: "quaymirror.catalog.quay.catalog",
    "registry": "quaymirror.catalog.registry.catalog",
    "ocidir": "quaymirror.catalog.layout.catalog",
    "harbor": "quaymirror.catalog.harbor",
    "hub": "quaymirror.catalog.hub",
    "ghcr": "quaymirror.catalog.ghcr",
    "gitlab": "quaymirror.catalog.gitlab",
}


@dataclass(frozen=True, slots=True)
class Services:
    """The two sides of a source: what exists there, and its content."""

    catalog: Catalog
    source: Puller


class SourceAccess(Protocol):
    """The means of a run to open the source at `address`. `api_token` is the user's token for this source, if any."""

    @property
    def address(self) -> SourceAddress:
        """The source to open."""

    @property
    def discovery(self) -> Discovery:
        """The way of resolving tags that the user wants."""

    @property
    def api_token(self) -> Secret | None:
        """The token that the user gave for the API of this source."""

    def home(self) -> Path:
        """Return the directory of the layout at `address`; of one in an object store, that of its state. It blocks.

        :raises ConfigError: if no mirror is there.
        :raises StoreError: if the object store or the disk fails.
        """

    @property
    def clock(self) -> Callable[[], float]:
        """The clock of the run, in seconds."""

    async def has_account(self, organization: str) -> bool:
        """Return True if an account of the registry may read private repositories of `organization` at Quay.

        The user gave its credentials for this run, or stored those of a robot account of the organization.
        """

    async def api_credentials(self, namespace: str) -> Credentials | None:
        """Return the credentials for the API of this source: given, or stored for it or its registry.

        :raises ConfigError: if an auth file or a credential helper is broken.
        """

    def attempts(self, host: str, what: str) -> Attempts:
        """Return the attempts of an operation, which events call `what`, at a source called `host`."""

    async def client(self, origin: Origin, authorizer: Authorizer) -> Client:
        """Return a client of `origin`, which sends what `authorizer` says.

        :raises ConfigError: if a file of certificates is invalid.
        """

    async def puller(self, origin: Origin, budget: PullBudget | None = None) -> RegistryPuller:
        """Return a client of the registry at `origin`, with the credentials that the user gave or stored for it.

        It pulls no manifest beyond `budget`.

        :raises ConfigError: if a file of certificates is invalid.
        """

    async def registry_client(self, origin: Origin, *, namespace: str = "") -> Client:
        """Return a client for other requests to the registry at `origin`, with the same credentials.

        With `namespace` they are those for this part of the registry, whatever the scope of a request.

        :raises ConfigError: if a file of certificates is invalid.
        """


@dataclass(frozen=True, slots=True)
class CatalogKind:
    """One kind of source. `traits` returns those of its catalog for a way of discovery.

    `open` opens it for one run. The context may be left in another task than the one that entered it. `check` raises
    ConfigError for an address that can't be of a source, without any request.
    """

    traits: Callable[[Discovery], Traits]
    open: Callable[[SourceAccess], AbstractAsyncContextManager[Services]]
    check: Callable[[SourceAddress], None] = lambda _: None


def register(name: str, module: str) -> None:
    """Register the kind `name`, which the module of that name defines as `KIND`."""
    _MODULES[name] = module


def find_kind(name: str = DEFAULT) -> CatalogKind:
    """Return the kind called `name`.

    :raises KeyError: if it is not registered.
    """
    kind: CatalogKind = import_module(_MODULES[name]).KIND
    return kind


def traits_of(selection: Selection, discovery: Discovery) -> Traits:
    """Return the traits of the catalog of `selection`."""
    return find_kind(DEFAULT if selection.source is None else selection.source.kind).traits(discovery)


def check_selection(selection: Selection, discovery: Discovery) -> None:
    """Check that the catalog of `selection` knows what it needs, before any request.

    :raises ConfigError: if `--since`, `--newest` or a glob for tags can't work with this way of discovery, or if a
        layout is missing.
    """
    if selection.source is not None:
        find_kind(selection.source.kind).check(selection.source)

    traits = traits_of(selection, discovery)
    if selection.since is not None and not traits.has_dates:
        raise ConfigError(f"{traits.name} can't tell when a tag was updated, which --since needs")

    if selection.newest is not None and not traits.has_dates:
        raise ConfigError(f"{traits.name} can't tell when a tag was updated, which --newest needs")

    if any(is_pattern(tag) for tag in selection.tags) and not traits.lists_tags:
        raise ConfigError(f"{traits.name} can't list tags, which a glob for tags needs")
