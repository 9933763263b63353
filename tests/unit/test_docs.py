"""The documentation agrees with the code."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import jsonschema
import pytest
import yaml
from click.shell_completion import BashComplete

import quaymirror
from quaymirror.cli.main import main
from quaymirror.cli.run import run
from quaymirror.config.document import read_config

ROOT = Path(__file__).parents[2]
DOCS, EXAMPLES = ROOT / "docs", ROOT / "examples"
GOLDEN_EVENTS = Path(__file__).parent / "ui" / "golden" / "events.jsonl"


@pytest.fixture(scope="module")
def generate() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(DOCS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))

    return module


def test_the_generated_reference_is_up_to_date() -> None:
    # In a process of its own: commands remember how they were called before.
    command = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_event_fits_the_published_schema() -> None:
    schema = json.loads((DOCS / "reference/events.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for line in GOLDEN_EVENTS.read_text().splitlines():
        validator.validate(json.loads(line))


def test_the_pages_about_json_and_events_name_all_of_them() -> None:
    reference = DOCS / "reference"
    page = (reference / "json.md").read_text()
    assert [file.name for file in reference.glob("*.schema.json") if f"({file.name})" not in page] == []
    names = re.findall(r'"const": "([a-z_]+)"', (reference / "events.schema.json").read_text())
    assert [name for name in names if f"`{name}`" not in (reference / "events.md").read_text()] == []


def test_the_glossary_is_sorted_short_and_linked() -> None:
    lines = (DOCS / "reference/glossary.md").read_text().splitlines()
    terms = [line.split("|")[1].strip() for line in lines if re.match(r"\| (?!term \|)", line)]
    assert terms == sorted(terms, key=lambda term: (term.replace(" ", "").replace("-", ""), term))
    assert 30 <= len(terms) <= 50
    assert len(set(terms)) == len(terms)
    for page in ("docs/index.md", "CONTRIBUTING.md"):
        assert "reference/glossary" in (ROOT / page).read_text()


def test_the_reference_has_every_public_name() -> None:
    page = (DOCS / "reference/python.md").read_text()
    names = set(quaymirror.__all__) - {"__version__"}
    assert {name for name in names if not re.search(rf"quaymirror\.{name}\b|``{name}``", page)} == set()
    assert set(re.findall(r"auto(?:class|function):: quaymirror\.(\w+)", page)) <= names


def command_lines() -> Iterator[tuple[str, str]]:
    """Yield every quaymirror command that the docs, the README and the examples show, and where."""
    pages = [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*")]
    for file in pages:
        if not file.is_file() or file.name == "cli.md":
            continue

        for line in file.read_text(encoding="utf-8").replace("\\\\\n", " ").splitlines():
            found = re.match(r"(?:    |\\s*- (?:run: )?|ExecStart=/usr/local/bin/|\\$ )?(quaymirror [a-z].*)", line)
            if found and not (file.suffix == ".md" and line.startswith("quaymirror ")):
                yield file.relative_to(ROOT).as_posix(), found[1]


@pytest.mark.parametrize(("file", "line"), sorted(set(command_lines())))
def test_every_command_that_is_shown_is_one(file: str, line: str) -> None:
    line = line.replace("%i/${SHARDS}", "0/3")  # of a template unit
    words = shlex.split(re.split(r"  \|  | > ", line)[0], comments=True)[1:]
    if any(word.startswith("ORG") or word in {"JOB", "RUN", "TARGET"} for word in words):
        return  # a synopsis

    command: click.Command = main
    while isinstance(command, click.Group) and words:
        name = words.pop(0)
        found = command.get_command(click.Context(command), name)
        assert found is not None, f"{file}: {name}"
        command = found

    command.make_context(command.name, [word for word in words if word != "…"])


def test_the_examples_are_valid(tmp_path: Path) -> None:
    read_config(EXAMPLES / "quaymirror.toml")
    read_config(EXAMPLES / "compose/quaymirror.toml")
    config_map, *_, cron_job = yaml.safe_load_all((EXAMPLES / "kubernetes/cronjob.yaml").read_text())
    (tmp_path / "quaymirror.toml").write_text(config_map["data"]["quaymirror.toml"])
    read_config(tmp_path / "quaymirror.toml")
    (container,) = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "run"
    run.make_context("run", container["args"][1:])
    for name in ("github-actions.yml", "gitlab-ci.yml"):
        yaml.safe_load((EXAMPLES / "ci" / name).read_text())

    tomllib.loads((EXAMPLES / "use-the-mirror/hosts.toml").read_text())
    tomllib.loads((EXAMPLES / "use-the-mirror/registries.conf").read_text())
    tomllib.loads((EXAMPLES / "use-the-mirror/hosts-only-mirror.toml").read_text())
    assert yaml.safe_load((EXAMPLES / "use-the-mirror/registries.yaml").read_text())["mirrors"]["quay.io"]["endpoint"]


def test_every_shell_completes_commands_options_and_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(*words: str) -> list[str]:
        answer = BashComplete(main, {}, "quaymirror", "_QUAYMIRROR_COMPLETE")
        return [item.value for item in answer.get_completions([*words[1:-1]], words[-1])]

    def asked(*words: str) -> list[str]:
        env = {
            "_QUAYMIRROR_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(words),
            "COMP_CWORD": str(len(words) - 1),
        }
        command = [sys.executable, "-m", "quaymirror"]
        done = subprocess.run(command, env=os.environ | env, cwd=tmp_path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    monkeypatch.chdir(tmp_path)
    (tmp_path / "quaymirror.toml").write_text('[jobs.nightly]\norganization = "kolla"\n')
    assert complete("quaymirror", "sy") == ["sync"]
    assert complete("quaymirror", "sync", "--report-h") == ["--report-html"]
    for words in (("run",), ("status",), ("config", "show")):
        assert complete("quaymirror", *words, "ni") == ["nightly"]

    # The shell completes a path where this is the answer.
    for words in (
        ("verify",),
        ("prune",),
        ("watch",),
        ("serve",),
        ("push",),
        ("push", "m"),
        ("inventory",),
        ("export",),
    ):
        assert complete("quaymirror", *words, "/srv/m") == ["/srv/m"], words

    for words in (("snapshots",), ("diff",), ("rollback",), ("import", "p"), ("check",), ("sync", "--to")):
        assert complete("quaymirror", *words, "/srv/m") == ["/srv/m"], words

    # TYPE,VALUE
    assert asked("quaymirror", "verify", "/srv/m") == ["file,/srv/m"]
    for shell in ("bash", "zsh", "fish"):
        command = [sys.executable, "-m", "quaymirror", "completion", shell]
        assert "_QUAYMIRROR_COMPLETE" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_help_names_every_command_and_is_no_wider_than_asked(generate: ModuleType) -> None:
    names = [name for name, _ in generate.commands(generate.main)]
    assert {"quaymirror sync", "quaymirror run", "quaymirror config import"} <= set(names)
    for name, command in generate.commands(generate.main):
        assert all(len(line) <= 100 for line in generate.help_of(name, command).splitlines())


@pytest.mark.parametrize("words", [[], ["sync"], ["run"], ["list"], ["info"], ["verify"], ["prune"], ["watch"]])
def test_help_fits_on_a_screen_of_80x24(words: list[str]) -> None:
    command = [sys.executable, "-m", "quaymirror", *words, "--help"]
    env = {**os.environ, "COLUMNS": "80"}
    lines = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.splitlines()

    assert len(lines) <= 23, "and the prompt is below"
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", ["sync", "run", "list", "info", "verify"])
def test_help_all_has_every_option_under_its_heading(name: str) -> None:
    words = [sys.executable, "-m", "quaymirror", name, "--help-all"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    command = main.get_command(click.Context(main), name)
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option):
            assert all(f"{long} " in text or f"{long}\n" in text or f"{long}," in text for long in option.opts[-1:])
    assert "Other options:\n  --help-all" in text
