"""What can be wrong with a generated recording, as it is wrong in life: for checks of what finds it."""

from __future__ import annotations

from enum import StrEnum

SINCE = 0.6  # of the recording: when what goes wrong goes wrong


class Defect(StrEnum):
    """Each is planted in a session of its own."""

    MOVED_OUT_OF_PLANE = "moved_out_of_plane"  # the tissue sinks: its cells fade, and other tissue comes into focus
    BLEACHED = "bleached"  # the light of all tissue falls to a third
    CAMERA_STOPPED = "camera_stopped"  # the face camera's frames end
    LICK_SENSOR_STUCK = "lick_sensor_stuck"  # it reports contact to the end
    FRAMES_DROPPED = "frames_dropped"  # volumes that were scanned, and have their pulse, are not in the movie
    NO_CELLS = "no_cells"  # nothing but neuropil
    TREADMILL_SLIPPED = "treadmill_slipped"  # the animal runs, and the wheel stands still
    SATURATED = "saturated"  # too much light for the digitizer
