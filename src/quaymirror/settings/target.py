"""Options about the target: how images are stored, published and removed."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ..secret import Credentials
from ..selection.rename import Rename
from ..store.fsops import Fsync
from ..store.retention import Retention
from ..values import dataclass
from .spec import Group, Heading, existing_directory, flag, option, possible_directory, shorthand
from .texts import WEEK, check_dated_tags, check_filter, check_label, seconds, seconds_or_none

_VERIFY = ("verify", "prune")
_OF_MIRRORS = (
    *("list", "info", "diff", "serve", "snapshots", "rollback", "hold", "unhold", "remove", "inventory", "export"),
)
_MOST_KEPT = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetOptions(Group):
    """The way images are stored: filters, durability, and access to a target that is a registry."""

    heading: ClassVar[Heading] = Heading.TARGET
    filters: tuple[str, ...] = option(
        "-f, --filter SPEC", "Apply an occystrap filter (for dir://, tar:// and so on).", (), accept=check_filter
    )
    renames: tuple[Rename, ...] = option(
        "--rename FROM=TO",
        "Store images under another name: 'openstack.kolla/*=kolla/*'.",
        (),
        parse=Rename.parse,
        commands=("verify", "push", "check"),
    )
    allow_extract: bool = flag("Let oci://, mounts:// and dir://?expand=true unpack images.")
    dry_run: bool = flag("Show what would be done; write nothing.", common=True, commands=("prune", "export", "remove"))
    fsync: Fsync = option(
        "WHEN",
        "Survive power loss: sync each file (always), each commit (batch), never.",
        Fsync.ALWAYS,
        choices=Fsync,
        commands=("export", "import"),
    )
    check_space: bool = option(
        "--no-space-check", "Don't check free disk space first.", True, inverted=True, commands=("import",)
    )
    wait: bool = flag("Wait for another run on the same target to end.")
    dest_credentials: Credentials | None = None
    dest_cert_dir: Path | None = option(
        "PATH",
        "Directory with certificates for the target (*.crt, *.cert, *.key).",
        on_disk=existing_directory,
        heading=Heading.REGISTRY_TARGET,
        commands=(*_VERIFY, "check"),
        both="cert_dir",
    )
    dest_tls_verify: bool = option(
        "BOOL",
        "Whether to verify the target's certificate.",
        True,
        heading=Heading.REGISTRY_TARGET,
        commands=(*_VERIFY, "check"),
        both="tls_verify",
    )
    state: Path | None = option(
        "PATH",
        "Directory with the state of registries and object stores.",
        on_disk=possible_directory,
        heading=Heading.REGISTRY_TARGET,
        shown_default="XDG state",
        commands=("verify", "prune", "history", "watch", "merge-reports", *_OF_MIRRORS),
    )
    report_age: float = option(
        "DURATION",
        "How long the history keeps reports; one line per run stays for good.",
        400 * 86_400.0,
        heading=Heading.OUTPUT,
        shown_default="400d",
        parse=seconds,
    )
    check_target: bool = flag(
        "Check that images pushed earlier, and their referrers, still exist in the target registry.",
        heading=Heading.REGISTRY_TARGET,
    )
    verify_target: bool = flag(
        "Verify the target after the run, as `quaymirror verify` does.", heading=Heading.REGISTRY_TARGET
    )


PUBLISH = ("each", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishOptions(Group):
    """The set of images that a run makes, and when readers see it. Times are in seconds."""

    heading: ClassVar[Heading] = Heading.PUBLISHING
    publish: str = option(
        "WHEN", "Show each image when it is complete, or the whole set at the end.", "each", choices=PUBLISH
    )
    max_failed: int = option("N", "With --publish end: publish with up to N failed images.", 0, least=0, most=1_000_000)
    snapshot_label: str | None = option("LABEL", "Label of the snapshot that the run makes.", accept=check_label)
    settle: float = option(
        "DURATION", "First wait until the newest push is this old.", 0.0, shown_default="0", parse=seconds_or_none
    )
    settle_timeout: float = option(
        "DURATION", "How long to wait for tags that still move.", 1800.0, shown_default="30m", parse=seconds_or_none
    )
    dated_tags: str | None = option(
        "TEMPLATE",
        "Give each image that changes a second tag in a registry, such as {tag}-{date}.",
        accept=check_dated_tags,
    )
    refuse_older: bool = flag("Keep the newer image if a tag goes back to an earlier one.")

    @property
    def at_end(self) -> bool:
        """True if readers see the set at the end."""
        return self.publish == "end"


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOptions(Group):
    """Removal of images that have disappeared from the source. `grace` is in seconds."""

    heading: ClassVar[Heading] = Heading.PRUNING
    prune: bool = flag("Remove images that have disappeared from the source.", common=True)
    grace: float = option(
        "DURATION",
        "How long images must have been missing before they are removed.",
        WEEK,
        shown_default="7d",
        parse=seconds_or_none,
        commands=("prune",),
    )
    max_delete: float = option(
        "PERCENT",
        "Remove nothing if it would be a larger share of the images.",
        10.0,
        shown_default="10",
        least=0,
        most=100,
        commands=("prune",),
        shorthand=shorthand(
            "--ignore-max-delete",
            "Prune, no matter how many images are removed.",
            100.0,
            commands=("prune",),
            has_variable=False,
            in_file=False,
        ),
    )
    keep_last: int = option(
        "N", "Pruning keeps the content of the last N snapshots.", 2, least=1, most=_MOST_KEPT, commands=("prune",)
    )
    keep_daily: int = option(
        "N", "Also keep the last snapshot of each of N days.", 0, least=0, most=_MOST_KEPT, commands=("prune",)
    )
    keep_weekly: int = option(
        "N", "Also keep the last snapshot of each of N weeks.", 0, least=0, most=_MOST_KEPT, commands=("prune",)
    )
    keep_monthly: int = option(
        "N", "Also keep the last snapshot of each of N months.", 0, least=0, most=_MOST_KEPT, commands=("prune",)
    )
    keep_labels: tuple[str, ...] = option(
        "--keep-label LABEL", "Also keep snapshots with this label.", (), accept=check_label, commands=("prune",)
    )

    @property
    def retention(self) -> Retention:
        """The snapshots that pruning keeps."""
        return Retention(self.keep_last, self.keep_daily, self.keep_weekly, self.keep_monthly, self.keep_labels)
