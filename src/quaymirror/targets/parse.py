"""Where images land: what the words of `--to` mean, and how that place is opened.

The choice of a target shows here and nowhere else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..events import Observer
from ..oci import Platform
from ..selection.selection import Selection
from ..settings import Options
from ..store.layout import WriteOptions
from ..store.lock import Patience
from ..transfer.target import Target
from .derived_address import DerivedTarget, is_derived, parse_derived
from .layout import LayoutTarget
from .registry_address import RegistryAddress, check_selection, is_address, parse_address

_OCIDIR = "ocidir"


@dataclass(frozen=True, slots=True)
class LayoutSpec:
    """One OCI image layout for all images, at `path`."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


TargetSpec = LayoutSpec | DerivedTarget | RegistryAddress


def parse_target(text: str, selection: Selection, settings: Options) -> TargetSpec:
    """Return what `text` (`PATH`, `ocidir://PATH`, `registry://HOST` or an address of occystrap's) names.

    :raises ConfigError: when it names nothing that images can land in, or can't tell two of them apart.
    """
    if is_derived(text, settings):
        return parse_derived(text, selection, settings)

    if settings.target.filters:
        raise ConfigError("filters change images: they need a target like dir://PATH, tar://PATH or registry://HOST")

    if is_address(text):
        address = parse_address(text)
        check_selection(address, selection, settings)
        return address

    scheme, separator, rest = text.partition("://")
    if separator and scheme != _OCIDIR:
        raise ConfigError(f"no such kind of target: {scheme[:50]!r}; write a PATH, ocidir://PATH or registry://HOST")

    path = rest if separator else text
    if not path or "\0" in path:
        raise ConfigError("the target needs the path of a directory")

    if "{repo}" in path:
        raise ConfigError("{repo} in the target: one layout holds all images, which share layers there; leave it out")

    if "{tag}" in path and not selection.is_one_tag:
        raise ConfigError("{tag} in the target: one layout holds all tags; leave it out, or select one tag")

    return LayoutSpec(Path(path.replace("{org}", selection.organization).replace("{tag}", selection.tags[0])))


def common_target(text: str, selections: Sequence[Selection], settings: Options) -> TargetSpec:
    """Return what `text` names for all of `selections`, one at least.

    :raises ConfigError: as `parse_target`, or when it is not one place.
    """
    specs = [parse_target(text, selection, settings) for selection in selections]
    if any(spec != specs[0] for spec in specs):
        raise ConfigError(f"the target {text} is another place for each selection: run them one by one")

    return specs[0]


def home_of(spec: TargetSpec, settings: Options) -> Path:
    """Return the directory where what we know of this target is kept, beside or inside of it if it has a place.

    :raises ConfigError: when it has none, and nobody knows the user's; see `Options.state_directory`.
    """
    if isinstance(spec, RegistryAddress):
        return settings.state_directory(str(spec))

    return (spec.directory if isinstance(spec, DerivedTarget) else spec.path) / ".quaymirror"


@asynccontextmanager
async def open_target(
    spec: TargetSpec, settings: Options, observer: Observer, *, patience: Patience | None = None
) -> AsyncIterator[Target]:
    """Open the place that `spec` names; for a dry run only to look. While another run is at work, ask `patience`.

    :raises TargetRefused: when something else is there.
    :raises LockHeld: when another run is at work on it.
    :raises StoreError: when the disk refuses.
    :raises QuaymirrorError: when it is a registry that can't be used.
    """
    async with _opened(spec, settings, observer, patience) as target:
        yield target


def _opened(
    spec: TargetSpec, settings: Options, observer: Observer, patience: Patience | None
) -> AbstractAsyncContextManager[Target]:
    match spec:
        case DerivedTarget():
            # Imported when it is asked for: worker processes are nothing that a mirror needs.
            from .derived import Deriver

            if settings.target.dry_run:
                return Deriver.inspect(spec, observer=observer)

            return Deriver.open(spec, observer=observer, patience=patience)
        case RegistryAddress():
            from .registry import RegistryTarget

            return RegistryTarget.open(spec, settings, observer, patience=patience)
        case LayoutSpec():
            if settings.target.dry_run:
                return LayoutTarget.inspect(spec.path)

            options = WriteOptions(settings.target.fsync, settings.target.check_space, patience)
            return LayoutTarget.open(spec.path, observer=observer, options=options)


def wanted_platforms(spec: TargetSpec, settings: Options) -> tuple[Platform, ...]:
    """Return the platforms to mirror of a multi-arch image, () for all."""
    return (spec.platform,) if isinstance(spec, DerivedTarget) else settings.discovery.platforms
