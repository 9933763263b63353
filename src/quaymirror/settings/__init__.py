"""Typed options in groups, each declared once: the register of the command line, the environment and the file."""

from .groups import (
    DEFAULT_SERVER,
    DEFAULT_TARGET,
    ClientOptions,
    DiscoveryOptions,
    Limits,
    Options,
    OutputOptions,
    PruneOptions,
    SourceOptions,
    TargetOptions,
    parse_rate,
)

__all__ = [
    "DEFAULT_SERVER",
    "DEFAULT_TARGET",
    "ClientOptions",
    "DiscoveryOptions",
    "Limits",
    "Options",
    "OutputOptions",
    "PruneOptions",
    "SourceOptions",
    "TargetOptions",
    "parse_rate",
]
