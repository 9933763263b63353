"""SQLite files: created, upgraded, refused and set aside."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from quaymirror.errors import ConfigError
from quaymirror.store import history, schema
from quaymirror.store.database import Format, _migrate, _misfits, open_database

ONE = "CREATE TABLE fact (name TEXT PRIMARY KEY);"
TWO = "ALTER TABLE fact ADD COLUMN value INTEGER NOT NULL DEFAULT 7;"
OLD = Format(0x51000001, (ONE,))
NEW = Format(0x51000001, (ONE, TWO))


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


def test_a_new_database_has_the_newest_version(tmp_path: Path) -> None:
    connection, notice = open_database(tmp_path / "x.db", NEW)
    assert notice is None
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 2
    assert [row["name"] for row in connection.execute("PRAGMA table_info(fact)")] == ["name", "value"]
    connection.close()


def test_the_schema_is_not_made_twice_for_a_new_database(tmp_path: Path) -> None:
    before = _misfits.cache_info().currsize
    open_database(tmp_path / "x.db", Format(0x51000007, (ONE, TWO)))[0].close()
    assert _misfits.cache_info().currsize == before


def test_a_database_with_content_that_says_that_it_is_new_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    connection, _ = open_database(path, NEW)
    with connection:
        connection.execute("INSERT INTO fact VALUES ('wrong', 'text')")
        connection.execute("PRAGMA user_version = 0")

    connection.close()
    connection, notice = open_database(path, NEW)
    assert notice is not None
    assert connection.execute("SELECT count(*) FROM fact").fetchone()[0] == 0
    connection.close()


def test_an_older_version_is_migrated_and_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    connection, _ = open_database(path, OLD)
    with connection:
        connection.execute("INSERT INTO fact VALUES ('kept')")

    connection.close()
    connection, notice = open_database(path, NEW)
    assert notice is None
    assert [tuple(row) for row in connection.execute("SELECT * FROM fact")] == [("kept", 7)]
    connection.close()


def test_an_older_version_is_migrated_in_memory_if_it_is_read_only(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    connection, _ = open_database(path, OLD)
    with connection:
        connection.execute("INSERT INTO fact VALUES ('kept')")

    connection.close()
    before = path.read_bytes()
    connection, notice = open_database(path, NEW, read_only=True)
    assert notice is None
    assert [tuple(row) for row in connection.execute("SELECT * FROM fact")] == [("kept", 7)]
    connection.close()
    assert path.read_bytes() == before


def test_a_change_that_a_killed_process_left_in_its_middle_is_undone_also_for_reading(tmp_path: Path) -> None:
    path, killed = tmp_path / "x.db", tmp_path / "killed.db"
    connection, _ = open_database(path, NEW)
    connection.executemany("INSERT INTO fact VALUES (?, 1)", [(str(number),) for number in range(10_000)])
    connection.commit()
    # With a small cache, changed pages are written before the transaction ends.
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("UPDATE fact SET value = 2")
    for suffix in ("", "-journal"):
        shutil.copy(f"{path}{suffix}", f"{killed}{suffix}")

    connection.close()
    assert killed.with_name("killed.db-journal").read_bytes()[:1] != b"\0", "the journal has to be a hot one"
    connection, notice = open_database(killed, NEW, read_only=True)
    assert (notice, connection.execute("SELECT min(value), max(value) FROM fact").fetchone()[:]) == (None, (1, 1))
    connection.close()


def test_a_creation_that_was_killed_in_its_middle_is_repeated(tmp_path: Path) -> None:
    path, killed = tmp_path / "x.db", tmp_path / "killed.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA cache_size = 1")
    series = "WITH RECURSIVE series(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM series LIMIT 10000)"
    rows = f"INSERT INTO fact {series} SELECT value FROM series;"
    connection.executescript(f"BEGIN; PRAGMA application_id = {OLD.application_id}; {ONE} {rows}")
    for suffix in ("", "-journal"):
        shutil.copy(f"{path}{suffix}", f"{killed}{suffix}")

    connection.close()
    assert killed.stat().st_size > 0
    connection, notice = open_database(killed, NEW)
    assert notice is None
    assert connection.execute("SELECT count(*) FROM fact").fetchone()[0] == 0
    connection.close()


@pytest.mark.parametrize("version", [0, 1], ids=["a creation", "a migration"])
def test_a_failure_in_the_middle_changes_nothing(version: int, tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    if version:
        open_database(path, OLD)[0].close()

    before = path.read_bytes() if version else b""
    failing = Format(NEW.application_id, (*NEW.steps, "CREATE TABLE another (name TEXT);", "SELECT * FROM missing;"))
    connection = sqlite3.connect(path)
    with pytest.raises(sqlite3.OperationalError, match="missing"):
        _migrate(connection, failing, version)

    connection.close()
    assert path.read_bytes() == before


def test_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_database(path, NEW)[0].close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="newer quaymirror"):
        open_database(path, OLD)

    assert path.read_bytes() == before


@pytest.mark.parametrize("values", ["'x', 'seven'", "'x', 7.5", "x'00ff', 7", "NULL, 7"])
def test_a_value_that_its_column_cannot_have_is_damage(tmp_path: Path, values: str) -> None:
    path = tmp_path / "x.db"
    open_database(path, NEW)[0].close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"INSERT INTO fact VALUES ({values})")

    connection.close()
    connection, notice = open_database(path, NEW)
    assert notice is not None
    assert "was damaged" in notice
    assert connection.execute("SELECT count(*) FROM fact").fetchone()[0] == 0
    connection.close()


@pytest.mark.parametrize("steps", [schema.FORMAT.steps, history.FORMAT.steps], ids=["state", "history"])
def test_nothing_needs_a_newer_sqlite_than_long_lived_distributions_have(steps: tuple[str, ...]) -> None:
    """RHEL 8 has 3.26, RHEL 9 has 3.34; tables are STRICT since 3.37, columns generated since 3.31."""
    assert not [step for step in steps if {"STRICT", "GENERATED", "STORED"} & set(step.replace(";", " ").split())]


@pytest.mark.parametrize(
    "content", [b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 4096], ids=["text", "torn"]
)
def test_a_file_that_is_not_a_database_is_set_aside_unchanged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(content)
    connection, notice = open_database(path, NEW)
    assert notice is not None
    assert "set aside" in notice
    connection.close()
    (aside,) = tmp_path.glob("x.db.damaged-*")
    assert aside.read_bytes() == content


def test_the_database_of_another_program_is_set_aside_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")

    other.close()
    before = path.read_bytes()
    open_database(path, NEW)[0].close()
    (aside,) = tmp_path.glob("x.db.damaged-*")
    assert aside.read_bytes() == before
