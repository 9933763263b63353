"""The commands that pull an image from this server, for each kind of client."""

from __future__ import annotations


def pull_commands(host: str, repository: str, tag: str, digest: str, *, is_secure: bool) -> list[tuple[str, str]]:
    """Return a title and the command, or the configuration, for each kind of client.

    `host` is the address of this server. Without TLS, clients need to be told to use plain HTTP.
    """
    image = f"{host}/{repository}:{tag}" if tag else f"{host}/{repository}@{digest}"
    found = [
        ("podman, skopeo", f"podman pull {'' if is_secure else '--tls-verify=false '}{image}"),
        ("Docker", f"docker pull {image}"),
        ("containerd", f"ctr images pull {'' if is_secure else '--plain-http '}{image}"),
    ]
    namespace, _, _ = repository.rpartition("/")
    if tag and namespace:
        insecure = "" if is_secure else "docker_registry_insecure: true\n"
        lines = f'docker_registry: "{host}"\ndocker_namespace: "{namespace}"\n{insecure}openstack_tag: "{tag}"'
        found.append(("kolla-ansible, in globals.yml", lines))

    return found
