"""The images of selections from any number of sources, in one iterator."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from ..catalog.base import PinnedImage
from ..discovery.discover import discover
from ..discovery.label_verdicts import LabelVerdicts
from ..discovery.tag_cache import TagCache
from ..errors import Failure, InvalidName, Phase, QuaymirrorError, SelectionEmpty, TargetRefused
from ..events import CheckFailed, Notice, Observer
from ..oci import Reference
from ..selection.rename import Renames
from ..selection.selection import Selection
from ..selection.source import SourceAddress
from ..settings import Options
from .image_labels import LabelFilter
from .wiring import OpenSources


async def find_in_sources(
    sources: OpenSources,
    selections: Sequence[Selection],
    options: Options,
    *,
    observer: Observer,
    cache: TagCache | None = None,
    strict: bool = False,
    verdicts: LabelVerdicts | None = None,
) -> AsyncGenerator[PinnedImage]:
    """Iterate over the images of `selections`, one source after the other; see `discover`.

    An image with the name of another one is a failed check. `verdicts` are those of earlier runs on labels. Unless
    `strict`, a source that fails does not end the others: its error comes at the end.

    :raises SelectionEmpty: if a selection matches nothing, after all others.
    :raises ConfigError: if a source can't be opened.
    :raises QuaymirrorError: if a listing breaks off, or nothing else can be found.
    """
    names, errors = _Names(observer, Renames(options.target.renames)), _Errors()
    groups = by_source(selections)
    for source, of_it in groups.items():
        address = options.source.address_of(of_it[0])
        registry = address.registry_name
        try:
            services = await sources.open(source)
            labels = LabelFilter(services.source, options.discovery.platforms, verdicts or LabelVerdicts())
            found = discover(
                of_it,
                services.catalog,
                registry,
                cache=cache,
                observer=observer,
                strict=strict,
                labels=labels.check,
                most=options.discovery.max_repositories,
            )
            async with aclosing(found):
                async for image in found:
                    if names.claim(image):
                        yield image
        except SelectionEmpty as error:
            errors.add_empty(error, of_it)
        except QuaymirrorError as error:
            if strict or len(groups) == 1:
                raise

            observer(Notice(f"{address}: {error.message}; the other sources go on"))
            errors.failure = errors.failure or error

    if (first := errors.first(is_empty=names.is_empty)) is not None:
        raise first


def by_source(selections: Iterable[Selection]) -> dict[SourceAddress | None, list[Selection]]:
    """Return `selections` by their sources, in the order of the first of each."""
    groups: dict[SourceAddress | None, list[Selection]] = {}
    for selection in selections:
        groups.setdefault(selection.source, []).append(selection)

    return groups


def advice(reference: Reference) -> str:
    """Return the option that gives `reference` a name of its own."""
    repository = reference.repository
    return f"--rename '{repository}={repository.registry.partition(':')[0]}/{repository.name}' would separate them"


class _Errors:
    """The errors of sources that did not end the others."""

    def __init__(self) -> None:
        self.failure: QuaymirrorError | None = None
        self._empty: SelectionEmpty | None = None
        self._missing: SelectionEmpty | None = None

    def add_empty(self, error: SelectionEmpty, selections: Iterable[Selection]) -> None:
        """Record that `selections` match nothing. Exact images are reported one by one."""
        if all(selection.exact for selection in selections):
            self._missing = self._missing or error
        else:
            self._empty = self._empty or error

    def first(self, *, is_empty: bool) -> QuaymirrorError | None:
        """Return the error to raise, None without one; `is_empty` if no image was found at all."""
        return self.failure or self._empty or (self._missing if is_empty else None)


class _Names:
    """The names that images have in a target: one name is for one image."""

    def __init__(self, observer: Observer, renames: Renames) -> None:
        self._observer = observer
        self._renames = renames
        # Of each name the digest, and the whole name of the image unless it follows: there may be many thousands.
        self._claimed: dict[str, bytes] = {}
        self._whole: dict[str, str] = {}
        self._registry = ""

    @property
    def is_empty(self) -> bool:
        """True if no image has a name."""
        return not self._claimed

    def claim(self, image: PinnedImage) -> bool:
        """Return True if `image` is the first with its name."""
        reference, digest = image.reference, bytes.fromhex(image.digest.encoded)
        try:
            name = self._renames.apply(reference).name
        except InvalidName as error:
            self._fail(reference, f"can't be renamed: {error.message}")
            return False

        first = self._claimed.get(name)
        if first is None:
            self._claimed[name] = digest
            self._note_whole(name, reference)
            return True

        if first != digest:
            whole = self._whole.get(name) or f"{self._registry}/{name}"
            self._fail(reference, f"has the same name as {whole}: {advice(reference)}")

        return False

    def _note_whole(self, name: str, reference: Reference) -> None:
        registry = reference.repository.registry
        self._registry = self._registry or registry
        if (registry, name) != (self._registry, reference.name):
            self._whole[name] = reference.full_name

    def _fail(self, reference: Reference, message: str) -> None:
        failure = Failure.of(TargetRefused(message, phase=Phase.DISCOVER))
        self._observer(CheckFailed(str(reference.repository), reference.tag or "", failure))
