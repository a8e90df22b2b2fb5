"""A pipeline's settings for a session: of the server, the project, the animal, the session, and of one run."""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trackers.errors import BadInputError
from trackers.files import read_file
from trackers.layout import ProjectPaths, SessionPaths
from trackers.names import ProcessingPipelines

SECTIONS = ("suite2p", "forging")  # of the pipelines that have settings in files
DEFAULT = "default"
THIS_RUN = "this run"
_UNCHANGED = "Nothing was started."


@dataclass(frozen=True)
class Known:
    """A setting that a pipeline has.

    Attributes:
        default: its value where nobody says otherwise.
        types: what its value may be; a whole number also counts as a float, never as a bool.
        choices: the only values allowed; empty: all of these types.
        minimum, maximum: of a number, or of each one in a list, both allowed.
    """

    default: Any
    types: tuple[type, ...]
    choices: tuple[Any, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    def problem(self, value: Any) -> str:
        """Say why a value is not allowed; empty where it is."""
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(map(repr, self.choices))}"
        if list in self.types and isinstance(value, list):
            return self._problem_of_list(value)
        taken = (*self.types, int) if float in self.types else self.types
        if not isinstance(value, taken) or (isinstance(value, bool) and bool not in self.types):
            return f"must be {' or '.join('null' if t is type(None) else t.__name__ for t in self.types)}"
        if isinstance(value, int | float) and self.minimum is not None and not value >= self.minimum:  # nan is neither
            return f"must be at least {self.minimum:g}"
        if isinstance(value, int | float) and self.maximum is not None and not value <= self.maximum:
            return f"must be at most {self.maximum:g}"
        return ""

    def _problem_of_list(self, value: list[Any]) -> str:
        """Say why a list is not allowed: all lists are of two numbers (y, x), whole ones where the default's are."""
        whole = isinstance(self.default, list) and all(isinstance(each, int) for each in self.default)
        types, least = (int,) if whole else (int, float), self.minimum or 0.0
        fits = len(value) == 2 and all(type(each) in types and least <= each < math.inf for each in value)
        return "" if fits else f"must be a list of 2 {'whole numbers' if whole else 'numbers'}, each at least {least:g}"


@dataclass(frozen=True)
class Setting:
    """A value, and where it comes from: `default`, `this run`, or `FILE:LINE`."""

    value: Any
    source: str


def project_files(project: ProjectPaths) -> tuple[Path, ...]:
    """Return where settings of a project may stand, the weakest first: server, project."""
    return (
        project.volumes.storage / "suite2p_configurations" / "default.yaml",
        project.directory / "settings" / "project.yaml",
    )


def settings_files(paths: SessionPaths) -> tuple[Path, ...]:
    """Return where settings of a session may stand, the weakest first: server, project, animal, session."""
    own = paths.project_paths.directory / "settings" / paths.animal
    return (*project_files(paths.project_paths), own / "animal.yaml", own / f"{paths.session}.yaml")


def resolve(
    files: Iterable[Path],
    pipeline: ProcessingPipelines,
    known: Mapping[str, Known],
    overrides: Mapping[str, Any] | None = None,
) -> dict[str, Setting]:
    """Return every setting that a pipeline has, by dotted name, with where its value comes from.

    Each file has one section per pipeline, named in lower case; a stronger file replaces single values of a weaker one.

    Args:
        files: where settings may stand, the weakest first; see `settings_files`.
        pipeline: whose section is read.
        known: what the pipeline may be told.
        overrides: for one run, by dotted name; stronger than every file.

    Raises:
        BadInputError: a file cannot be read as settings, or a name or value is not one that the pipeline knows.
    """
    found = {name: Setting(each.default, DEFAULT) for name, each in known.items()}
    for path in files:
        for name, setting in _of_file(path, pipeline.name.lower(), known):
            found[name] = _checked(name, setting, known)
    for name, value in checked_overrides(overrides or {}, known).items():
        found[name] = Setting(value, THIS_RUN)
    return found


def checked_overrides(overrides: Mapping[str, Any], known: Mapping[str, Known]) -> dict[str, Any]:
    """Return one run's own settings by dotted name; they may be given so, or nested.

    Raises:
        BadInputError: a name or value is not one that the pipeline knows.
    """
    found: dict[str, Any] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping) and name not in known:
            found |= checked_overrides({f"{name}.{key}": inner for key, inner in value.items()}, known)
        else:
            found[name] = _checked(name, Setting(value, THIS_RUN), known).value
    return found


