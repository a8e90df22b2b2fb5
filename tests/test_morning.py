"""People are told of each new failure once, and of the night in the morning."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prefect.blocks.notifications import CustomWebhookNotificationBlock, SlackWebhook
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.morning import Failure, digest_due, failure_message, tell
from tasks.mail import Mail
from tests.prefect_server import PrefectServer, free_port
from trackers.errors import BadInputError

NIGHT = datetime(2026, 11, 25, 3, 0, tzinfo=timezone(timedelta(hours=-5)))


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This computer stands there."""
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("last", "now", "due"),
    [
        (NIGHT, NIGHT + timedelta(hours=3), None),
        (NIGHT, NIGHT + timedelta(hours=5), NIGHT.replace(hour=7)),
        (NIGHT.replace(hour=7), NIGHT + timedelta(hours=5), None),
        (NIGHT, NIGHT + timedelta(days=2), (NIGHT + timedelta(days=1)).replace(hour=7)),
    ],
)
@pytest.mark.usefixtures("new_york")
def test_a_digest_is_due_once_after_its_time_of_day(last: datetime, now: datetime, due: datetime | None) -> None:
    assert digest_due(last, now, "07:00") == due
    assert digest_due(last, now.astimezone(UTC), "07:00") == due, "in this computer's zone, whatever that of `now` is"


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize(
    ("first", "at", "expected"),
    [
        (datetime(2026, 3, 6, 17, tzinfo=UTC), "07:00", [12, 11, 11]),  # clocks go forward on the 8th
        (datetime(2026, 10, 30, 17, tzinfo=UTC), "07:00", [11, 12, 12]),  # and back on November 1st
        (datetime(2026, 3, 6, 17, tzinfo=UTC), "02:30", [7, 6, 6]),  # on the 8th there is no such time: it is 01:30
        (datetime(2026, 10, 30, 17, tzinfo=UTC), "01:30", [5, 5, 6]),  # on the 1st it comes twice: the first counts
    ],
)
def test_there_is_one_digest_a_day_at_its_time_also_when_clocks_change(
    first: datetime, at: str, expected: list[int]
) -> None:
    last, found = first, []
    for minutes in range(0, 3 * 24 * 60, 5):
        if due := digest_due(last, first + timedelta(minutes=minutes), at):
            found.append(due.astimezone(UTC))
            last = due
    assert [(moment - first).days for moment in found] == [0, 1, 2]
    assert [moment.hour for moment in found] == expected


@pytest.mark.parametrize("at", ["seven", "25:00", "07:00+02:00"])
def test_a_time_that_is_none_is_refused(at: str) -> None:
    with pytest.raises(BadInputError, match="07:00"):
        digest_due(NIGHT, NIGHT, at)


def test_many_that_fail_for_one_reason_are_one_message() -> None:
    failures = [Failure(f"P/305/{n}", "… is away", f"{n} is away", f"/log/{n}", f"http://ui/{n}") for n in range(50)]
    subject, body = failure_message(failures)
    assert subject == "sessionflow: P/305/0 and 49 more failed"
    assert body.startswith("… is away\n")
    assert failure_message(failures[:1])[1].startswith("0 is away\n"), "one alone is told in its run's own words"
    assert "/log/0" in body
    assert "http://ui/0" in body
    assert body.endswith("… and 30 more.")


class _Webhook(BaseHTTPRequestHandler):
    heard: ClassVar[list[dict[str, Any]]] = []
    refuse = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.refuse:
            self.heard.append(json.loads(body))
        self.send_response(500 if self.refuse else 200)
        self.end_headers()

    def log_message(self, *_args: Any) -> None:
        pass


class _Mailbox:
    def __init__(self) -> None:
        self.mails: list[str] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(envelope.content.decode())
        return "250 OK"


@pytest.fixture(scope="module")
def prefect(own_prefect: PrefectServer) -> PrefectServer:
    return own_prefect


def run(prefect: PrefectServer, session: str, state: str, message: str, **more: Any) -> str:
    """Make a run of a session that has ended; `more` are its state's name and the run below which it was."""
    flow_id = prefect.post("flows/", {"name": "process-session"})["id"]
    parameters = {"project": "P", "animal": "305", "session": session}
    body = {"flow_id": flow_id, "name": f"P/305/{session}", "parameters": parameters}
    return ended(prefect, body, state, message, **more)


def project_run(prefect: PrefectServer, message: str) -> str:
    """Make a run of a project that has failed."""
    flow_id = prefect.post("flows/", {"name": "process-project"})["id"]
    return ended(prefect, {"flow_id": flow_id, "name": "project P", "parameters": {"project": "P"}}, "FAILED", message)


def ended(
    prefect: PrefectServer, body: dict[str, Any], state: str, message: str, *, name: str = "", below: str = ""
) -> str:
    if below:
        task = {"flow_run_id": below, "task_key": "session", "dynamic_key": body["name"]}
        body["parent_task_run_id"] = prefect.post("task_runs/", task)["id"]
    found = prefect.post("flow_runs/", {**body, "state": {"type": "RUNNING", "name": "Running"}})
    new = {"type": state, "message": message, **({"name": name} if name else {})}
    prefect.post(f"flow_runs/{found['id']}/set_state", {"state": new, "force": True})
    return str(found["id"])


