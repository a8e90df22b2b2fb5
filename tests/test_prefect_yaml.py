"""`prefect.yaml`, strictly: no key that Prefect would drop, no flow that is missing, no parameter that no flow has."""

from __future__ import annotations

import importlib
import pkgutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy import _models as models
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from pydantic import BaseModel

import flows

ROOT = Path(__file__).parents[1]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = FILE["deployments"]
BY_NAME = {deployment["name"]: deployment for deployment in DEPLOYMENTS}
PARTS: dict[str, type[BaseModel]] = {
    "work_pool": models.WorkPoolConfig,
    "concurrency_limit": models.ConcurrencyLimitSpec,
}


def dropped(data: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """Return the keys that Prefect's model does not have, and so would not say a word about."""
    known = {field.alias or name for name, field in model.model_fields.items()}
    return sorted(set(data) - known)


def flow_of(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, Flow), entrypoint
    return found


def test_the_file_is_one_that_prefect_accepts() -> None:
    models.PrefectYamlModel.model_validate(FILE)
    assert FILE["pull"] == []
    assert len(BY_NAME) == len(DEPLOYMENTS)


def test_no_key_is_dropped_without_a_word() -> None:
    assert dropped(FILE, models.PrefectYamlModel) == []
    assert dropped({"paramters": {}}, models.DeploymentConfig) == ["paramters"]
    for deployment in DEPLOYMENTS:
        assert dropped(deployment, models.DeploymentConfig) == [], deployment["name"]
        for key, model in PARTS.items():
            assert dropped(deployment[key], model) == [], (deployment["name"], key)
        for schedule in deployment.get("schedules", ()):
            models.RawScheduleConfig.model_validate(schedule)


def test_every_flow_of_the_package_has_a_deployment() -> None:
    found = set()
    for module in pkgutil.iter_modules(flows.__path__, "flows."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, Flow) and value.fn.__module__ == module.name and value.name != "demo":
                found.add(value.name)
    assert found == {flow_of(deployment["entrypoint"]).name for deployment in DEPLOYMENTS}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_deployment_is_whole_and_its_parameters_exist(name: str) -> None:
    deployment = BY_NAME[name]
    flow = flow_of(deployment["entrypoint"])
    assert flow.name == name
    given = [deployment.get("parameters", {}), *(s.get("parameters", {}) for s in deployment.get("schedules", ()))]
    for parameters in given:
        assert set(parameters) <= set(flow.parameters.properties)
    assert deployment["description"]
    assert "sessionflow" in deployment["tags"]
    assert deployment["work_pool"] == {"name": "sessionflow", "job_variables": {"stream_output": False}}
    assert deployment["concurrency_limit"]["collision_strategy"] in ConcurrencyLimitStrategy.__members__
    assert deployment["version"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.mark.parametrize("name", BY_NAME)
def test_a_schedule_that_is_active_names_all_that_its_flow_needs(name: str) -> None:
    deployment = BY_NAME[name]
    needed = set(flow_of(deployment["entrypoint"]).parameters.required)
    for schedule in deployment.get("schedules", ()):
        given = {**deployment.get("parameters", {}), **schedule.get("parameters", {})}
        assert not schedule["active"] or needed <= set(given), schedule["slug"]
        assert schedule["slug"]


@pytest.mark.parametrize("name", BY_NAME)
def test_every_parameter_is_described_in_the_form(name: str) -> None:
    for parameter, schema in flow_of(BY_NAME[name]["entrypoint"]).parameters.properties.items():
        assert schema.get("description"), parameter
