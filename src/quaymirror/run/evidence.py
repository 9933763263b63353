"""The signatures of images, as the source and the mirror have them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from functools import partial

from ..errors import Failure, QuaymirrorError, Scope
from ..oci import Descriptor, Reference, Repository
from ..oci.manifest import Manifest, Node, parse_stored
from ..referrers.choice import BUNDLES
from ..referrers.find import ReferrerFinder
from ..registry.puller import Puller
from ..store.lookaside import store_messages, stored_messages
from ..store.reader import LayoutReader
from ..store.state import State
from ..store.storage import Storage
from ..transfer.target import PrunableTarget
from ..trust.bundle import MAX_BUNDLE_BYTES
from ..trust.evidence import BUNDLE_TYPE, MAX_SIGNATURES, SIMPLE_SIGNING, Evidence, SimpleSignature
from ..trust.payload import MAX_PAYLOAD_BYTES
from ..trust.policy import docker_name
from ..values import dataclass
from .lookaside import LookasideSignatures

SIGNATURE_END = ".sig"


@dataclass(slots=True)
class Gathered:
    """The signatures of the manifests of one image, and the failures of others that could not be read."""

    evidence: list[Evidence]
    failures: list[Failure] = field(default_factory=list)


class SourceSignatures:
    """The signatures that the source has."""

    def __init__(
        self, finder: ReferrerFinder, source: Puller, lookaside: LookasideSignatures, layout: PrunableTarget | None
    ) -> None:
        self._finder = finder
        self._source = source
        self._lookaside = lookaside
        self._layout = layout

    async def find(self, reference: Reference, nodes: Mapping[str, Node], *, has_messages: bool) -> Gathered:
        """Return the signatures of `nodes`, manifests by their names for people, in the same order.

        Signatures by GPG keys are looked for if `has_messages`, and kept in the mirror.

        :raises QuaymirrorError: if the run can't go on.
        """
        repository = reference.repository
        digests = [node.descriptor.digest for node in nodes.values()]
        found = await self._finder.find(repository, digests, BUNDLES)
        gathered = Gathered([], list(found.failures))
        for name, node in nodes.items():
            digest = node.descriptor.digest
            layers = [
                layer
                for each in found.referrers
                if each.subject == digest and isinstance(each.node, Manifest)
                for layer in signature_layers(each.node, each.tag)
            ]
            contents = await self._fetch(repository, layers[:MAX_SIGNATURES], gathered.failures)
            evidence = evidence_of(node, name, contents)
            if has_messages:
                evidence = await self._with_messages(reference, node, evidence)

            gathered.evidence.append(evidence)

        return gathered

    async def _with_messages(self, reference: Reference, node: Node, evidence: Evidence) -> Evidence:
        evidence = replace(evidence, messages=await self._lookaside.messages(reference, node))
        if self._layout is not None and evidence.messages:
            storing = partial(
                store_messages, name=docker_name(reference), digest=evidence.digest, messages=evidence.messages
            )
            await self._layout.use(lambda storage, _: storing(storage))

        return evidence

    async def _fetch(
        self, repository: Repository, layers: Iterable[Descriptor], failures: list[Failure]
    ) -> list[tuple[Descriptor, bytes]]:
        contents = []
        for layer in layers:
            try:
                contents.append((layer, await self._source.blob(repository, layer)))
            except QuaymirrorError as error:
                if error.scope is Scope.RUN:
                    raise

                failures.append(Failure.of(error))

        return contents


class StoredSignatures:
    """The signatures that the mirror has."""

    def __init__(self, layout: PrunableTarget) -> None:
        self._layout = layout

    async def find(self, reference: Reference, nodes: Mapping[str, Node], *, has_messages: bool) -> Gathered:
        """Return the signatures of `nodes`, manifests by their names for people, in the same order."""
        return Gathered(await self._layout.use(partial(stored_evidence, reference=reference, nodes=nodes)))


def stored_evidence(
    storage: Storage, state: State, *, reference: Reference, nodes: Mapping[str, Node]
) -> list[Evidence]:
    """Return the signatures of `nodes` in a mirror, in the same order. Damaged ones are left out."""
    reader, found = LayoutReader(storage), []
    for name, node in nodes.items():
        layers = [
            layer
            for record in state.referrers(node.descriptor.digest)
            if (content := reader.read(record.root.digest)) is not None
            and isinstance(manifest := parse_stored(content, record.root.digest), Manifest)
            for layer in signature_layers(manifest, record.tag)
        ]
        contents = [
            (layer, content)
            for layer in layers[:MAX_SIGNATURES]
            if (content := reader.read(layer.digest, layer.size)) is not None
        ]
        messages = stored_messages(storage, docker_name(reference), node.descriptor.digest)
        found.append(replace(evidence_of(node, name, contents), messages=messages))

    return found


def signature_layers(manifest: Manifest, tag: str) -> list[Descriptor]:
    """Return the layers of a referrer that are signatures, those of a `.sig` tag or bundles, and not too large."""
    if tag:
        layers = manifest.layers if tag.endswith(SIGNATURE_END) else ()
        return [each for each in layers if each.media_type == SIMPLE_SIGNING and each.size <= MAX_PAYLOAD_BYTES]

    bundles = (each for each in manifest.layers if each.media_type.startswith(BUNDLE_TYPE))
    return [each for each in bundles if each.size <= MAX_BUNDLE_BYTES]


def evidence_of(node: Node, name: str, contents: Iterable[tuple[Descriptor, bytes]]) -> Evidence:
    """Return layers with signatures of a manifest as evidence."""
    simple, bundles = [], []
    for layer, content in contents:
        if layer.media_type == SIMPLE_SIGNING:
            simple.append(SimpleSignature.of(content, layer.annotations))
        else:
            bundles.append(content)

    return Evidence(node.descriptor.digest, node.raw, tuple(simple), tuple(bundles), name=name)
