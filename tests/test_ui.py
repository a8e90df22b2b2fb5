"""What people see in Prefect's UI: a run is started by its form, followed on its page, and what it did can be read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import SESSION, make_session
from tests.lab_up import LabUp

browser = pytest.importorskip("tests.browser", reason="needs selenium: pip install 'sessionflow[tests]'")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(browser.missing(), reason=browser.MISSING),
]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabUp]:
    """A lab whose volumes are known only to the server that the form offers."""
    up = LabUp(tmp_path_factory.mktemp("lab"), SESSIONFLOW_STORAGE="", SESSIONFLOW_WORKING="")
    file = up.root / "server.yaml"
    file.write_text(f"storage_root: {up.storage}\nworking_root: {up.working}\n")
    assert up.command("server", "add", "cluster", "--file", str(file)).returncode == 0
    up.start("--drain", "5")
    yield up
    up.kill_everything()


@pytest.fixture
def ui(up: LabUp) -> Iterator[browser.Ui]:
    ui = browser.Ui(up)
    yield ui
    ui.close()


def form(ui: browser.Ui, up: LabUp, deployment: str) -> None:
    """Open a deployment's form."""
    found = up.ask(f"deployments/name/{deployment}/{deployment}")
    ui.open(f"deployments/deployment/{found['id']}/run")
    ui.text("Parameters", "Submit")


def test_a_session_is_processed_by_its_form_and_its_page_says_what_became_of_it(ui: browser.Ui, up: LabUp) -> None:
    make_session(up.storage, kind="window checking")
    (up.storage / "Project" / "305" / SESSION / "raw_data" / "ax_checksum.txt").write_text("0" * 32)
    form(ui, up, "process-session")
    ui.choose("server", "cluster")
    ui.fill("project", "Project")
    ui.fill("animal", "305")
    ui.fill("session", SESSION)
    ui.press("Submit", then="Upcoming")  # which stands on the deployment's page
    ui.open("runs")
    ui.text(f"checksum Project/305/{SESSION}", seconds=90, reload=True)
    ui.press(f"checksum Project/305/{SESSION}")
    ui.text("Parent Run", "305", "Project")
    ui.press(f"Project/305/{SESSION}", then="Deployment")  # the parent
    ui.text("Failed", seconds=90, reload=True)
    ui.press("Artifacts", then="PROGRESS")
    ui.press("process-session-", then="pipeline and its run")  # the page of the session, by its key
    ui.text("checksum FAILED", "raw_data is not what was acquired", "a window checking session has no", "errors.log")


def test_a_run_that_names_no_server_goes_to_the_only_one_that_is_described(up: LabUp) -> None:
    run = up.launch("process-session/process-session", project="Nowhere", animal="305", session=SESSION)
    assert f"There is no project 'Nowhere' in {up.storage}" in up.ended(run)["state"]["message"]


def test_a_form_that_lacks_a_name_starts_nothing(ui: browser.Ui, up: LabUp) -> None:
    before = up.ask("flow_runs/count", {})
    form(ui, up, "process-session")
    ui.fill("project", "Project")
    ui.press("Submit")
    ui.text("'animal' is a required property")
    assert up.ask("flow_runs/count", {}) == before


def test_a_form_with_a_name_that_no_session_has_starts_nothing_and_says_how_they_are_named(
    ui: browser.Ui, up: LabUp
) -> None:
    before = up.ask("flow_runs/count", {})
    form(ui, up, "process-session")
    ui.fill("project", "Project")
    ui.fill("animal", "305;")
    ui.fill("session", "yesterday")
    ui.press("Submit")
    ui.text("'305;' does not match", "letters, digits, spaces and _ - . +", "'yesterday' does not match", "YYYY-MM-DD")
    assert up.ask("flow_runs/count", {}) == before


def test_lists_and_servers_are_offered_at_once_without_a_choice_of_none_before(ui: browser.Ui, up: LabUp) -> None:
    for deployment in ("process-session", "forging", "sweep"):
        form(ui, up, deployment)
        assert 'Property is type "None"' not in ui.text("Where the data lies", "cluster"), deployment
