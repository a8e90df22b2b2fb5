"""A backup is whole though the server runs; a restore refuses a server that runs, and keeps what it replaces."""

from __future__ import annotations

import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab_up import LabUp
from tests.postgres import MISSING, Postgres


@pytest.fixture(params=["sqlite", "postgres"])
def up(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LabUp]:
    """A lab that is not up yet, on each of the databases."""
    if request.param == "sqlite":
        lab = LabUp(tmp_path / "lab")
        yield lab
        lab.kill_everything()
        return
    if MISSING:
        pytest.skip(MISSING)
    (tmp_path / "postgres").mkdir()
    postgres = Postgres(tmp_path / "postgres")
    lab = LabUp(tmp_path / "lab", PREFECT_SERVER_DATABASE_CONNECTION_URL=postgres.url)
    yield lab
    lab.kill_everything()
    postgres.stop()


def variables(up: LabUp) -> set[str]:
    return {found["name"] for found in up.ask("variables/filter", {})}


def keep(up: LabUp, name: str) -> None:
    up.ask("variables/", {"name": name, "value": "1"})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_was_there_at_the_backup_is_there_after_the_restore_and_what_came_later_is_kept(up: LabUp) -> None:
    up.start()
    keep(up, "before")
    run = up.launch("retention/retention", dry_run=True)
    up.ended(run)
    file = up.root / "backup"
    done = up.command("backup", str(file))
    assert done.returncode == 0, done.stderr
    assert "encryption-key" in done.stdout
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert up.command("backup", str(file)).returncode == 2  # no backup is overwritten
    keep(up, "after")
    refused = up.command("restore", str(file), "--yes")
    assert refused.returncode == 3
    assert variables(up) == {"before", "after"}
    up.stop()
    unconfirmed = up.command("restore", str(file))
    assert unconfirmed.returncode == 2
    done = up.command("restore", str(file), "--yes")
    assert done.returncode == 0, done.stderr
    kept = Path(done.stdout.strip().rpartition(": ")[2])
    up.start()
    assert variables(up) == {"before"}
    assert up.run(run)["state_name"] == "Completed"
    up.stop()
    done = up.command("restore", str(kept), "--yes")
    assert done.returncode == 0, done.stderr
    up.start()
    assert variables(up) == {"before", "after"}


@pytest.fixture
def lab(tmp_path: Path) -> LabUp:
    """A lab with a database of SQLite and no server."""
    lab = LabUp(tmp_path)
    lab.home.mkdir()
    database(lab.home / "prefect.db", "first")
    return lab


def database(path: Path, word: str) -> None:
    """Write the least that is a database of Prefect's."""
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE flow_run (name)")
        connection.execute("CREATE TABLE alembic_version (version_num)")
        connection.execute("INSERT INTO flow_run VALUES (?)", (word,))
    connection.close()


def names(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    found = [name for (name,) in connection.execute("SELECT name FROM flow_run")]
    connection.close()
    return found


def test_a_backup_of_sqlite_has_what_is_still_in_the_journal_and_is_one_file(lab: LabUp) -> None:
    connection = sqlite3.connect(lab.home / "prefect.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("INSERT INTO flow_run VALUES ('second')")
    connection.commit()
    connection.execute("INSERT INTO flow_run VALUES ('not yet')")
    done = lab.command("backup", str(lab.root / "copy"))
    assert done.returncode == 0, done.stderr
    connection.close()
    assert names(lab.root / "copy") == ["first", "second"]
    assert not list(lab.root.glob("copy-*"))


def test_a_restore_refuses_a_database_that_some_process_has_open(lab: LabUp) -> None:
    lab.command("backup", str(lab.root / "copy"))
    connection = sqlite3.connect(lab.home / "prefect.db")
    connection.execute("SELECT * FROM flow_run").fetchall()
    refused = lab.command("restore", str(lab.root / "copy"), "--yes")
    connection.close()
    assert refused.returncode == 3
    assert "is in use (by process" in refused.stderr


@pytest.mark.slow
def test_a_file_that_is_no_whole_backup_changes_nothing(lab: LabUp) -> None:
    before = (lab.home / "prefect.db").read_bytes()
    (lab.root / "text").write_text("no backup")
    (lab.root / "dump").write_bytes(b"PGDMP...")
    lab.command("backup", str(lab.root / "cut"))
    with (lab.root / "cut").open("r+b") as file:
        file.truncate(6000)
    sqlite3.connect(lab.root / "other").execute("CREATE TABLE songs (name)").connection.close()
    for name, words in (
        ("text", "no backup"),
        ("dump", "a backup of Postgres"),
        ("cut", "no whole database"),
        ("other", "no whole database"),
        ("absent", "cannot be read"),
    ):
        refused = lab.command("restore", str(lab.root / name), "--yes")
        assert (refused.returncode, words in refused.stderr) == (2, True), refused.stderr
        assert "Nothing was changed" in refused.stderr
    assert (lab.home / "prefect.db").read_bytes() == before


def test_a_backup_that_cannot_be_written_leaves_nothing_behind(lab: LabUp) -> None:
    refused = lab.command("backup", str(lab.root / "absent" / "copy"))
    assert refused.returncode == 1
    assert "cannot be written" in refused.stderr
    empty = LabUp(lab.root / "empty")
    refused = empty.command("backup", str(lab.root / "copy"))
    assert refused.returncode == 2
    assert "There is no database" in refused.stderr
    assert not list(lab.root.glob("*copy*"))
