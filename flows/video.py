"""Video processing: motion energy or pose from the cameras' movies, one job a camera."""

from __future__ import annotations

from flows.pipeline import pipeline, pipeline_flow
from tasks.compute_server import ComputeServer
from tasks.reports import PipelineReport
from trackers.cameras import CAMERAS
from trackers.errors import BadInputError
from trackers.graph import Job, Resources, Stage
from trackers.names import ProcessingPipelines, validate_name
from trackers.publication import NEXT

MOTION = Resources(cpus=2, memory_gb=4, minutes=180, maximum_memory_gb=16, maximum_minutes=720)
POSE = Resources(cpus=30, memory_gb=60, minutes=360, maximum_memory_gb=120, maximum_minutes=1440)


@pipeline_flow(name="video", run_name="video {project}/{animal}/{session}")
async def video(
    project: str,
    animal: str,
    session: str,
    server: ComputeServer | None = None,
    deeplabcut: dict[str, str] | None = None,
    shuffle: int = 1,
    components: int = 10,
    reprocess: bool = False,
    discard_curation: bool = False,
    keep_job_logs: bool = False,
    requested_by: str = "",
) -> PipelineReport:
    """Find motion, or with a DeepLabCut project pose, in each camera's movie; a camera without one is skipped.

    Where there is a result, the new one is made beside it and takes its place once it is whole; the one before is kept.

    Args:
        project: The project's name.
        animal: The animal's name or number.
        session: The session's name, its UTC time.
        server: Where the data lies and the jobs run; none: this computer.
        deeplabcut: The DeepLabCut project of each camera that has one, a folder of deeplabcut_projects on the server:
            {"face": "whiskers"}. Of the other cameras, motion energy and its leading components are computed.
        shuffle: Which of the DeepLabCut projects' training shuffles to use.
        components: How many leading components of the motion there are, at most.
        reprocess: Run also where it has succeeded before.
        discard_curation: Also where people have edited the result since.
        keep_job_logs: Keep the jobs' logs after a success.
        requested_by: Who asks; shown with the lock and in the records.
    """
    projects = _checked(deeplabcut or {}, components)
    async with pipeline(
        ProcessingPipelines.VIDEO,
        *(server, project, animal, session),
        settings={"deeplabcut": projects, "shuffle": shuffle, "components": components},
        reprocess=reprocess,
        discard_curation=discard_curation,
        keep_job_logs=keep_job_logs,
        requested_by=requested_by,
    ) as run:
        if run.skipped is not None:
            return run.skipped
        beside = run.beside

        def job(camera: str) -> Job:
            words = ("--camera", camera, *(("--into", NEXT) if beside else ()))
            if name := projects.get(camera):
                by_project = run.program("video", *words, "--deeplabcut", name, "--shuffle", str(shuffle))
                return Job(camera, by_project, POSE, environment="deeplabcut")
            return Job(
                camera, run.program("video", *words, "--components", str(components)), MOTION, environment="video"
            )

        return await run(
            Stage("cameras", tuple(job(camera) for camera in run.facts["cameras"])),
            *([run.publication("--pipeline", run.pipeline.name)] if beside else []),
        )


def _checked(projects: dict[str, str], components: int) -> dict[str, str]:
    """Return the DeepLabCut projects.

    Raises:
        BadInputError: a camera or a name is none, or the number of components is impossible.
    """
    if unknown := sorted(set(projects) - set(CAMERAS)):
        raise BadInputError(f"{', '.join(unknown)}: no camera; known are {', '.join(CAMERAS)}. Nothing was done.")
    if not 1 <= components <= 40:
        raise BadInputError(f"{components} components cannot be found: 1 to 40 can. Nothing was done.")
    for name in projects.values():
        validate_name(name, "DeepLabCut project")
    return dict(sorted(projects.items()))
