"""A tree of images shaped like OpenStack Kolla's, where each image is its parent's layers and a few more."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count as count_from
from itertools import islice

from quaymirror.testing.images import Layer, SourceManifest, make_attestation, make_image, make_index, make_layer

_ROLES = {
    "nova": "api compute conductor scheduler novncproxy ssh libvirt compute-ironic spicehtml5proxy serialproxy",
    "neutron": "server l3-agent dhcp-agent metadata-agent openvswitch-agent bgp-dragent infoblox-ipam-agent mlnx-agent",
    "cinder": "api backup scheduler volume",
    "glance": "api",
    "keystone": "keystone fernet ssh",
    "heat": "api api-cfn engine",
    "octavia": "api driver-agent health-manager housekeeping worker",
    "ironic": "api conductor inspector neutron-agent prometheus-exporter pxe",
    "magnum": "api conductor",
    "designate": "api backend-bind9 central mdns producer sink worker",
    "barbican": "api keystone-listener worker",
    "manila": "api data scheduler share",
    "swift": "account container object proxy-server rsyncd",
    "aodh": "api evaluator listener notifier",
    "ceilometer": "central compute ipmi notification",
    "trove": "api conductor guestagent taskmanager",
    "zun": "api cni-daemon compute wsproxy",
    "masakari": "api engine monitors",
    "mistral": "api engine event-engine executor",
    "prometheus": "server alertmanager node-exporter mysqld-exporter openstack-exporter blackbox-exporter cadvisor",
}
_STANDALONE = "cron fluentd mariadb-server rabbitmq memcached haproxy keepalived redis opensearch grafana etcd"
_OUTSIDE_OPENSTACK = frozenset({"prometheus"})
_MULTI_ARCHITECTURE = "fluentd"
_LAYERS_PER_IMAGE = 2


def kolla_like(
    count: int = 40, *, seed: int | str = 0, layer_size: int = 16_384, depth: int = 4
) -> dict[str, SourceManifest]:
    """Return *count* images by repository name, parents before children, deterministic in all arguments.

    An image has its parent's layers and two of its own of about *layer_size* bytes. *depth* caps the length of the
    chain (base, openstack-base, nova-base, nova-api is 4). One image, ``fluentd`` if there is room for it, is an index
    of two architectures with an attestation.
    """
    if depth < 1:
        raise ValueError("depth must be at least 1")
    names = dict(islice(_names_with_parents(), count))
    multi = _MULTI_ARCHITECTURE if _MULTI_ARCHITECTURE in names else list(names)[-1] if names else ""
    layers: dict[str, tuple[Layer, ...]] = {}
    images: dict[str, SourceManifest] = {}
    for name, ancestors in names.items():
        parent = ancestors[: depth - 1][-1:]
        inherited = layers[parent[0]] if parent else ()
        layers[name] = inherited + _own_layers(name, seed, layer_size)
        images[name] = _image(name, layers[name])
    if multi:
        images[multi] = _multi_architecture(multi, images[multi], seed, layer_size)
    return images


def _own_layers(name: str, seed: int | str, size: int) -> tuple[Layer, ...]:
    return tuple(make_layer(f"{seed} {name} {number}", size) for number in range(_LAYERS_PER_IMAGE))


def _image(name: str, layers: tuple[Layer, ...], platform: str = "linux/amd64") -> SourceManifest:
    labels = {"name": name, "kolla_version": "20.1.0", "maintainer": "Kolla Project (https://launchpad.net/kolla)"}
    return make_image(layers, platform=platform, labels=labels)


def _multi_architecture(name: str, amd64: SourceManifest, seed: int | str, size: int) -> SourceManifest:
    arm64 = _image(name, _own_layers(f"{name} arm64", seed, size), "linux/arm64/v8")
    attestation = make_attestation(amd64)
    return make_index([(amd64, "linux/amd64"), (arm64, "linux/arm64/v8"), (attestation, "unknown/unknown")])


def _names_with_parents() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield ``(name, ancestors from the root down)`` without end."""
    yield "base", ()
    yield "openstack-base", ("base",)
    yield from ((name, ("base",)) for name in _STANDALONE.split())
    for service, roles in _ROLES.items():
        root = ("base",) if service in _OUTSIDE_OPENSTACK else ("base", "openstack-base")
        yield f"{service}-base", root
        for role in roles.split():
            yield service if role == service else f"{service}-{role}", (*root, f"{service}-base")
    yield from ((f"neutron-plugin-{number:04d}", ("base", "openstack-base", "neutron-base")) for number in count_from())
