"""Behavior tables equal those of the lab's own extractors, from archives of both generations of codes."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from jobs.behavior import SOURCES, extract
from jobs.corridor import Corridor, Trial, runs_of, runtime_tables
from jobs.logs import LATER_CODES, SEED_CODES, Codes, codes_of, read_log
from jobs.modules import MODULES, encoder, screen, ttl, valve
from trackers.errors import SessionDataError
from trackers.layout import SessionPaths, Volumes
from trackers.lock import SessionLock
from trackers.session import load_session

FIXTURE = Path(__file__).parent / "data" / "behavior"
SESSION = "2025-08-26-18-30-15-123456"


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    found = SessionPaths(Volumes(tmp_path, tmp_path), "ExampleProject", "305", SESSION)
    shutil.copytree(FIXTURE / "raw_data", found.raw_data)
    return found


def tables_of(paths: SessionPaths) -> dict[str, pl.DataFrame]:
    found: dict[str, pl.DataFrame] = {}
    for source in SOURCES:
        tables, _ = extract(paths, load_session(paths), source)
        found.update(tables)
    return found


def expected_tables() -> dict[str, pl.DataFrame]:
    root = FIXTURE / "processed_data"
    return {p.relative_to(root).with_suffix("").as_posix(): pl.read_ipc(p) for p in sorted(root.rglob("*.feather"))}


def assert_equal_tables(found: dict[str, pl.DataFrame], expected: dict[str, pl.DataFrame]) -> None:
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        assert_frame_equal(found[name], table, check_exact=True)


def rewrite(
    log: Path, change: Callable[[bytes], bytes] = lambda m: m, *, compression: int = zipfile.ZIP_STORED
) -> None:
    """Write an archive again with changed messages."""
    with zipfile.ZipFile(log) as archive:
        members = {name: bytes(np.load(io.BytesIO(archive.read(name)))) for name in archive.namelist()}
    with zipfile.ZipFile(log, "w", compression) as archive:
        for name, message in members.items():
            buffer = io.BytesIO()
            np.save(buffer, np.frombuffer(change(message), dtype=np.uint8))
            archive.writestr(name, buffer.getvalue())


def run_program(paths: SessionPaths, source: int) -> subprocess.CompletedProcess[str]:
    volumes = ["--storage", str(paths.volumes.storage), "--working", str(paths.volumes.working)]
    names = ["--project", paths.project, "--animal", paths.animal, "--session", paths.session]
    command = [sys.executable, "-P", "-m", "jobs.behavior", *volumes, *names, "--manager-id", "7"]
    return subprocess.run([*command, "--source", str(source)], capture_output=True, text=True, check=False)


def test_the_tables_equal_those_of_the_labs_extractors(paths: SessionPaths) -> None:
    assert_equal_tables(tables_of(paths), expected_tables())


def test_the_programs_write_them_uncompressed_for_the_locks_owner_only(paths: SessionPaths) -> None:
    assert run_program(paths, 203).returncode == 1
    SessionLock(paths.lock).acquire(7)
    for source in SOURCES:
        done = run_program(paths, source)
        assert done.returncode == 0, done.stderr
    written = {
        p.relative_to(paths.processed_data).with_suffix("").as_posix(): pl.read_ipc(p)
        for p in paths.processed_data.rglob("*.feather")
    }
    assert_equal_tables(written, expected_tables())


def test_deflated_archives_are_read_as_well(paths: SessionPaths) -> None:
    for log in (paths.raw_data / "behavior_data").iterdir():
        rewrite(log, compression=zipfile.ZIP_DEFLATED)
    assert_equal_tables(tables_of(paths), expected_tables())


def later(message: bytes) -> bytes:
    """Return what the later generation of programs would have logged."""
    data, state = SEED_CODES.module_data, SEED_CODES.module_state
    header, payload = message[:9], bytearray(message[9:])
    if header[1:] == bytes(8):
        return message
    if message[0] in MODULES and len(payload) >= 5 and payload[0] in (data, state):
        if payload[0] == state:
            codes = ("on", "off", "tone_on", "tone_off")
            renamed = {getattr(SEED_CODES, name): getattr(LATER_CODES, name) for name in codes}
            payload[4] = renamed.get(payload[4], payload[4])
        payload[0] = LATER_CODES.module_data if payload[0] == data else LATER_CODES.module_state
    elif message[0] in MODULES and payload and payload[0] in (LATER_CODES.module_data, LATER_CODES.module_state):
        payload[0] = 99  # a command or kernel message of before, whose protocol now means a module's
    return header + bytes(payload)


def test_later_codes_give_the_same_tables(paths: SessionPaths) -> None:
    for log in (paths.raw_data / "behavior_data").iterdir():
        rewrite(log, later)
    description = paths.raw_data / "session_data.yaml"
    description.write_text(description.read_text().replace("3.0.3", "4.0.0"))
    assert_equal_tables(tables_of(paths), expected_tables())


@pytest.mark.parametrize(
    ("version", "codes"),
    [
        ("3.0.3", SEED_CODES),
        ("4.0.0rc1", SEED_CODES),
        ("4.0.0", LATER_CODES),
        ("4.0.1rc1", LATER_CODES),
        ("5.1.0", LATER_CODES),
    ],
)
def test_the_acquisition_programs_version_decides_the_codes(version: str, codes: Codes) -> None:
    assert codes_of(version) == codes


def test_a_version_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(SessionDataError, match="no version"):
        codes_of("unknown")


def test_a_source_without_a_log_is_skipped_and_said_so(paths: SessionPaths) -> None:
    (paths.raw_data / "behavior_data" / "62_log.npz").unlink()
    SessionLock(paths.lock).acquire(7)
    done = run_program(paths, 62)
    assert done.returncode == 0
    assert "62_log.npz is not there" in done.stdout
    assert not paths.processed_data.exists()


def test_a_log_that_source_data_lost_is_no_absent_log(paths: SessionPaths, tmp_path: Path) -> None:
    (tmp_path / "working").mkdir()
    unprepared = SessionPaths(Volumes(tmp_path, tmp_path / "working"), "ExampleProject", "305", SESSION)
    with pytest.raises(SessionDataError, match=r"raw_data has it\. .*: sessionflow run preparation .* --reprocess"):
        extract(unprepared, load_session(unprepared), 62)


def test_a_damaged_copy_names_the_command_that_copies_it_anew(paths: SessionPaths, tmp_path: Path) -> None:
    two = SessionPaths(Volumes(tmp_path, tmp_path / "working"), "ExampleProject", "305", SESSION)
    log = two.source_data / "behavior_data" / "62_log.npz"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"no zip")
    with pytest.raises(SessionDataError, match=r"no log archive .*: sessionflow run preparation .* --reprocess"):
        extract(two, load_session(two), 62)
    (paths.raw_data / "behavior_data" / "62_log.npz").write_bytes(b"no zip")
    with pytest.raises(SessionDataError, match=r"Restore it from the acquisition computer\.$"):
        extract(paths, load_session(paths), 62)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 half a zip"])
def test_an_archive_that_is_no_zip_is_one_sentence_with_its_name(paths: SessionPaths, content: bytes) -> None:
    (paths.raw_data / "behavior_data" / "101_log.npz").write_bytes(content)
    SessionLock(paths.lock).acquire(7)
    done = run_program(paths, 101)
    assert done.returncode == 1
    assert "101_log.npz is no log archive" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not paths.processed_data.exists()


def test_an_archive_of_a_later_zip_version_is_one_sentence_with_its_name(paths: SessionPaths) -> None:
    log = paths.raw_data / "behavior_data" / "203_log.npz"
    content = bytearray(log.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 250  # the version that is needed to read a member
    log.write_bytes(content)
    with pytest.raises(SessionDataError, match=r"203_log\.npz is no log archive"):
        read_log(log)


@pytest.mark.parametrize("wrong", [{"cue_map": {1: 20.0}}, {"cue_map": {0: 10.0, 1: 20.0, 300: 1.0}, "cues": [1, 300]}])
def test_a_cue_without_a_length_and_one_that_is_no_byte_are_refused(wrong: dict[str, Any]) -> None:
    trial = {"cue_sequence": wrong.get("cues", [1, 0]), "trial_length_cm": 30.0}
    trial |= {"reward_zone_start_cm": 1.0, "reward_zone_end_cm": 2.0}
    data = {"cue_map": wrong["cue_map"], "cue_offset_cm": 5.0, "trial_structures": {"one": trial}}
    with pytest.raises(SessionDataError, match="does not describe the corridor"):
        Corridor.from_yaml(data)


def test_a_damaged_member_is_noticed(paths: SessionPaths) -> None:
    log = paths.raw_data / "behavior_data" / "203_log.npz"
    content = bytearray(log.read_bytes())
    position = content.index(b"\xcb\x84") if b"\xcb\x84" in content else len(content) // 3
    content[position] ^= 0xFF
    log.write_bytes(content)
    with pytest.raises(SessionDataError, match=r"203_log\.npz"):
        read_log(log)


def test_a_calibrated_module_without_messages_gives_an_empty_table_of_the_right_types(paths: SessionPaths) -> None:
    for source in MODULES:
        log = paths.raw_data / "behavior_data" / f"{source}_log.npz"
        rewrite(log, lambda m: m if m[1:9] == bytes(8) else m[:9] + bytes([99]) + m[10:])
        tables, _ = extract(paths, load_session(paths), source)
        for name, table in tables.items():
            expected = expected_tables()[name]
            assert table.height == 0
            assert table.schema == expected.schema


def test_a_module_without_calibration_has_no_table_and_a_note(paths: SessionPaths) -> None:
    state = paths.raw_data / "hardware_state.yaml"
    text = state.read_text().replace("lick_threshold: 400", "lick_threshold: null")
    state.write_text(text.replace("recorded_mesoscope_ttl: true", "recorded_mesoscope_ttl: false"))
    tables, notes = extract(paths, load_session(paths), 152)
    assert set(tables) == {"behavior_data/torque_data"}
    assert len(notes) == 2


def test_a_session_that_is_no_experiment_has_no_corridor(paths: SessionPaths) -> None:
    description = paths.raw_data / "session_data.yaml"
    description.write_text(description.read_text().replace("mesoscope experiment", "run training"))
    (paths.raw_data / "experiment_configuration.yaml").unlink()
    tables, _ = extract(paths, load_session(paths), 1)
    assert set(tables) == {"behavior_data/system_state_data", "behavior_data/experiment_state_data"}


CORRIDOR = Corridor(
    {0: 10.0, 1: 20.0, 2: 30.0}, 5.0, (Trial((1, 0), 30.0, 20.0, 28.0), Trial((1, 0, 2, 0), 70.0, 50.0, 65.0))
)


def test_trials_are_cut_by_the_longest_match() -> None:
    runs = runs_of([bytes([1, 0, 2, 0, 1, 0, 1, 0, 2, 0])], [], CORRIDOR)
    assert [(run.kind, run.start, run.end) for run in runs] == [(1, 0.0, 70.0), (0, 70.0, 100.0), (1, 100.0, 170.0)]


def test_a_restart_breaks_a_trial_off_and_begins_a_new_sequence_inside_its_first_cue() -> None:
    sequence = bytes([1, 0, 2, 0] * 200)
    restart = bytes([5]) + (100).to_bytes(8, "little", signed=True)
    tables = runtime_tables([(1, sequence), (2, restart), (3, bytes([1, 0] * 300))], CORRIDOR)
    trials = tables["trial_data"]
    assert trials["trial_type_index"].to_list()[:4] == [1, 1, 0, 0]
    assert trials["traveled_distance_cm"].to_list()[:4] == [0.0, 70.0, 100.0, 130.0]
    cues = tables["vr_cue_data"].rows()
    # 65 cm of the first trial (the animal starts 5 cm inside its first cue), then 20 + 10 + the rest up to 100 cm
    assert cues[:9] == [
        (1, 0.0), (0, 15.0), (2, 25.0), (0, 55.0),
        (1, 65.0), (0, 85.0), (2, 95.0),
        (1, 100.0), (0, 115.0),
    ]  # fmt: skip
    assert tables["vr_reward_zone_data"].rows()[:2] == [(50.0, 65.0), (120.0, 128.0)]


def test_cues_that_are_no_known_trial_are_refused_with_the_place() -> None:
    with pytest.raises(SessionDataError, match="at cue 2"):
        runs_of([bytes([1, 0, 7, 7])], [], CORRIDOR)
    with pytest.raises(SessionDataError, match="2 cue sequences and 0 restarts"):
        runs_of([b"\1\0", b"\1\0"], [], CORRIDOR)


def test_signals_at_the_edges_of_a_recording() -> None:
    on, off = SEED_CODES.on, SEED_CODES.off
    assert ttl({on: [(5, 0)], off: []}, SEED_CODES, True).rows() == [(5, 1), (6, 0)]
    assert screen({off: [(3, 0)]}, SEED_CODES, True).rows() == [(3, 1)]
    assert encoder({52: [(4, 10)]}, SEED_CODES, 0.5).rows() == [(4, -5.0), (5, -5.0)]
    assert valve({off: [(2, 0)]}, SEED_CODES, 1.0, 1.0).rows() == [(2, 0.0, 0)]
    unended = {off: [(1, 0), (9, 0)], on: [(5, 0), (20, 0)]}
    assert valve(unended, SEED_CODES, 1.0, 1.0).rows() == [(1, 0.0, 0), (9, 4.0, 0)]