def _checked(name: str, setting: Setting, known: Mapping[str, Known]) -> Setting:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3) or [k for k in known if k.endswith(f".{name}")]
        hint = f" The nearest are: {', '.join(near)}." if near else ""
        raise BadInputError(f"{setting.source}: there is no setting {name!r}.{hint} {_UNCHANGED}")
    if problem := known[name].problem(setting.value):
        raise BadInputError(f"{setting.source}: {name} {problem}, and is {setting.value!r}. {_UNCHANGED}")
    return setting


def _of_file(path: Path, section: str, known: Mapping[str, Known]) -> Iterator[tuple[str, Setting]]:
    """Give what a file's section sets; a file that is missing sets nothing."""
    try:
        content = read_file(path)
    except FileNotFoundError:
        return iter(())
    return iter(_of_text(path, content, section, frozenset(known)))


@functools.lru_cache(maxsize=64)  # one file is read for every session of a project
def _of_text(path: Path, content: bytes, section: str, known: frozenset[str]) -> tuple[tuple[str, Setting], ...]:
    return tuple(_parsed(path, content, section, known))


def _parsed(path: Path, content: bytes, section: str, known: frozenset[str]) -> Iterator[tuple[str, Setting]]:
    try:
        loader = yaml.SafeLoader(content)
    except yaml.YAMLError as error:  # bytes that are no text
        raise _unreadable(path, error) from None
    try:
        root = loader.get_single_node()
        for key, node in _items(path, root) if root is not None else ():
            _check_section(path, key, node)
            if key.value == section:
                yield from _once(_flattened(loader, path, node, "", known))
    except yaml.YAMLError as error:
        raise _unreadable(path, error) from None
    finally:
        loader.dispose()


def _check_section(path: Path, key: yaml.Node, node: yaml.Node) -> None:
    if key.value not in {p.name.lower() for p in ProcessingPipelines}:
        raise BadInputError(f"{path}:{_line(key)}: {key.value!r} is no pipeline's name. {_UNCHANGED}")
    if key.value not in SECTIONS and _items(path, node):
        which = " and ".join(SECTIONS)
        raise BadInputError(f"{path}:{_line(key)}: only {which} have settings in files, not {key.value}. {_UNCHANGED}")


def _once(settings: Iterator[tuple[str, Setting]]) -> Iterator[tuple[str, Setting]]:
    """Refuse a name that stands twice, once nested and once dotted."""
    seen: set[str] = set()
    for name, setting in settings:
        if name in seen:
            raise BadInputError(f"{setting.source}: {name!r} stands twice. {_UNCHANGED}")
        seen.add(name)
        yield name, setting


def _flattened(
    loader: yaml.SafeLoader, path: Path, node: yaml.Node, prefix: str, known: frozenset[str]
) -> Iterator[tuple[str, Setting]]:
    for key, value in _items(path, node):
        name = f"{prefix}{key.value}"
        group = any(each.startswith(f"{name}.") for each in known)  # else an alias of its own parent would have no end
        if isinstance(value, yaml.MappingNode) and group:
            yield from _flattened(loader, path, value, f"{name}.", known)
        else:
            yield name, Setting(loader.construct_object(value, deep=True), f"{path}:{_line(key)}")


def _items(path: Path, node: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):  # a heading with nothing below it
            return []
        raise BadInputError(f"{path}:{_line(node)}: names with values are expected here. {_UNCHANGED}")
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.value in seen:
            said = f"{key.value!r} stands twice" if isinstance(key, yaml.ScalarNode) else "a name is expected"
            raise BadInputError(f"{path}:{_line(key)}: {said}. {_UNCHANGED}")
        seen.add(key.value)
    return list(node.value)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _unreadable(path: Path, error: yaml.YAMLError) -> BadInputError:
    mark = getattr(error, "problem_mark", None)
    where = f":{mark.line + 1}" if mark else ""
    return BadInputError(f"{path}{where}: it is no YAML: {getattr(error, 'problem', None) or error}. {_UNCHANGED}")
