"""Volumes get the times of their own pulses, whatever the clocks do; where that is not clear, nobody guesses."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from jobs.forging_frames import Imaging, UnclearFrames, VolumeClock, volume_clock
from trackers.errors import SessionDataError

START = 1_756_233_015_724_122
PERIOD = 100_000  # µs, of a volume


def signal(onsets: NDArray[np.int64]) -> pl.DataFrame:
    """Return a frame signal as the behavior pipeline writes it, that rises at `onsets`."""
    times = np.concatenate((onsets[:1] - 500_000, np.stack((onsets, onsets + 8_000), axis=1).ravel()))
    states = np.concatenate(([0], np.tile([1, 0], len(onsets))))
    return pl.DataFrame({"time_us": times.astype(np.uint64), "ttl_state": states.astype(np.uint8)})


def onsets(count: int, drift_ppm: float = 0.0, period: float = PERIOD, seed: int = 1) -> NDArray[np.int64]:
    """Return when volumes begin on the computer's clock, with the jitter of polling."""
    jitter = np.random.default_rng(seed).integers(-400, 400, count)
    return START + np.rint(np.arange(count) * period * (1 + drift_ppm / 1e6)).astype(np.int64) + jitter


def clock(
    pulses: NDArray[np.int64], volumes: int, z_planes: int = 1, unclear: UnclearFrames = UnclearFrames.REFUSE
) -> VolumeClock:
    return volume_clock(signal(pulses), Imaging(volumes, 1e6 / PERIOD, z_planes), unclear)


@pytest.mark.parametrize("drift_ppm", [-50.0, 50.0])
def test_after_an_hour_of_drift_every_volume_has_its_own_time(drift_ppm: float) -> None:
    true = onsets(36_000, drift_ppm)
    found = clock(true, len(true))
    assert np.abs(found.times - true).max() < PERIOD / 2
    nominal = true[0] + np.arange(len(true)) * PERIOD
    assert np.abs(nominal - true).max() > PERIOD  # what the nominal rate would have made of it
    assert found.notes == ()


def test_a_pulse_for_each_plane_of_a_volume_gives_the_volumes_onset() -> None:
    frames = onsets(300, period=PERIOD / 3)
    assert (clock(frames, 100, z_planes=3).times == frames[::3]).all()


def test_a_pulse_for_each_volume_of_several_planes_gives_the_volumes_onset() -> None:
    true = onsets(100)
    assert (clock(true, 100, z_planes=3).times == true).all()


@pytest.mark.parametrize("lost", [[50], [1], [98], [10, 11, 12, 60]])
def test_pulses_that_are_missing_between_others_are_put_in_and_said(lost: list[int]) -> None:
    true = onsets(100, 50.0)
    found = clock(np.delete(true, lost), 100)
    assert np.abs(found.times - true).max() < PERIOD / 20
    assert f"{len(lost)} pulses of the mesoscope are missing" in found.notes[0]


def test_a_bounced_pulse_is_left_out_and_said() -> None:
    true = onsets(100)
    found = clock(np.sort(np.append(true, true[40] + 9_000)), 100)
    assert (found.times == true).all()
    assert "1 pulses that came right after another one" in found.notes[0]


def test_frames_of_a_last_volume_that_was_not_finished_are_left_out_and_said() -> None:
    frames = onsets(302, period=PERIOD / 3)
    found = clock(frames, 100, z_planes=3)
    assert (found.times == frames[:300:3]).all()
    assert "the last volume was not finished" in found.notes[0]


def test_a_pause_of_the_mesoscope_is_no_missing_pulse() -> None:
    true = onsets(100)
    true[50:] += 12 * PERIOD + PERIOD // 2
    found = clock(true, 100)
    assert (found.times == true).all()
    assert "paused 1 times" in found.notes[0]


@pytest.mark.parametrize(
    ("pulses", "volumes"),
    [
        pytest.param(onsets(99), 100, id="one fewer, at an end"),
        pytest.param(onsets(101), 100, id="one more"),
        pytest.param(np.delete(onsets(101), 50), 100, id="one missing, and one more at an end"),
        pytest.param(onsets(1), 100, id="one pulse"),
    ],
)
def test_pulses_that_do_not_fit_are_refused_with_the_numbers(pulses: NDArray[np.int64], volumes: int) -> None:
    with pytest.raises(SessionDataError, match=f"{len(pulses)} pulses.* {volumes} "):
        clock(pulses, volumes)


def test_a_rate_that_does_not_fit_is_refused() -> None:
    with pytest.raises(SessionDataError, match=r"a pulse every 50\.. ms, and its volumes take 100.0 ms"):
        clock(onsets(100, period=50_000), 100)


def test_a_person_says_which_end_pulses_and_volumes_share() -> None:
    true = onsets(103)
    assert (clock(true, 100, unclear=UnclearFrames.FROM_START).times == true[:100]).all()
    assert (clock(true, 100, unclear=UnclearFrames.FROM_END).times == true[3:]).all()


def test_volumes_without_a_time_are_left_out_at_the_other_end_and_said() -> None:
    true = onsets(97)
    first, last = (clock(true, 100, unclear=end) for end in (UnclearFrames.FROM_START, UnclearFrames.FROM_END))
    assert (first.volumes, last.volumes) == (slice(0, 97), slice(3, 100))
    assert "3 volumes have no time" in first.notes[-1]


def test_a_person_says_that_frames_are_missing_with_their_pulses() -> None:
    true = np.delete(onsets(101), 50)
    assert (clock(true, 100, unclear=UnclearFrames.ONE_TO_ONE).times == true).all()
    with pytest.raises(SessionDataError, match="do not go together one to one"):
        clock(true, 99, unclear=UnclearFrames.ONE_TO_ONE)