@pytest.mark.timeout(300)
async def test_a_new_failure_is_told_once_by_webhook_and_mail_and_the_night_in_the_morning(
    prefect: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiosmtpd.controller import Controller

    webhook = HTTPServer(("127.0.0.1", 0), _Webhook)
    threading.Thread(target=webhook.serve_forever, daemon=True).start()
    mailbox = _Mailbox()
    smtp = Controller(mailbox, hostname="127.0.0.1", port=(port := free_port()))
    smtp.start()
    monkeypatch.setenv("SESSIONFLOW_NOTIFY", "custom-webhook/lab, mail/night")
    told = tmp_path / "told.json"
    try:
        with temporary_settings({PREFECT_API_URL: prefect.api}):
            url = f"http://127.0.0.1:{webhook.server_address[1]}/"
            body = {"text": "{{subject}}", "more": "{{body}}"}
            await CustomWebhookNotificationBlock(name="lab", url=url, json_data=body).save("lab")
            to = {"sender": "flow@lab", "recipients": ["a@lab"]}
            await Mail(host="127.0.0.1", port=port, security="none", **to).save("night")
            now = datetime.now().astimezone()
            before = (now - timedelta(hours=1)).isoformat()
            record = {"since": before, "digest": before, "failures": {}}
            told.write_text(json.dumps({"custom-webhook/lab": record, "mail/night": record}))
            assert await tell(told, now) == []
            for name in ("one", "two"):
                run(prefect, name, "FAILED", f"behavior of P/305/{name}: failed: the disk is full\nmore")
            run(prefect, "good", "COMPLETED", "")
            failed = run(prefect, "three", "FAILED", "checksum of P/305/three: it differs")
            later = now + timedelta(minutes=1)
            assert len(await tell(told, later)) == 4
            assert await tell(told, later) == []
            texts = [message["text"] for message in _Webhook.heard]
            assert texts == ["sessionflow: P/305/one and 1 more failed", "sessionflow: P/305/three failed"]
            assert len(mailbox.mails) == 2
            assert failed in mailbox.mails[1].replace("=\r\n", "")
            assert "checksum of P/305/three: it differs" in mailbox.mails[1]
            run(prefect, "one", "FAILED", "behavior of P/305/one: failed: the disk is full")
            assert await tell(told, later) == [], "the same again is not new"
            _Webhook.refuse = True
            run(prefect, "four", "FAILED", "something else")
            refused, sent = await tell(told, later)
            assert "500" in refused
            assert "tried again" in refused
            assert sent == "mail/night: sessionflow: P/305/four failed", "the other block is told all the same"
            _Webhook.refuse = False
            assert await tell(told, later) == ["custom-webhook/lab: sessionflow: P/305/four failed"], "that one alone"
            assert len(mailbox.mails) == 3
            monkeypatch.setenv("SESSIONFLOW_NOTIFY", "custom-webhook/lab, mail/nobody, mail/night")
            *said, none, _ = await tell(told, now + timedelta(days=1, minutes=1))
            assert "1 succeeded, 5 failed" in said[0]
            assert "behavior of P/305/one: failed: the disk is full" in mailbox.mails[-1]
            assert "no such block" in none
            monkeypatch.setenv("SESSIONFLOW_NOTIFY", "custom-webhook/lab, mail/night")
            assert await tell(told, now + timedelta(days=1, minutes=2)) == []
            assert await tell(told, now + timedelta(days=3)) == [], "nothing happened"
    finally:
        smtp.stop()
        webhook.shutdown()


@pytest.mark.timeout(300)
async def test_a_projects_failure_is_told_where_no_session_says_it_and_what_others_or_a_new_run_do_is_no_failure(
    prefect: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiosmtpd.controller import Controller

    mailbox = _Mailbox()
    smtp = Controller(mailbox, hostname="127.0.0.1", port=(port := free_port()))
    smtp.start()
    monkeypatch.setenv("SESSIONFLOW_NOTIFY", "mail/morning, slack-webhook/wrong")
    told = tmp_path / "told.json"
    try:
        with temporary_settings({PREFECT_API_URL: prefect.api}):
            to = {"sender": "flow@lab", "recipients": ["a@lab"]}
            await Mail(host="127.0.0.1", port=port, security="none", **to).save("morning")
            await SlackWebhook(url="http://127.0.0.1/no-address-of-slack").save("wrong")
            start = datetime.now().astimezone() + timedelta(minutes=10)  # what other tests left ended before this
            record = {"since": start.isoformat(), "digest": (start - timedelta(minutes=10)).isoformat(), "failures": {}}
            told.write_text(json.dumps({"mail/morning": record, "slack-webhook/wrong": record}))
            project_run(prefect, "The server lab cannot be reached: no route to host.")
            night = project_run(prefect, "video of P/305/five: failed\nP: 1 failed, 1 in progress")
            run(prefect, "five", "FAILED", "video of P/305/five: failed", below=night)
            run(prefect, "six", "COMPLETED", "It is locked by ada.", name="InProgress", below=night)
            run(prefect, "seven", "CRASHED", "sessionflow was stopped. It goes on in a new one.", name="CutOff")
            *mails, refused = await tell(told, start)
            assert mails == [
                "mail/morning: sessionflow: project P failed",
                "mail/morning: sessionflow: P/305/five failed",
            ]
            assert "cannot be reached" in mailbox.mails[0]
            assert refused.startswith("slack-webhook/wrong: ")
            assert "no service(s) to notify" in refused, "it says why"
            await tell(told, start + timedelta(days=1))
            assert "0 succeeded, 1 failed" in mailbox.mails[-1]
    finally:
        smtp.stop()
