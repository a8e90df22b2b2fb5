"""Cameras in an NWB file: when each frame was taken, and the pose or the motion that video processing found."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from ndx_pose import PoseEstimation, PoseEstimationSeries, Skeleton, Skeletons
from pynwb import NWBFile, ProcessingModule, TimeSeries
from pynwb.device import Device

from jobs.forging_nwb_behavior import compressed, times
from jobs.forging_sources import Camera, Sources

_LIKELIHOOD = "_likelihood"


def add(file: NWBFile, sources: Sources) -> None:
    """Add every camera that there is."""
    if not sources.cameras:
        return
    module = file.processing.get("behavior") or file.create_processing_module("behavior", "What the cameras saw.")
    skeletons: list[Skeleton] = []
    poses: list[PoseEstimation] = []
    for camera in sources.cameras:
        device = file.create_device(f"{camera.name}_camera", f"The camera that films the animal: {camera.name}.")
        _clock(module, camera, sources)
        if camera.motion is not None:
            _motion(module, camera, sources)
        if camera.pose is not None:
            skeletons.append(Skeleton(name=f"{camera.name}_camera_skeleton", nodes=body_parts(camera.pose)))
            poses.append(_pose(camera, skeletons[-1], device, sources))
    if skeletons:
        module.add(Skeletons(skeletons=skeletons))
        for pose in poses:
            module.add(pose)


def body_parts(pose: pl.DataFrame) -> list[str]:
    """Return the body parts of a table of poses, each with a likelihood."""
    return [name.removesuffix(_LIKELIHOOD) for name in pose.columns if name.endswith(_LIKELIHOOD)]


def positions(pose: pl.DataFrame) -> Iterator[tuple[str, str, str, str]]:
    """Give every position in a table of poses, filtered ones too: its name, its columns x and y, and the likelihood."""
    for part in body_parts(pose):
        for name, x, y in (
            (part, f"{part}_x", f"{part}_y"),
            (f"{part}_filtered", f"{part}_filtered_x", f"{part}_filtered_y"),
            (f"{part}_filtered", f"{part}_x_filtered", f"{part}_y_filtered"),
        ):
            if x in pose.columns:
                yield name, x, y, f"{part}{_LIKELIHOOD}"


def _clock(module: ProcessingModule, camera: Camera, sources: Sources) -> None:
    module.add(
        TimeSeries(
            name=f"{camera.name}_camera_frames",
            description=f"When the {camera.name} camera took each frame; values are the frames' numbers.",
            comments=f"camera_data/{camera.name}_camera_timestamps: frame_time_us",
            data=compressed(np.arange(len(camera.times), dtype=np.uint32)),
            unit="n/a",
            **times(camera.times, sources.start_us),
        )
    )


def _motion(module: ProcessingModule, camera: Camera, sources: Sources) -> None:
    motion = camera.motion
    assert motion is not None  # noqa: S101 - add asked
    source = f"camera_data/{camera.name}_camera_motion"
    components = [name for name in motion.columns if name.startswith("component_")]
    for name, columns, description in (
        ("motion_energy", ["motion_energy"], "Motion energy: how much the image changed from one frame to the next."),
        ("motion_components", components, "Leading principal components of the motion energy."),
    ):
        if columns:
            data = motion.select(columns).to_numpy()
            module.add(
                TimeSeries(
                    name=f"{camera.name}_camera_{name}",
                    description=f"{description} Of the {camera.name} camera.",
                    comments=f"{source}: {', '.join(columns)}",
                    data=compressed(data[:, 0] if name == "motion_energy" else data),
                    unit="a.u.",
                    **times(motion["time_us"].to_numpy(), sources.start_us),
                )
            )


def _pose(camera: Camera, skeleton: Skeleton, device: Device, sources: Sources) -> PoseEstimation:
    pose = camera.pose
    assert pose is not None  # noqa: S101 - add asked
    source = f"camera_data/{camera.name}_camera_pose"
    series = [
        PoseEstimationSeries(
            name=name,
            description=f"Position of {name} in the image: x, y.",
            comments=f"{source}: {x}, {y}, {likelihood}",
            data=compressed(pose.select(x, y).to_numpy()),
            unit="pixels",
            reference_frame="(0, 0) is the image's upper left corner.",
            confidence=compressed(pose[likelihood].to_numpy()),
            confidence_definition="DeepLabCut's likelihood.",
            **times(pose["time_us"].to_numpy(), sources.start_us),
        )
        for name, x, y, likelihood in positions(pose)
    ]
    return PoseEstimation(
        name=f"{camera.name}_camera_pose",
        pose_estimation_series=series,
        description=f"Positions of body parts that DeepLabCut found in the {camera.name} camera's movie.",
        device=device,
        source_software="DeepLabCut",
        skeleton=skeleton,
        **{key: str(camera.about[key]) for key in ("scorer",) if camera.about.get(key)},
    )
