"""The pages of the documentation: links lead somewhere, words that people look for are there, options have examples."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from quaymirror import errors
from quaymirror.settings.register import REGISTER

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)],
    key=lambda page: page.relative_to(ROOT).as_posix(),
)
SOUGHT = {
    "notification": "notifications",
    "email": "notifications",
    "slack": "notifications",
    "webhook": "notifications",
    "retention": "snapshots",
    "cosign": "signatures",
    "upgrade": "upgrade",
    "uninstall": "uninstall",
    "S3": "object-stores",
    "backup": "disaster-recovery",
    "audit": "watch-and-report",
    "401": "troubleshoot",
    "disk full": "troubleshoot",
}


def text_of(page: Path) -> str:
    """Return a page without its blocks of code."""
    return re.sub(r"(?ms)^```\w+\n.*?^```|^    .*?$|`[^`\n]*`", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub and MyST make them."""
    heads = re.findall(r"(?m)^#{1,6} (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", head).lower()).replace(" ", "-") for head in heads}


def links() -> Iterator[tuple[Path, str]]:
    """Yield the links and pictures of all pages."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^()\s]+)\)", text_of(page)):
            yield page, target


def test_every_internal_link_leads_to_a_page_and_a_heading() -> None:
    broken, count = [], 0
    for page, target in links():
        if re.match(r"[a-z]+:", target):
            continue

        count += 1
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            broken.append(f"{page.relative_to(ROOT)}: {target}")

    assert broken == []
    assert count > 50


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"(?m)^([a-z-]+/[\w-]+)$", index))
    pages = {page.relative_to(DOCS).with_suffix("").as_posix() for page in DOCS.rglob("*.md")}
    parts = {page for page in pages if page.endswith((".head", ".tail")) or page.startswith("_build")}
    assert pages - parts - {"index"} == listed


@pytest.mark.parametrize(("word", "page"), SOUGHT.items())
def test_the_search_finds_the_words_of_operators_in_a_heading_of_the_right_page(word: str, page: str) -> None:
    """The search of Sphinx shows headings with a word first, and finds numbers only in entries of the index."""
    if word.isdigit():
        (entries,) = re.findall(r"(?m)^```\{index\} (.+)$", (DOCS / f"how-to/{page}.md").read_text())
        assert word in entries.split(", ")

    heads = re.findall(r"(?m)^#{1,3} (.+)$", text_of(DOCS / f"how-to/{page}.md"))
    assert any(re.search(rf"\b{word}", head, re.IGNORECASE) for head in heads)


def test_each_class_of_errors_is_explained() -> None:
    page = (DOCS / "how-to/troubleshoot.md").read_text()
    table = page.partition("## Names of errors")[2]
    named = set(re.findall(r"`([A-Z]\w+)`", "\n".join(row.split("|")[1] for row in table.splitlines() if "|" in row)))
    classes = {
        name
        for name in errors.__all__
        if isinstance(kind := getattr(errors, name), type) and issubclass(kind, errors.QuaymirrorError)
    }
    assert named == classes


def test_messages_that_the_page_about_problems_quotes_exist() -> None:
    strings = {
        node.value.lower()
        for file in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    rows = [row for row in (DOCS / "how-to/troubleshoot.md").read_text().splitlines() if row.startswith("| ")]
    quoted = {
        part for row in rows for text in re.findall(r'"([^"]+)"', row.split("|")[1]) for part in text.split(" … ")
    }
    assert len(quoted) > 15
    assert {text for text in quoted if not any(text.lower() in string for string in strings)} == set()


@pytest.fixture(scope="module")
def examples() -> ModuleType:
    spec = importlib.util.spec_from_file_location("option_examples", DOCS / "option_examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_option_has_an_anchor_a_default_and_an_example_that_is_legal(examples: ModuleType) -> None:
    page = DOCS / "reference/options.md"
    sections = dict(re.findall(r"(?ms)^### (--\S+)\n(.*?)(?=^##|\Z)", page.read_text()))
    specs = [spec for spec in REGISTER.values() if spec.spellings]
    assert set(sections) == {f"--{spec.long}" for spec in specs}
    for spec in specs:
        section = sections[f"--{spec.long}"]
        assert f"--{spec.long}" in anchors(page)
        assert re.search(r"(?m)^\| default \| \S", section), spec.name
        assert re.search(rf"(?m)^\| example \| `--{spec.long}\b", section), spec.name
        value = examples.example_value(spec)
        assert spec.is_flag or value != "VALUE", f"docs/option_examples.py has no example for --{spec.long}"
        if value:
            spec.item(value)


def test_each_direct_dependency_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    imported = {
        name.partition(".")[0]
        for file in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    names = {re.split(r"[<>=!~\[; ]", line)[0] for line in project["dependencies"]}
    modules = {"pyyaml": "yaml", "prometheus-client": "prometheus_client"}
    assert {name for name in names if modules.get(name, name) not in imported} == set()


def test_the_man_page_has_the_sections_of_a_man_page() -> None:
    page = (DOCS / "reference/quaymirror.1").read_text()
    sections = re.findall(r"(?m)^\.SH (.+)$", page)
    assert sections == [
        "NAME",
        "SYNOPSIS",
        "DESCRIPTION",
        "COMMANDS",
        "EXIT STATUS",
        "ENVIRONMENT",
        "FILES",
        "EXAMPLES",
        "SEE ALSO",
    ]
