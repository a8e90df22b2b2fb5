"""What is known of a server: its address, its volumes, its scheduler, and what its jobs need there."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from tasks.ssh_config import SshAddress
from trackers.errors import BadInputError
from trackers.graph import MANAGER_ID, PYTHON, Graph, Job, Stage
from trackers.names import ProcessingPipelines
from trackers.publication import PUBLISH
from trackers.site import ACCOUNT, INSTALLED


class Environment(BaseModel):
    """What the jobs of one environment need around them."""

    model_config = ConfigDict(extra="forbid")

    python: str = Field(default="", description="Path of its interpreter; empty: the one that was installed.")
    activate: str = Field(
        default="", description="Shell words that run before each job, e.g. `module load conda && conda activate s2p`."
    )


_FOLLOWED_BY = (  # options of sbatch that jobs are found and followed by
    *("comment", "job-name", "parsable", "chdir", "output", "error", "open-mode", "kill-on-invalid-dep"),
    *("dependency", "hold", "array", "wait", "wrap", "test-only", "clusters"),
)
_PIPELINES = tuple(pipeline.name.lower() for pipeline in ProcessingPipelines)
_BY_JOB = ("ntasks", "cpus-per-task", "mem", "mem-per-cpu", "mem-per-gpu", "time", "gpus")
_LETTERS = {
    "J": "job-name",
    "D": "chdir",
    "o": "output",
    "e": "error",
    "d": "dependency",
    "H": "hold",
    "a": "array",
    "W": "wait",
    "M": "clusters",
    "n": "ntasks",
    "c": "cpus-per-task",
    "t": "time",
    "G": "gpus",
}
_FLAGS = "OQsuv"  # letters that take no value, so that another may follow in the same word


class Slurm(BaseModel):
    """What every job asks of Slurm beside its resources."""

    model_config = ConfigDict(extra="forbid")

    partition: str = Field(default="", description="Empty: the site's default.")
    account: str = Field(default="", description="The account that is charged; empty: the default.")
    qos: str = Field(default="", description="Quality of service; empty: the default.")
    options: list[str] = Field(default=[], description="Further options of sbatch, e.g. --constraint=avx512.")

    @field_validator("options")
    @classmethod
    def _none_of_ours(cls, options: list[str]) -> list[str]:
        for word in options:
            letter = word[1:].lstrip(_FLAGS)[:1]  # -QH is -Q and -H
            name = word[2:].split("=")[0] if word.startswith("--") else _LETTERS.get(letter, "")
            if word.startswith("-") and name:  # sbatch takes the beginning of a name as well
                if any(ours.startswith(name) for ours in _FOLLOWED_BY):
                    raise ValueError(
                        f"{word} cannot be given: sessionflow finds and follows jobs by what it says there"
                    )
                if any(ours.startswith(name) for ours in _BY_JOB):
                    raise ValueError(f"{word} cannot be given: set what jobs ask for under `resources`")
        return options


class Override(BaseModel):
    """What a job asks for here instead of what its pipeline says; what is not given stays."""

    model_config = ConfigDict(extra="forbid")

    cpus: int | None = Field(default=None, ge=1, description="Cores.")
    memory_gb: float | None = Field(default=None, gt=0, allow_inf_nan=False, description="Memory, GB.")
    minutes: int | None = Field(default=None, ge=1, description="Time limit, minutes.")
    gpus: int | None = Field(default=None, ge=0, description="Graphics cards.")
    maximum_memory_gb: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="How far retries may go, GB."
    )
    maximum_minutes: int | None = Field(default=None, ge=1, description="How far retries may go, minutes.")


class Command(BaseModel):
    """A lab's own program in the place of one of our job programs."""

    model_config = ConfigDict(extra="forbid")

    words: list[str] = Field(
        min_length=1,
        description="Program and arguments. {job} is the job's name, and {project}, {animal}, {session}, {storage}, "
        "{working}, {plane}, … what our own program is given (of several values, like {sessions}, each is a word); "
        "{python} and {manager_id} are filled in on the server.",
    )
    drives_tracker: bool = Field(default=False, description="It is a program of 5.1.0 that writes the tracker itself.")

    def in_place_of(self, job: Job) -> Job:
        """Return a job with this command.

        Raises:
            BadInputError: a word names what that job is not given.
        """
        given = _given(job.command)
        known = {name: " ".join(values) for name, values in given.items()}
        known |= {"job": job.name, "python": PYTHON, "manager_id": MANAGER_ID}
        several = {f"{{{name}}}": values for name, values in given.items() if len(values) > 1}
        try:
            words = tuple(w for word in self.words for w in several.get(word) or (word.format_map(known),))
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise BadInputError(
                f"The server's command for {job.name} cannot be filled in ({error}); known are "
                f"{', '.join(sorted(known))}. Nothing was submitted. Correct `commands` in its description."
            ) from None
        return replace(job, command=words, drives_tracker=self.drives_tracker)


