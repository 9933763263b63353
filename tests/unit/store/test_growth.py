"""Costs that grow with the selected images only."""

from __future__ import annotations

from pathlib import Path

from quaymirror.oci import Descriptor, Digest, mediatype
from quaymirror.store.history import History
from quaymirror.store.records import DiscoverySnapshot, ImageRecord, TagCheck
from quaymirror.store.state import State


def test_only_the_tags_of_one_organization_are_read(tmp_path: Path) -> None:
    names = ["kolla", "kolla/nova", "kolla/nova-api", "kolla.old/nova", "kollb/nova", "openstack/kolla/nova"]
    history, _ = History.open(tmp_path)
    history.learn(TagCheck("quay.io", name, "1", 5, 10) for name in names)
    found = {prefix: sorted(check.repository for check in history.tags("quay.io", prefix)) for prefix in ("", "kolla/")}
    history.close()
    assert found == {"": sorted(names), "kolla/": ["kolla/nova", "kolla/nova-api"]}


def test_an_image_that_is_removed_is_not_missing_any_more_and_the_others_are(tmp_path: Path) -> None:
    state, _ = State.open(tmp_path / "state.db")
    root = Descriptor(mediatype.OCI_MANIFEST, Digest.of(b"root"), 4)
    names = ("kolla/a:1", "kolla/b:1", "kolla/c:1")
    state.commit(ImageRecord(name, "quay.io", root.digest, root, (root,)) for name in names)
    absent = frozenset({"kolla/a:1", "kolla/b:1"})
    state.record_discovery(DiscoverySnapshot("kolla/*:1", frozenset({"kolla/c:1"}), absent, True, True, 1.0))
    state.untag(["kolla/a:1"])
    found = [image.name for image in state.absent_images()], state.image_count()
    state.close()
    assert found == (["kolla/b:1"], 2)
