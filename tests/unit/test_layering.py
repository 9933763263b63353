"""The layers of the package: which module may import which, which library has which importer, and the public names."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import quaymirror

SOURCE = Path(quaymirror.__file__).parent

# From the bottom to the top: modules and packages of `quaymirror`. Each may import those above it in this list.
LAYERS = (
    "testing",
    "__about__",
    "process",
    "values",
    "zstd",
    "deflate",
    "errors",
    "secret",
    "text",
    "pages",
    "yaml_text",
    "untrusted",
    "tasks",
    "budget",
    "oci",
    "trust",
    "events",
    "documents",
    "progress",
    "http",
    "auth",
    "registry",
    "selection",
    "store",
    "carry",
    "catalog",
    "shards",
    "referrers",
    "settings",
    "transfer",
    "emit",
    "targets",
    "discovery",
    "run",
    "ui",
    "serve",
    "config",
    "cli",
)
# The same inside of packages with many modules.
INNER_LAYERS = {
    "http": (
        "validator",
        "bodies",
        "files",
        "timeouts",
        "dates",
        "origin",
        "exchange",
        "links",
        "answers",
        "window",
        "latency",
        "rate",
        "cubic",
        "probe",
        "health",
        "limiter",
        "retry",
        "authorizer",
        "client",
        "budget",
        "guard",
        "tls",
        "proxy",
        "failures",
        "framing",
        "connections",
        "frames",
        "receiver",
        "threads",
        "helper",
        "transport",
        "ping",
    ),
    "trust": (
        "names",
        "identity",
        "requirements",
        "policy",
        "keys",
        "payload",
        "bundle",
        "log_entries",
        "gpg",
        "evidence",
        "certified_tags",
        "keyless",
        "lookaside",
        "judge",
    ),
    "store": (
        "records",
        "retention",
        "sink",
        "extents",
        "executor",
        "fsops",
        "lock",
        "leases",
        "database",
        "schema",
        "snapshot_tables",
        "referrer_tables",
        "verdict_tables",
        "detail_tables",
        "state",
        "acceptances",
        "history",
        "receipts",
        "documents",
        "storage",
        "lookaside",
        "promises",
        "ingest",
        "local_storage",
        "objects",
        "bucket_lock",
        "plan_lock",
        "bucket_cache",
        "buffers",
        "bucket_sink",
        "bucket",
        "plan_storage",
        "places",
        "reader",
        "details",
        "index",
        "snapshot_files",
        "snapshots",
        "reservation",
        "commits",
        "adoption",
        "layout",
        "prune",
        "verify",
        "repair",
    ),
    "carry": (
        "manifest",
        "signatures",
        "progress",
        "attached",
        "records",
        "parts",
        "plan",
        "inventory",
        "receive",
        "take_stock",
        "export",
    ),
    "catalog": (
        "base",
        "kinds",
        "json_api",
        "offsets",
        "registry/google",
        "registry/paging",
        "registry/catalog",
        "quay/schema",
        "quay/api",
        "quay/tags",
        "quay/catalog",
        "harbor",
        "hub",
        "ghcr",
        "gitlab",
        "layout/files",
        "layout/docker_archive",
        "layout/opening",
        "layout/entries",
        "layout/puller",
        "layout/catalog",
    ),
    "targets": (
        "placeholders",
        "spelling",
        "kinds",
        "layout",
        "bucket",
        "registry_address",
        "names",
        "blob_locations",
        "new_repositories",
        "spool",
        "tagging",
        "upload",
        "fallback_lists",
        "registry_target",
        "registry_verify",
        "registry",
        "derived_address",
        "layer_cache",
        "provenance",
        "derived_target",
        "derived",
    ),
    "transfer": (
        "slots",
        "stream",
        "segments",
        "blob",
        "sharing",
        "elsewhere",
        "single_flight",
        "target",
        "graph",
        "image",
        "referrers",
    ),
    "selection": (
        "grammar",
        "names",
        "parse",
        "bucket",
        "source",
        "labels",
        "selection",
        "layouts",
        "lockfile",
        "references",
        "rename",
        "image_documents",
        "image_list",
        "words",
    ),
    "run": (
        "accepted",
        "paths",
        "changes",
        "mirror_image",
        "wiring",
        "listing",
        "pruning",
        "image_config",
        "image_labels",
        "finding",
        "exact_names",
        "check_images",
        "provenance",
        "info",
        "derived_info",
        "repair",
        "shared",
        "context",
        "pushed",
        "report",
        "metrics",
        "notify",
        "run_history",
        "lookaside",
        "evidence",
        "signatures",
        "layout_verdicts",
        "publication",
        "consistency",
        "shard_blobs",
        "cluster_worker",
        "cluster_blobs",
        "cluster",
        "referrers",
        "stages",
        "sync",
        "merge_reports",
        "planning",
        "push_again",
        "forgetting",
        "verify",
        "snapshots",
        "checkout",
        "mirror_list",
        "jobs",
        "locked",
        "removal",
        "past_runs",
        "source_diff",
    ),
    "cli": (
        "display",
        "help",
        "messages",
        "progress_line",
        "hints",
        "progress_file",
        "streams",
        "main",
        "options",
        "merge_reports",
        "outputs",
        "completion",
        "tables",
        "mirrors",
        "info",
        "listing",
        "observers",
        "snapshots",
        "serve",
        "verify",
        "check",
        "watch",
        "console",
        "demo",
        "carry",
        "push",
        "run",
        "prune",
        "remove",
        "history",
        "status",
        "sync",
        "config",
    ),
    "serve": (
        "published",
        "contents",
        "earlier",
        "mirror",
        "content",
        "registry",
        "messages",
        "ranges",
        "lookaside",
        "api",
        "access_log",
        "repeats",
        "metrics",
        "passwords",
        "options",
        "nginx",
        "overview",
        "details",
        "live",
        "commands",
        "pages",
        "site",
        "listening",
        "server",
        "serving",
    ),
    "ui": (
        "dashboard/rows",
        "dashboard/controls",
        "descriptions",
        "chart",
        "html_report",
        "jsonl",
        "validation",
        "dashboard/transfers",
        "dashboard/attention",
        "dashboard/totals",
        "lines",
        "log",
        "snapshot",
        "summary",
        "dashboard/terminal",
    ),
}
# The only importers of a third-party library.
IMPORTERS = {
    "aiohttp": {"http/transport.py", "serve/server.py", "testing"},
    "cryptography": {"trust/keys.py"},
    "sigstore": {"trust/keyless.py"},
    "bcrypt": {"serve/passwords.py"},
    "tenacity": {"http/retry.py"},
    "rich": {"ui/dashboard/"},
    "click": {"cli"},
    "jinja2": {"pages.py"},
    "markupsafe": {"pages.py"},
    "obstore": {"store/objects.py"},
    "distributed": {"run/cluster.py"},
    "sqlite3": {"store/database.py"},
    "fcntl": {"store/lock.py"},
    "occystrap": {"emit/"},
    "prometheus_client": {"run/metrics.py", "serve/metrics.py"},
    "yaml": {"yaml_text.py"},
    "zstandard": {"zstd.py", "testing"},
    "isal": {"deflate.py"},
}
MODULES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


@cache
def syntax(module: str) -> ast.Module:
    return ast.parse((SOURCE / module).read_text())


def imports(module: str) -> Iterator[tuple[str, str]]:
    """Yield ("own", module of quaymirror) and ("other", top-level name) for each import, wherever it is."""
    package = Path(module).parent.parts
    for node in ast.walk(syntax(module)):
        if isinstance(node, ast.Import):
            yield from (("other", alias.name.partition(".")[0]) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            top, _, rest = node.module.partition(".")
            yield from own(rest.split("."), node.names) if top == "quaymirror" else [("other", top)]
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            yield from own([part for part in base if part], node.names)


def own(base: list[str], names: list[ast.alias]) -> Iterator[tuple[str, str]]:
    for alias in names:
        inner = "/".join([*base, f"{alias.name}.py"])
        package = "/".join([*base, alias.name, "__init__.py"])
        outer = "/".join(base) + ".py" if base else "__init__.py"
        candidates = [inner, package, outer, "/".join([*base, "__init__.py"])]
        yield from (("own", found) for found in [next((one for one in candidates if one in MODULES), "")] if found)


def layer(module: str) -> str:
    return module.partition("/")[0].removesuffix(".py")


def test_every_module_belongs_to_a_layer() -> None:
    top = {"__init__.py", "__main__.py"}
    assert {layer(module) for module in MODULES if module not in top} <= {*LAYERS}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_imports_only_what_is_below_it(name: str) -> None:
    below = {*LAYERS[: LAYERS.index(name) + 1]}
    for module in MODULES:
        if layer(module) == name:
            above = {found for kind, found in imports(module) if kind == "own"} - {"__init__.py"}
            assert {found for found in above if layer(found) not in below} == set(), module


def modules_of(package: str) -> list[str]:
    return [module for module in MODULES if layer(module) == package and not module.endswith("__init__.py")]


def test_every_large_package_has_an_order_inside() -> None:
    assert {name for name in LAYERS[1:] if len(modules_of(name)) > 10} <= {*INNER_LAYERS}


@pytest.mark.parametrize("package", INNER_LAYERS)
def test_a_module_imports_only_what_is_below_it_in_its_package(package: str) -> None:
    order = [f"{package}/{name}.py" for name in INNER_LAYERS[package]]
    assert {*order} == set(modules_of(package))
    for number, module in enumerate(order):
        inner = {found for kind, found in imports(module) if kind == "own"} & {*order}
        assert inner <= {*order[:number]}, module


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: {found for kind, found in imports(module) if kind == "own"} for module in MODULES}
    # The package itself declares the public names, which its modules don't import from it.
    graph.pop("__init__.py")
    [*TopologicalSorter(graph).static_order()]


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_library_is_imported_by_its_only_importer(library: str) -> None:
    users = {module for module in MODULES if ("other", library) in set(imports(module))}
    assert users
    assert {user for user in users if not any(user.startswith(one) for one in IMPORTERS[library])} == set()


def test_only_the_package_of_targets_asks_for_the_kind_of_a_target() -> None:
    kinds = {
        node.name
        for module in MODULES
        if module.startswith("targets/")
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.ClassDef)
    } | {"OCILayout"}
    for module in MODULES:
        if layer(module) not in {"targets", "testing"}:
            assert {kind for node in ast.walk(syntax(module)) for kind in asked_kinds(node)}.isdisjoint(kinds), module


def asked_kinds(node: ast.AST) -> Iterator[str]:
    """Yield the names of the classes that an `isinstance` or a `case` compares with."""
    kinds: list[ast.expr] = []
    if isinstance(node, ast.MatchClass):
        kinds = [node.cls]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
        kinds = [kind for kind in ast.walk(node.args[1]) if isinstance(kind, ast.Name | ast.Attribute)]

    for kind in kinds:
        if isinstance(kind, ast.Name | ast.Attribute):
            yield kind.id if isinstance(kind, ast.Name) else kind.attr


@pytest.mark.parametrize("name", ["create_task", "ensure_future", "gather", "get_event_loop"])
def test_concurrency_is_structured(name: str) -> None:
    callers = {
        module
        for module in MODULES
        for node in ast.walk(syntax(module))
        if isinstance(node, ast.Attribute) and node.attr == name
    }
    assert callers <= ({"tasks.py"} if name == "create_task" else set())


def test_the_public_names_are_sorted_importable_and_documented() -> None:
    assert quaymirror.__all__ == sorted(quaymirror.__all__)
    for name in quaymirror.__all__:
        thing = getattr(quaymirror, name)
        if callable(thing) and not name.startswith("__"):
            assert thing.__doc__ or name in {"Event", "Observer"}


def test_help_does_not_wait_for_the_network_stack() -> None:
    code = "import sys; import quaymirror.cli.main; sys.exit('aiohttp' in sys.modules or 'rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# It calls a function 100 times at each depth, and fails if memory was mapped again and again.
_CALLS = """
import resource
from quaymirror.cli import main

