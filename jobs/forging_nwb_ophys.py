"""Imaging in an NWB file: planes, the ROIs that suite2p found with their masks, their activity, and mean images."""

from __future__ import annotations

from nwbinspector.checks import check_imaging_plane_location_allen_ccf
from pynwb import NWBFile, ProcessingModule, TimeSeries
from pynwb.base import Images
from pynwb.device import Device
from pynwb.file import Subject
from pynwb.image import GrayscaleImage
from pynwb.ophys import Fluorescence, ImageSegmentation, ImagingPlane, OpticalChannel, PlaneSegmentation

from jobs.forging_frames import VolumeClock
from jobs.forging_nwb_behavior import compressed, times
from jobs.forging_sources import Plane, Sources
from jobs.forging_subject import entries
from trackers.forging_settings import ForgingSettings
from trackers.names import session_time

UNKNOWN = "unknown"
NOT_TRACKED = -1
_WHOLE_BRAIN = "root"  # the Allen atlas's word for it
_ACTIVITY = {  # container → what it holds, of which array
    "Fluorescence": ("fluorescence of each ROI, as suite2p extracted it", "fluorescence"),
    "Neuropil": ("fluorescence around each ROI", "neuropil"),
    "Deconvolved": ("deconvolved activity of each ROI, by suite2p", "deconvolved"),
}


def add(file: NWBFile, sources: Sources, settings: ForgingSettings, clock: VolumeClock) -> None:
    """Add every plane; all of them share the clock of the volumes' onsets."""
    device = file.create_device("mesoscope", f"Two-photon mesoscope of the {sources.data.acquisition_system} system.")
    location, words = imaging_location(sources, settings)
    module = file.create_processing_module("ophys", "What suite2p made of the two-photon movie.")
    segmentation = ImageSegmentation()
    if any(plane.stat for plane in sources.planes):
        module.add(segmentation)
        module.add([Fluorescence(name=name) for name in _ACTIVITY])
    for plane in sources.planes:
        imaging = _imaging_plane(file, plane, device, location, words, settings)
        table = _masks(segmentation, plane, imaging)
        if table is not None:
            _add_identities(table, plane, sources)
            _add_activity(module, plane, table, clock, sources)
        _add_registration(module, plane, clock, sources)
    _add_multiday(module, clock, sources)


def imaging_location(sources: Sources, settings: ForgingSettings) -> tuple[str, str]:
    """Return where was imaged, and what surgery_metadata.yaml says of it.

    A mouse's place must be named as the Allen atlas does; where nobody did, it is the whole brain.
    """
    implants = entries(sources.descriptions["surgery_metadata"], "implants")
    targets = [str(i["implant_target"]) for i in implants if i.get("implant_target")]
    words = f"The window was implanted over {' and '.join(targets)}." if targets else ""
    if settings.location:
        return settings.location, words
    for place in (*targets, UNKNOWN):
        if _accepted(place, settings.species, sources):
            return place, words
    return _WHOLE_BRAIN, words


def _accepted(place: str, species: str, sources: Sources) -> bool:
    """Whether the inspector takes a place; it looks at whole files only."""
    subject = Subject(subject_id="probe", species=species)
    probe = NWBFile("probe", "probe", session_time(sources.paths.session), subject=subject)
    plane = probe.create_imaging_plane(
        name="probe",
        optical_channel=OpticalChannel(name="probe", description="probe", emission_lambda=500.0),
        description="probe",
        device=probe.create_device("probe"),
        excitation_lambda=900.0,
        indicator="probe",
        location=place,
    )
    return check_imaging_plane_location_allen_ccf(plane) is None


