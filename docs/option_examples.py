"""Examples of values for options: by the option's name where one is telling, otherwise by the kind of its value."""

from __future__ import annotations

from quaymirror.settings.spec import OptionSpec, OptionType

_BY_NAME = {
    "allow_realms": "auth.registry.example",
    "accept_failed": "/etc/quaymirror/accepted.txt",
    "artifact_types": "application/vnd.dev.cosign.*",
    "authfile": "/etc/quaymirror/auth.json",
    "cafile": "/etc/ssl/certs/company.pem",
    "cluster": "tls://scheduler.example:8786",
    "cert_dir": "/etc/quaymirror/certs",
    "check_target": "",
    "concurrency": "32",
    "config": "/etc/quaymirror/quaymirror.toml",
    "default_registry": "docker.io",
    "dest_cert_dir": "/etc/quaymirror/certs",
    "dest_username": "pusher",
    "exclude": "*-base",
    "exclude_tags": "*-aarch64",
    "expect_at_least": "250",
    "filters": "normalize-timestamps",
    "from_lock": "kolla.lock.json",
    "globs": "nova-*",
    "grace": "14d",
    "images": "images.txt",
    "full_check_every": "1d",
    "keep_daily": "14",
    "keep_labels": "release",
    "keep_last": "7",
    "keep_monthly": "12",
    "keep_weekly": "8",
    "labels": "org.opencontainers.image.vendor=Kolla*",
    "layer_concurrency": "32",
    "limit_rate": "20M",
    "lock_file": "kolla.lock.json",
    "log_file": "/var/log/quaymirror.log",
    "max_delete": "25",
    "max_duration": "4h",
    "max_failed": "3",
    "max_missing": "10",
    "max_repositories": "1000000",
    "max_requests_per_second": "20",
    "metrics_textfile": "/var/lib/node_exporter/quaymirror.prom",
    "newest": "3",
    "notify_command": "/usr/local/bin/notify.py mail ops@example.org",
    "ping_url": "https://hc-ping.com/8d2b0f1e",
    "platforms": "linux/arm64",
    "referrers_every": "1d",
    "renames": "openstack.kolla/*=kolla/*",
    "report": "/var/lib/quaymirror/report.json",
    "report_age": "90d",
    "report_html": "/srv/reports/report.html",
    "plan": "plan.json",
    "plan_only": "plan.json",
    "select": "kolla/nova-*:*",
    "server": "https://quay.example",
    "shard": "0/4",
    "settle": "30m",
    "signature_policy": "/etc/containers/policy.json",
    "since": "7d",
    "snapshot_label": "release",
    "src_cert_dir": "/etc/quaymirror/certs",
    "state": "/var/lib/quaymirror",
    "tags": "2025.1-debian*",
    "target": "registry://registry.example/mirror",
    "token_file": "/etc/quaymirror/token",
    "trusted_root": "/etc/quaymirror/trusted_root.json",
    "username": "acme+mirror",
}
_BY_METAVAR = {"BOOL": "false", "DURATION": "1h", "TEMPLATE": "{tag}-{date}", "N": "10", "PERCENT": "10"}


def example_value(spec: OptionSpec) -> str:
    """Return a value of `spec`, "" for a flag."""
    if spec.is_flag:
        return ""

    if spec.name in _BY_NAME:
        return _BY_NAME[spec.name]

    if spec.choices:
        return next((choice for choice in spec.choices if choice != spec.default_text), spec.choices[0])

    return _BY_METAVAR.get(spec.metavar) or ("/etc/quaymirror/file" if spec.kind is OptionType.PATH else "VALUE")