def faults(depth):
    if depth:
        return faults(depth - 1)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(100):
        (lambda: None)()

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

main.main.main = lambda **_: int(max(map(faults, range(300))) >= 50)
main.entry()
"""


def test_no_call_of_the_command_costs_memory_to_be_mapped_each_time() -> None:
    assert subprocess.run([sys.executable, "-c", _CALLS], check=False).returncode == 0


# What the interpreter would do at its end, and an object that it would destroy.
_END = """
import atexit, sys, threading
from quaymirror.__main__ import entry

class Late:
    def __del__(self):
        print("destroyed")

late = Late()
is_ending = threading.Event()
threading.Thread(target=lambda: is_ending.wait() and print("thread")).start()
threading._register_atexit(is_ending.set)
atexit.register(print, "exit function", end="")
sys.argv = ["quaymirror", "--version"]
entry()
"""


def test_a_command_ends_with_its_threads_and_exit_functions_but_destroys_no_objects() -> None:
    done = subprocess.run([sys.executable, "-c", _END], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["thread", "exit function"]


def test_occystrap_stays_out_of_the_process_of_the_event_loop() -> None:
    modules = "quaymirror.cli.sync, quaymirror.targets.derived_target"
    code = f"import sys; import {modules}; sys.exit('occystrap' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