def _imaging_plane(
    file: NWBFile, plane: Plane, device: Device, location: str, words: str, settings: ForgingSettings
) -> ImagingPlane:
    emission = float("nan") if settings.emission_nm is None else settings.emission_nm
    return file.create_imaging_plane(
        name=f"plane{plane.number}",
        description=f"ROI {plane.roi} of frame {plane.z} of each volume of {plane.z_planes}. {words}".rstrip(),
        optical_channel=OpticalChannel(
            name="OpticalChannel", description="The channel that suite2p extracted.", emission_lambda=emission
        ),
        device=device,
        excitation_lambda=float("nan") if settings.excitation_nm is None else settings.excitation_nm,
        indicator=settings.indicator or UNKNOWN,
        location=location,
        imaging_rate=plane.rate,
    )


def _masks(segmentation: ImageSegmentation, plane: Plane, imaging: ImagingPlane) -> PlaneSegmentation | None:
    """Add a plane's ROIs, numbered as suite2p does; None where it has none."""
    if not plane.stat:
        return None
    table = PlaneSegmentation(
        name=f"plane{plane.number}",
        description=f"ROIs that suite2p found in plane {plane.number}; masks are x, y, weight.",
        imaging_plane=imaging,
    )
    for number, stat in enumerate(plane.stat):
        pixels = zip(stat["xpix"].tolist(), stat["ypix"].tolist(), stat["lam"].tolist(), strict=True)
        table.add_roi(id=number, pixel_mask=list(pixels))
    table.add_column("accepted", "Whether it is a cell: iscell.npy as it was when this was forged.", plane.accepted)
    table.add_column("cell_probability", "That it is a cell, by suite2p's classifier.", plane.probability)
    segmentation.add_plane_segmentation(table)
    return table


def _add_activity(
    module: ProcessingModule, plane: Plane, table: PlaneSegmentation, clock: VolumeClock, sources: Sources
) -> None:
    for name, (what, array) in _ACTIVITY.items():
        module[name].create_roi_response_series(
            name=f"plane{plane.number}",
            description=f"Plane {plane.number}: {what}.",
            comments=f"{array} of every ROI, in the order of the plane's segmentation",
            data=compressed(getattr(plane, array)[:, clock.volumes].T),
            unit="a.u.",
            rois=table.create_roi_table_region(
                region=list(range(len(plane.stat))), description="every ROI of the plane"
            ),
            **times(clock.times, sources.start_us),
        )


def _add_identities(table: PlaneSegmentation, plane: Plane, sources: Sources) -> None:
    if sources.tracked is None:
        return
    cells = [sources.tracked.cells.get((plane.number, roi), NOT_TRACKED) for roi in range(len(plane.stat))]
    what = f"Number of the cell across the dataset's days, within its plane; {NOT_TRACKED}: not known."
    table.add_column("multiday_cell", what, cells)


def _add_multiday(module: ProcessingModule, clock: VolumeClock, sources: Sources) -> None:
    """Add the activity of cells that were tracked across days, also of those that suite2p did not find that day."""
    if sources.tracked is None:
        return
    for (plane, name), values in sources.tracked.activity.items():
        if len(values):
            module.add(
                TimeSeries(
                    name=f"multiday_{name}_plane{plane}",
                    description=f"Plane {plane}: {name} of the cells that were tracked across days.",
                    comments=f"multi-day cells, in this order: {', '.join(map(str, sources.tracked.order[plane]))}",
                    data=compressed(values[:, clock.volumes].T),
                    unit="a.u.",
                    **times(clock.times, sources.start_us),
                )
            )


def _add_registration(module: ProcessingModule, plane: Plane, clock: VolumeClock, sources: Sources) -> None:
    if plane.mean_image is not None:
        image = GrayscaleImage(
            name="mean", data=compressed(plane.mean_image), description="Mean of the registered movie, y by x."
        )
        name = f"images_plane{plane.number}"
        module.add(Images(name=name, images=[image], description=f"Images of plane {plane.number}."))
    if plane.shifts is not None:
        module.add(
            TimeSeries(
                name=f"motion_plane{plane.number}",
                description=f"How far suite2p moved each frame of plane {plane.number}: y, x.",
                data=compressed(plane.shifts[clock.volumes]),
                unit="pixels",
                **times(clock.times, sources.start_us),
            )
        )
