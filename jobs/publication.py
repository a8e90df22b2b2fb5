"""Put a new result in the place of the old one, which is kept: `python -P -m jobs.publication --help`."""

from __future__ import annotations

import argparse
import sys

from jobs.copying import some
from jobs.program import (
    check_dataset_owner,
    check_owner,
    dataset_parser,
    dataset_paths,
    run,
    session_parser,
    session_paths,
    write_report,
)
from trackers.curation import changed
from trackers.names import ProcessingPipelines
from trackers.publication import Publication, of_animal, of_session
from trackers.site import Site
from trackers.stale import record_of
from trackers.targets import Target

ABOUT = "Puts a new result in place."


def publish(publication: Publication, target: Target, pipeline: ProcessingPipelines) -> list[str]:
    """Put what was made beside a session's result in its place; return what people must know."""
    publication.finish()
    record = record_of(target, pipeline)
    by_people = changed(target, record) if record is not None and publication.next.is_dir() else []
    publication.publish()
    if not by_people:
        return []
    return [f"people had edited the result before, and their files are in {publication.previous}: {some(by_people)}"]


def _of_session(arguments: argparse.Namespace) -> list[str]:
    paths = session_paths(arguments)
    check_owner(paths, arguments.manager_id)
    pipeline = ProcessingPipelines[arguments.pipeline]
    target = Target(Site(paths.volumes), paths.project, paths.animal, paths.session)
    return publish(of_session(paths.processed_data, pipeline), target, pipeline)


def _of_animal(arguments: argparse.Namespace) -> list[str]:
    dataset, sessions = dataset_paths(arguments)
    check_dataset_owner(dataset, sessions, arguments.manager_id)
    of_animal(dataset.directory).publish()
    return []


def main() -> None:
    """Carry out the command line: of a session's pipeline, or with `--dataset` of an animal in a dataset."""
    if "--dataset" in sys.argv:
        notes = _of_animal(dataset_parser(ABOUT, animal=True).parse_args())
    else:
        parser = session_parser(ABOUT)
        parser.add_argument("--pipeline", required=True, choices=[p.name for p in ProcessingPipelines])
        notes = _of_session(parser.parse_args())
    print("\n".join(notes))
    write_report(notes=notes)


if __name__ == "__main__":
    run(main)
