"""The sections of the man page that are not generated from the commands."""

from __future__ import annotations

FILES = (
    (
        "./quaymirror.toml, ~/.config/quaymirror/quaymirror.toml, /etc/quaymirror/quaymirror.toml",
        "The configuration; the first that exists.",
    ),
    ("TARGET/index.json, TARGET/blobs", "The mirror, an OCI image layout."),
    ("TARGET/.quaymirror", "State, snapshots, history, locks and partially fetched blobs of the mirror."),
    ("$XDG_STATE_HOME/quaymirror, ~/.local/state/quaymirror", "Records of what was pushed to registries; see --state."),
    (
        "$REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json, ~/.docker/config.json",
        "Credentials, only read; see --authfile.",
    ),
    ("/etc/containers/certs.d/HOST, /etc/docker/certs.d/HOST", "Certificates of registries."),
)
ENVIRONMENT = (
    (
        "QUAYMIRROR_OPTION",
        "The value of --option of sync and run: QUAYMIRROR_LAYER_CONCURRENCY for --layer-concurrency. Several values "
        "are separated by spaces. The command line comes first, then the environment, then the configuration.",
    ),
    ("QUAY_API_TOKEN", "An API token of Quay; see --token-file."),
    ("QUAYMIRROR_DEBUG", "If set, an internal error prints its traceback."),
    ("HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY", "Proxies, also in lower case."),
    ("NO_COLOR", "If set, no colours."),
    (
        "REGISTRY_AUTH_FILE, DOCKER_CONFIG, XDG_CONFIG_HOME, XDG_RUNTIME_DIR, XDG_STATE_HOME, HOME",
        "Places of the files above.",
    ),
    ("QUAYMIRROR_EXIT_CODE", "Set for the program of --notify-command."),
)
EXAMPLES = (
    (
        "Mirror the images of a release, sixteen at a time:",
        "quaymirror sync openstack.kolla '*' 2025.1-debian-bookworm --to /srv/mirror --concurrency 16",
    ),
    ("Look first:", "quaymirror sync openstack.kolla 'nova-*' 2025.1-debian-bookworm --dry-run"),
    ("Run the jobs of the configuration, and see how they are:", "quaymirror run\nquaymirror status"),
    ("Check every byte, and fetch damaged blobs again:", "quaymirror verify /srv/mirror --repair"),
    ("Load a mirror into a registry:", "quaymirror push /srv/mirror registry://registry.inside:5000"),
    ("Serve it:", "quaymirror serve /srv/mirror --listen :5000 --tls-cert tls.crt --tls-key tls.key"),
    ("Return to the set of images before the last change:", "quaymirror rollback /srv/mirror --to previous"),
    ("Remove images that have disappeared from the source:", "quaymirror prune /srv/mirror --yes"),
)
