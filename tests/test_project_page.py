"""A project's page is one artifact, whatever runs: the next run changes it in place."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.project_grid import show_project
from tasks.compute_server import ComputeServer
from tests.conftest import SESSION, make_session
from tests.prefect_server import PrefectServer


def pages(prefect: PrefectServer) -> list[dict[str, Any]]:
    key = {"key": {"like_": "project-seen-twice"}}
    found: list[dict[str, Any]] = prefect.post("artifacts/filter", {"artifacts": key})
    return found


def test_a_project_has_one_page_that_the_next_run_brings_up_to_date(prefect: PrefectServer, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    server = ComputeServer(storage_root=str(storage), working_root=str(tmp_path))

    @flow
    async def look() -> None:
        await show_project("seen-twice", server)

    make_session(storage, "seen-twice")
    with temporary_settings({PREFECT_API_URL: prefect.api}):
        asyncio.run(look())
        (first,) = pages(prefect)
        assert "1 session" in first["data"]
        make_session(storage, "seen-twice", session=SESSION.replace("2025", "2024"))
        asyncio.run(look())
    (second,) = pages(prefect)
    assert second["id"] == first["id"]
    assert SESSION.replace("2025", "2024") in second["data"]
