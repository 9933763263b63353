"""Options in groups. The name of a field is the name of its option, and each is declared in its group, nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Any, Self

from ..errors import ConfigError
from ..values import dataclass
from .run import Limits, OutputOptions
from .source import ClientOptions, DiscoveryOptions, SignatureOptions, SourceOptions
from .target import PruneOptions, PublishOptions, TargetOptions

__all__ = [
    "DEFAULT_TARGET",
    "GROUPS",
    "GROUP_OF",
    "ClientOptions",
    "DiscoveryOptions",
    "Limits",
    "Options",
    "OutputOptions",
    "PruneOptions",
    "PublishOptions",
    "SignatureOptions",
    "SourceOptions",
    "TargetOptions",
]

DEFAULT_TARGET = "./mirror"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """All options of a run, in groups.

    :raises ConfigError: if a value is not legal.
    """

    source: SourceOptions = field(default_factory=SourceOptions)
    client: ClientOptions = field(default_factory=ClientOptions)
    target: TargetOptions = field(default_factory=TargetOptions)
    limits: Limits = field(default_factory=Limits)
    discovery: DiscoveryOptions = field(default_factory=DiscoveryOptions)
    signatures: SignatureOptions = field(default_factory=SignatureOptions)
    publishing: PublishOptions = field(default_factory=PublishOptions)
    prune: PruneOptions = field(default_factory=PruneOptions)
    output: OutputOptions = field(default_factory=OutputOptions)

    @classmethod
    def of(cls, **values: Any) -> Self:
        """Return options with these values, by the names of their fields: no name is in two groups."""
        return cls().replace(**values)

    def replace(self, **values: Any) -> Self:
        """Return a copy with these values, by the names of their fields."""
        groups: dict[str, Any] = {}
        for name, value in values.items():
            if name not in GROUP_OF:
                raise TypeError(f"no such option: {name!r}")

            groups.setdefault(GROUP_OF[name], {})[name] = value

        return replace(self, **{name: replace(getattr(self, name), **part) for name, part in groups.items()})

    @property
    def connection(self) -> tuple[object, ...]:
        """The values that runs must have in common to share connections and limits."""
        source, client, limits = self.source, self.client, self.limits
        return (
            source.origin,
            client.cafile,
            source.src_cert_dir,
            source.src_tls_verify,
            limits.limit_rate,
            limits.max_requests_per_second,
            client.timeouts,
            client.retry,
            client.environment,
        )

    def state_directory(self, target: str) -> Path:
        """Return the directory of the state of `target`, an address without a directory of its own.

        Each target has its own, also below `state`.

        :raises ConfigError: if no home directory is known.
        """
        return self._states(target) / hashlib.sha256(target.encode()).hexdigest()[:16]

    def _states(self, target: str) -> Path:
        if self.target.state is not None:
            return self.target.state

        environment = self.client.environment
        if state := environment.get("XDG_STATE_HOME"):
            return Path(state, "quaymirror")

        try:
            return Path(environment.get("HOME") or Path.home(), ".local", "state", "quaymirror")
        except RuntimeError:
            raise ConfigError(f"cannot determine a state directory for {target}: set HOME or use --state") from None


GROUPS: Mapping[str, Any] = {each.name: each.default_factory for each in fields(Options)}
GROUP_OF = {each.name: name for name, group in GROUPS.items() for each in fields(group)}
