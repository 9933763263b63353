"""A configuration file: every mistake at its place, and values with the paths they mean."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest

from quaymirror.config.document import Config, Mistakes, read_config
from quaymirror.config.schema import config_schema
from quaymirror.errors import ConfigError

JOB = '[jobs.one]\norganization = "kolla"\n'


def read(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "quaymirror.toml"
    file.write_text(text)
    return read_config(file)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("jobs = 1\n", "1:1", "jobs: must be a table of jobs"),
        ("[jobs]\n", "1:2", "no job: write"),
        ("", "1:1", "no job: write"),
        ("x = 1\n" + JOB, "1:1", "x: unknown table"),
        ("[default]\n" + JOB, "1:2", "default: unknown table; did you mean 'defaults'?"),
        ("[jobs.one]\n", "1:7", "jobs.one: 'organization' is missing"),
        (JOB + "concurrenzy = 3\n", "3:1", "jobs.one.concurrenzy: unknown key; did you mean 'concurrency'?"),
        (JOB + "layer_concurrency = 3\n", "3:1", "did you mean 'layer-concurrency'?"),
        (JOB + "username = 'me'\n", "3:1", "unknown key"),
        (JOB + "concurrency = true\n", "3:1", "must be an integer, not true"),
        (JOB + "concurrency = 0\n", "3:1", "must be between 1"),
        (JOB + "dry-run = 1\n", "3:1", "must be true or false, not 1"),
        (JOB + "tags = 'x'\n", "3:1", "must be an array of strings, not 'x'"),
        (JOB + "tags = ['x', 'a b']\n", "3:14", "jobs.one.tags.1: not a tag: 'a b'"),
        (JOB + "repositories = [\n  'a',\n  '[',\n]\n", "5:3", "jobs.one.repositories.1: not a valid glob"),
        (JOB + "since = '2025-02-30'\n", "3:1", "no such date"),
        (JOB + "server = 'https://quay.io/x'\n", "3:1", "write https://HOST[:PORT]"),
        (JOB + "max-duration = 'soon'\n", "3:1", "not a duration"),
        (JOB + "to = {x = 1}\n", "3:1", "must be a string, not a table"),
        (JOB + 'to = "~nobody-is-called-this/mirror"\n', "3:1", "unknown home directory"),
        (JOB + "[run]\nprogress = 'loud'\n", "4:1", "run.progress: must be one of auto, rich"),
        (JOB + "x = \n", "3:5", "not TOML: invalid value"),
        (JOB + "x = 1\nx = 2\n", "4:6", "not TOML: cannot overwrite a value"),
        ('[jobs."a b"]\n', "1:7", "jobs.'a b': 'organization' is missing"),
    ],
)
def test_a_mistake_is_told_with_line_column_and_key(tmp_path: Path, text: str, place: str, words: str) -> None:
    with pytest.raises(Mistakes) as caught:
        read(tmp_path, text)

    (line,) = caught.value.lines
    assert line.startswith(f"{tmp_path}/quaymirror.toml:{place}: ")
    assert words in line
    assert caught.value.message == line


def test_all_mistakes_are_found_in_the_order_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(Mistakes, match=r"\(and 2 more") as caught:
        read(tmp_path, JOB + "retries = 'x'\n[defaults]\nx = 1\n[run]\ny = 1\n")

    assert [line.split(":")[1] for line in caught.value.lines] == ["3", "5", "7"]


def test_jobs_have_the_defaults_that_they_do_not_change(tmp_path: Path) -> None:
    config = read(tmp_path, "[defaults]\nretries = 3\nconcurrency = 4\n" + JOB + "retries = 7\n")

    job = config.jobs["one"]
    assert (job["retries"].value, job["concurrency"].value) == (7, 4)
    assert job["retries"].place.endswith("quaymirror.toml:6")
    assert job["concurrency"].place.endswith("quaymirror.toml:3")


def test_relative_paths_are_meant_from_where_the_file_is(tmp_path: Path) -> None:
    for text, meant in {
        "mirror": f"{tmp_path}/mirror",
        "/srv/mirror": "/srv/mirror",
        "ocidir://mirror": f"ocidir://{tmp_path}/mirror",
        "docker://": "docker://",
    }.items():
        job = read(tmp_path, JOB + f'to = "{text}"\ntoken-file = "token"\n').jobs["one"]
        assert job["to"].value == meant
        assert job["token-file"].value == f"{tmp_path}/token"


def test_a_job_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    config = read(tmp_path, JOB)
    assert list(config.chosen([])) == ["one"]
    with pytest.raises(ConfigError, match="has no job 'oen'; did you mean 'one'"):
        config.chosen(["oen"])


@pytest.mark.parametrize("content", [b"\xff", b"x = [" + b"[" * 9_000, b'"\\ud800" = 1'])
def test_whatever_is_in_the_file_is_told_in_a_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "quaymirror.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_config(file)

    assert "\n" not in caught.value.message
    with pytest.raises(ConfigError, match="can't read"):
        read_config(tmp_path / "missing")


def test_the_schema_says_what_the_check_says() -> None:
    schema = config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    good = {"jobs": {"x": {"organization": "kolla", "tags": ["a*"], "concurrency": 3, "to": "mirror"}}}
    jsonschema.validate(good, schema)
    bads: list[dict[str, object]] = [
        {},
        {"jobs": {}},
        {"jobs": {"x": {}}},
        {"jobs": {"x": {"organization": "k", "tag": "x"}}},
    ]
    for bad in bads:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)
