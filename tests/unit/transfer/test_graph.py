"""The order in which the manifests of an image are stored."""

from __future__ import annotations

from graphs import CONFIG, described, image_of, index_of

from quaymirror.oci import Index, Manifest
from quaymirror.transfer.graph import ImageGraph

AMD64, ARM64 = (image_of(CONFIG, described(name)) for name in (b"amd64", b"arm64"))
INNER = index_of(ARM64)
ROOT = index_of(AMD64, INNER, AMD64)


def graph(*nodes: Manifest | Index) -> ImageGraph:
    return ImageGraph(nodes[0], {node.descriptor.digest: node for node in nodes})


def test_children_are_stored_before_their_parents_and_each_manifest_once() -> None:
    assert graph(ROOT, AMD64, INNER, ARM64).walk() == (AMD64, ARM64, INNER, ROOT)


def test_a_referrer_is_stored_after_its_subject_and_before_the_parent_of_it() -> None:
    signature = image_of(CONFIG, described(b"signature"), subject=AMD64.descriptor)
    countersignature = image_of(CONFIG, described(b"countersignature"), subject=signature.descriptor)
    sbom = image_of(CONFIG, described(b"sbom"), subject=ROOT.descriptor)
    nodes = {node.descriptor.digest: node for node in (ROOT, AMD64, INNER, ARM64)}
    referrers = {
        AMD64.descriptor.digest: (signature,),
        signature.descriptor.digest: (countersignature,),
        ROOT.descriptor.digest: (sbom,),
    }
    found = ImageGraph(ROOT, nodes, referrers=referrers)
    assert found.walk() == (AMD64, signature, countersignature, ARM64, INNER, ROOT, sbom)
    assert {blob.digest for blob in found.blobs()} >= {
        described(name).digest for name in (b"signature", b"countersignature", b"sbom", b"amd64", b"arm64")
    }


def test_blobs_are_listed_once() -> None:
    shared = image_of(CONFIG, described(b"amd64"), described(b"more"))
    root = index_of(AMD64, shared)
    assert graph(root, AMD64, shared).blobs() == (CONFIG, described(b"amd64"), described(b"more"))


def test_children_that_are_not_wanted_are_left_out() -> None:
    assert graph(ROOT, AMD64).walk() == (AMD64, ROOT)
