"""The verdicts of signature policies that accepted the images of a mirror, for readers. Functions block."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from ..errors import StoreError
from ..oci import Digest
from .records import Acceptance
from .state import State

_STATE = Path(".quaymirror", "state.db")

Acceptances = dict[str, tuple[Acceptance, ...]]


def verdicts_by_source(path: Path, sources: Mapping[str, Digest]) -> Acceptances:
    """Return the verdicts about images of the mirror at `path`, by their names and digests at the source.

    The latest verdict comes first; images without any are left out. A state that can't be read has none.
    """
    with suppress(StoreError), closing(_state(path)) as state:
        return _found({name: state.acceptances(name, digest) for name, digest in sources.items()})

    return {}


def verdicts_by_root(path: Path, roots: Mapping[str, Digest]) -> Acceptances:
    """Return the same by the digests that are stored: others if only some platforms of an index are."""
    with suppress(StoreError), closing(_state(path)) as state:
        return _found({name: state.stored_acceptances(name, digest) for name, digest in roots.items()})

    return {}


def _state(path: Path) -> State:
    # A check reads all of it, which takes longer than the lookups.
    state, _ = State.open(path / _STATE, read_only=True, check=False)
    return state


def _found(verdicts: Mapping[str, list[Acceptance]]) -> Acceptances:
    return {name: tuple(found) for name, found in verdicts.items() if found}