def _given(command: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the values of each option of a command."""
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for word in command:
        if word.startswith("--"):
            values = given[word[2:]] = []
        else:
            values.append(word)
    return given


class Server(BaseModel):
    """A compute server; without a host it is this computer. It holds the path of a key, and no secret."""

    name: str = Field(default="", description="How people call it; `sessionflow server … NAME`.")
    host: str = Field(default="", description="Its name or address, or a Host of ~/.ssh/config; empty: this computer.")
    user: str = Field(default="", description="The account there; empty: as ~/.ssh/config says, else the same as here.")
    port: int = Field(default=0, ge=0, le=65535, description="0: as ~/.ssh/config says, else 22.")
    key_file: str = Field(default="", description="Path of the private key here; empty: agent and default keys.")
    known_hosts_file: str = Field(default="", description="Its host key stands there; empty: ~/.ssh/known_hosts.")
    interactive_login: bool = Field(
        default=False, description="The site asks for one-time passwords: people log in by `sessionflow server login`."
    )
    storage_root: str = Field(description="Absolute path of the slow, large volume, on the server.")
    working_root: str = Field(default="", description="Absolute path of the fast, small volume; empty: one volume.")
    shared_directory_name: str = Field(
        default="", description="Folder of both volumes that holds the projects; empty: the roots themselves."
    )
    datasets_root: str = Field(
        default="",
        description="Absolute path of the folder that holds this account's datasets; empty: the account's name, in "
        "working_root.",
    )
    scheduler: Literal["local", "slurm"] = Field(
        default="local", description="What runs the jobs: processes of the server itself, or its Slurm cluster."
    )
    environments: dict[str, Environment] = Field(
        default={}, description="By name (core, manifest, behavior, …): interpreter and activation."
    )
    slurm: Slurm = Field(default=Slurm(), description="Partition, account, QOS and further options.")
    resources: dict[str, Override] = Field(
        default={}, description="By pipeline (behavior) or job (suite2p/plane-*): what it asks for here."
    )
    commands: dict[str, Command] = Field(
        default={}, description="By pipeline or job, as resources: the lab's own program that runs instead of ours."
    )

    @field_validator("storage_root", "working_root", "datasets_root")
    @classmethod
    def _absolute(cls, root: str, info: ValidationInfo) -> str:
        if not root and info.field_name != "storage_root":
            return root
        if not PurePosixPath(root).is_absolute() or any(ord(character) < ord(" ") for character in root):
            raise ValueError(f"{root!r} is no absolute path of the server, on one line")
        return root

    @field_validator("shared_directory_name")
    @classmethod
    def _below_the_roots(cls, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"{name} does not lie in the roots; name a folder of both")
        return name

    @field_validator("resources", "commands")
    @classmethod
    def _of_a_pipeline(cls, found: dict[str, Any]) -> dict[str, Any]:
        for pattern in found:
            if not any(_may_mean(pattern, pipeline) for pipeline in _PIPELINES):
                raise ValueError(f"{pattern} is no pipeline and no job of one; pipelines are {', '.join(_PIPELINES)}")
        return found

    @property
    def storage(self) -> str:
        """The folder that holds the projects on the storage volume."""
        return str(PurePosixPath(self.storage_root) / self.shared_directory_name)

    @property
    def working(self) -> str:
        """The folder that holds the projects on the working volume."""
        return str(PurePosixPath(self.working_root or self.storage_root) / self.shared_directory_name)

    @property
    def datasets(self) -> str:
        """The folder that holds this account's datasets, in which the server side fills in the account."""
        return self.datasets_root or str(PurePosixPath(self.working_root or self.storage_root) / ACCOUNT)

    def address(self) -> SshAddress:
        """Return how it is reached over SSH."""
        return SshAddress(
            *(self.host, self.user, self.port, self.key_file, self.known_hosts_file),
            interactive=self.interactive_login,
            name=self.name,
        )

    @property
    def label(self) -> str:
        """How messages call it."""
        return self.name or self.host or "this computer"

    def site(self) -> dict[str, Any]:
        """Return what every request to the server side says of the server."""
        environments = {name: environment.model_dump() for name, environment in self.environments.items()}
        site = {"name": self.name, "storage": self.storage, "working": self.working, "scheduler": self.scheduler}
        site["datasets"] = self.datasets
        own = [name for name in _PIPELINES if self.has_own(name)]
        return {**site, "environments": environments, "slurm": self.slurm.model_dump(), "own_programs": own}

    def has_own(self, pipeline: str) -> bool:
        """Whether programs of the lab's own carry out a pipeline here, or some of its jobs."""
        return any(fnmatchcase(pipeline, pattern.partition("/")[0]) for pattern in self.commands)

    def server_side(self) -> tuple[str, ...]:
        """Return the command that starts the server side there."""
        core = self.environments.get("core", Environment())
        python = core.python or ("python" if core.activate else f"{INSTALLED}/core/bin/python")
        return self.activated(python, "-P", "-m", "trackers", "serve")

    def activated(self, *words: str) -> tuple[str, ...]:
        """Return a command behind the site's own shell words for the server side; it does not begin where they fail."""
        activate = self.environments.get("core", Environment()).activate
        if not activate:
            return words
        # the command's input and output are not theirs
        return ("bash", "-c", f'{{\n{activate}\n}} </dev/null >&2 || exit 1\nexec "$@"', "bash", *words)

    def with_resources(self, pipeline: str, graph: Graph) -> Graph:
        """Return a pipeline's graph as its jobs ask for resources and are carried out on this server."""
        return Graph(
            tuple(Stage(s.name, tuple(self._overridden(pipeline, job) for job in s.jobs)) for s in graph.stages)
        )

    def _overridden(self, pipeline: str, job: Job) -> Job:
        for pattern, override in self.resources.items():
            if fnmatchcase(pipeline, pattern) or fnmatchcase(f"{pipeline}/{job.name}", pattern):
                job = replace(job, resources=replace(job.resources, **override.model_dump(exclude_none=True)))
        if job.name == PUBLISH:  # it only puts in place what lies beside
            return job
        for pattern, command in self.commands.items():
            if fnmatchcase(pipeline, pattern) or fnmatchcase(f"{pipeline}/{job.name}", pattern):
                return command.in_place_of(job)
        return job

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read a server's description, YAML.

        Raises:
            BadInputError: it is not there, no YAML, or says something that no server has.
        """
        try:
            return cls.from_text(path.read_bytes(), path)
        except OSError as error:
            raise BadInputError(f"{path} cannot be read: {error}. Nothing was done.") from None

    @classmethod
    def from_text(cls, text: bytes, path: Path) -> Self:
        """Return the server that a file's text describes; `path` is what errors name.

        Raises:
            BadInputError: it is no YAML, or says something that no server has.
        """
        try:
            data = yaml.safe_load(text)
            if not isinstance(data, dict):
                raise BadInputError(f"{path} describes no server: it is no mapping. Nothing was done.")
            if unknown := sorted(set(data) - set(cls.model_fields)):
                known = ", ".join(name for name in cls.model_fields if not name.startswith("_"))
                raise BadInputError(f"{path} has unknown fields: {', '.join(map(str, unknown))}. Known are: {known}.")
            return cls(**data)
        except yaml.YAMLError as error:
            raise BadInputError(f"{path} cannot be read: {error}. Nothing was done.") from None
        except ValidationError as error:
            raise BadInputError(f"{path} describes no server: {in_words(error)}. Nothing was done.") from None


def _may_mean(pattern: str, pipeline: str) -> bool:
    """Tell whether a pattern can match a pipeline or a job of it, whose names only its run knows."""
    fixed, inside = re.split(r"[*?[]", pattern)[0], f"{pipeline}/"
    return pattern == pipeline or fixed.startswith(inside) or (fixed != pattern and inside.startswith(fixed))


def servers_directory() -> Path:
    """Return the folder in which this account keeps the descriptions of its servers."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sessionflow" / "servers"


def find_server(name: str) -> Server:
    """Return the server of that name, or the one that a file describes.

    Raises:
        BadInputError: there is none, or its description is no good.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = servers_directory() / f"{name}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in servers_directory().glob("*.yaml"))) or "none"
            raise BadInputError(
                f"There is no server {name!r}; known are: {known}. Nothing was done. "
                f"Describe it in a file, and add it with: sessionflow server add {shlex.quote(name)} --file server.yaml"
            )
    server = Server.from_file(path)
    return server if server.name else server.model_copy(update={"name": name})


def in_words(error: ValidationError) -> str:
    """Return what is wrong with a description, a sentence a field."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'it'}: {e['msg']}" for e in error.errors())
