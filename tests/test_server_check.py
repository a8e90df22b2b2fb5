"""`sessionflow server check`: the whole way to a real cluster, and what is said at each place where it can end."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from flows.wishes import wishes, wishes_in
from tasks.client import connected
from tasks.server_check import clock, versions
from tasks.servers import Server
from tasks.transport import LocalChannel
from tests.cluster import Cluster
from tests.conftest import SESSION, make_session
from tests.sshd import Sshd, make_key
from trackers.check import Finding, Group, Wish, check
from trackers.check_slurm import slurm
from trackers.check_volumes import Mount, locks, mount_of, parse_mounts, parse_quota, quota, room, writable
from trackers.errors import UnreachableError
from trackers.layout import Volumes
from trackers.names import ProcessingPipelines
from trackers.site import Site, SlurmOptions

ROOT = Path(__file__).parents[1]
StartCluster = Callable[..., Cluster]


def described(sshd: Sshd, folder: Path, **more: object) -> Path:
    """Write the description of a server whose own side is the one of these tests; return the file."""
    way = {"host": sshd.host, "port": sshd.port, "user": sshd.account, "key_file": str(sshd.key_file)}
    side = {"core": {"python": sys.executable, "activate": f"export PYTHONPATH={ROOT}"}}
    jobs = dict.fromkeys(("manifest", "behavior"), side["core"])
    (folder / "storage").mkdir(exist_ok=True)
    fields = {**way, "known_hosts_file": str(sshd.known_hosts_file), "storage_root": str(folder / "storage")}
    file = folder / "server.yaml"
    file.write_text(yaml.safe_dump({**fields, "environments": {**side, **jobs}, **more}))
    return file


def checked(server: Path | str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `sessionflow server check`."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}
    command = [sys.executable, "-m", "flows.cli", "server", "check", str(server)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def results(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return each step's result."""
    lines = [line for line in done.stdout.splitlines()[:-1] if line[:1].strip()]
    return {line[9:31].strip(): line[:9].strip() for line in lines}


def test_a_login_that_prints_before_our_first_word_hides_no_answer(
    own_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    (tmp_path / ".bashrc").write_text("printf '\\033]0;cluster\\007Welcome, {you}! '\n")  # no end of line
    server = described(own_sshd(environment={"HOME": str(tmp_path)}), tmp_path)
    found = results(checked(server))
    assert (found["Python"], found["server side"], found["storage volume"]) == ("ok", "ok", "ok")
    command = [sys.executable, "-m", "flows.cli", "status", "Project", "--server", str(server)]
    make_session(tmp_path / "storage")
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=50, check=False
    )
    assert SESSION in done.stdout, done.stderr


async def test_a_server_side_that_never_speaks_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(LocalChannel):
        async def send(self, line: bytes) -> None:
            pass

    monkeypatch.setattr("tasks.client.open_channel", lambda _server: Silent.open())
    monkeypatch.setattr("tasks.client.GREETING_SECONDS", 0.2)
    monkeypatch.setattr("tasks.client.FIRST_SECONDS", 1.0)
    async with connected(Server(storage_root=str(tmp_path))) as client:
        with pytest.raises(UnreachableError, match="did not say who it is within"):
            await client.ask("hello")


@pytest.mark.slow
def test_on_a_cluster_with_accounting_everything_is_well(own_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = own_cluster(accounting=True)
    cluster.command("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=10")
    lowered = {"multiday": {"maximum_memory_gb": 200}}
    done = checked(described(cluster.sshd, tmp_path, scheduler="slurm", resources=lowered))
    assert done.returncode == 0, done.stdout + done.stderr
    found = results(done)
    assert found.pop("environments") == "skipped"  # those of the science pipelines are not installed
    assert set(found.values()) == {"ok"}, done.stdout
    assert cluster.sshd.logins == 1
    assert "10 for account lab" in done.stdout
    assert "2 × 64 cores, 210 GB" in done.stdout
    assert "slurm-wlm" in done.stdout
    assert not cluster.command("squeue", "--noheader")  # nothing was submitted
    assert not list((tmp_path / "storage").iterdir())


@pytest.mark.slow
def test_what_a_site_does_not_allow_is_said_with_what_to_do(own_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = own_cluster(
        slurm_conf={"PrivateData": "jobs"},
        slurm_lines=(
            "PartitionName=short Nodes=node1 MaxTime=60 State=UP",
            "PartitionName=closed Nodes=node1 AllowGroups=no-such-group State=UP",
        ),
    )
    short = checked(described(cluster.sshd, tmp_path, scheduler="slurm", slurm={"partition": "short"}))
    assert short.returncode == 1
    assert "suite2p/plane-0 asks for 180 min, and short allows 60" in short.stdout
    assert results(short)["other accounts' jobs"] == "warning"
    assert results(short)["accounting"] == "warning"
    lowered = {pipeline.name.lower(): {"minutes": 60} for pipeline in ProcessingPipelines}
    mended = checked(
        described(cluster.sshd, tmp_path, scheduler="slurm", slurm={"partition": "short"}, resources=lowered)
    )
    assert mended.returncode == 0, mended.stdout
    assert results(mended)["jobs"] == "warning"  # retries may not go as far as they may elsewhere
    closed = checked(described(cluster.sshd, tmp_path, scheduler="slurm", slurm={"partition": "closed"}))
    assert "it is for the groups no-such-group" in closed.stdout
    assert "this account can use: main, short" in closed.stdout
    assert results(closed)["jobs"] == "skipped"
    wrong = checked(described(cluster.sshd, tmp_path, scheduler="slurm", slurm={"options": ["--constraint=avx512"]}))
    assert "Invalid feature specification" in wrong.stdout
    assert "its `partition`, or one of its `options`" in wrong.stdout
    assert "memory_gb" not in wrong.stdout


@pytest.mark.slow
def test_each_refusal_of_slurm_names_the_field_to_correct_and_a_limit_is_no_failure(
    own_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = own_cluster(accounting=True)
    monkeypatch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])

    def found(memory_gb: float = 1.0, **options: str) -> Finding:
        site = Site(Volumes(tmp_path, tmp_path), "slurm", slurm=SlurmOptions(**options))
        wish = Wish("behavior", 1, memory_gb, 10, 0)
        return next(each for each in slurm(site, [wish]) if each.step == "jobs")

    wrong = found(account="lba")
    assert (wrong.result, "Invalid account" in wrong.words) == ("failure", True)
    assert wrong.remedy == "Correct `slurm: account` in the description; this account can use: lab, root."
    wrong = found(qos="hihg")
    assert (wrong.result, "Invalid qos" in wrong.words) == ("failure", True)
    assert wrong.remedy == "Correct `slurm: qos` in the description; this account can use: normal."
    large = found(memory_gb=5000.0)
    assert (large.result, "1 core, 5000 GB" in large.words) == ("failure", True)
    assert large.remedy.startswith("Lower it in the description")
    cluster.command("sacctmgr", "-i", "modify", "user", "root", "set", "MaxSubmitJobs=1")
    cluster.submit("true", "--hold")
    limited = found()
    assert (limited.result, "AssocMaxSubmitJobLimit" in limited.words) == ("warning", True)
    assert "Jobs wait their turn" in limited.remedy


def test_a_controller_that_is_away_skips_what_depends_on_it(own_cluster: StartCluster, tmp_path: Path) -> None:
    cluster = own_cluster()
    cluster.wrap("scontrol", "echo 'slurm_load_ctl_conf error: Unable to contact slurm controller' >&2; exit 1")
    done = checked(described(cluster.sshd, tmp_path, scheduler="slurm"))
    assert done.returncode == 1
    found = results(done)
    assert found["Slurm controller"] == "failure"
    assert [found[step] for step in ("partition", "jobs", "submit limits", "accounting")] == ["skipped"] * 4
    assert "Unable to contact slurm controller" in done.stdout


@pytest.mark.parametrize("fault", ["name", "connection", "host key", "login", "server side"])
def test_the_way_ends_where_it_ends_and_the_rest_is_skipped(
    own_sshd: Callable[..., Sshd], tmp_path: Path, fault: str
) -> None:
    server = own_sshd()
    empty = tmp_path / "empty"
    empty.touch()
    changes: dict[str, dict[str, object]] = {
        "name": {"host": "no-such-host.invalid"},
        "connection": {"port": 1},
        "host key": {"known_hosts_file": str(empty)},
        "login": {"key_file": str(make_key(tmp_path / "stranger"))},
        "server side": {"environments": {"core": {"python": "/does/not/exist/python"}}},
    }
    done = checked(described(server, tmp_path, **changes[fault]), SSH_AUTH_SOCK="", HOME=str(tmp_path))
    found = results(done)
    assert done.returncode == 1, done.stdout
    steps = list(found)
    assert found[fault] == "failure", done.stdout
    assert set(list(found.values())[: steps.index(fault)]) <= {"ok"}
    assert set(list(found.values())[steps.index(fault) + 1 :]) == {"skipped"}
    remedies = {"name": "VPN", "connection": "ProxyJump", "host key": "ssh-keyscan", "login": "authorized_keys"}
    assert remedies.get(fault, "`environments: core`") in done.stdout


def test_an_activation_that_fails_is_not_taken_for_a_missing_python(
    own_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    core = {"core": {"activate": "module load nothing-of-that-name"}}
    file = described(own_sshd(), tmp_path, environments=core)
    said = " ".join(checked(file).stdout.split())
    assert "warning Python could not be looked for" in said
    assert "`environments: core`, or the account's shell) failed: bash: line 2: module: command not found" in said
    assert "uv python" not in said


def test_a_site_that_takes_passwords_is_given_the_key_by_one(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    server = own_sshd(authentication="password")
    stranger = make_key(tmp_path / "stranger")
    done = checked(described(server, tmp_path, key_file=str(stranger)), SSH_AUTH_SOCK="", HOME=str(tmp_path))
    assert results(done)["login"] == "failure", done.stdout
    assert f"ssh-copy-id -i {stranger}.pub -p {server.port}" in " ".join(done.stdout.split())
    assert "interactive_login: true" in done.stdout


def test_a_jump_host_that_lets_nobody_in_is_the_one_to_be_given_a_key(
    own_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    outer, server = own_sshd(authentication="password"), own_sshd()
    (tmp_path / ".ssh").mkdir()
    known = f"UserKnownHostsFile {outer.known_hosts_file}"
    lines = f"Host outer\n  HostName {outer.host}\n  Port {outer.port}\n  User {outer.account}\n  {known}\n"
    (tmp_path / ".ssh" / "config").write_text(f"{lines}Host {server.host}\n  ProxyJump outer\n")
    done = checked(described(server, tmp_path), SSH_AUTH_SOCK="", HOME=str(tmp_path))
    said = " ".join(done.stdout.split())
    assert results(done)["login"] == "failure", done.stdout
    assert f"known for {outer.host}:{outer.port}" in said
    assert f"-p {outer.port} {outer.account}@{outer.host}" in said


def test_a_key_file_that_is_not_there_is_to_be_corrected(own_sshd: Callable[..., Sshd], tmp_path: Path) -> None:
    done = checked(described(own_sshd(), tmp_path, key_file=str(tmp_path / "mine")), HOME=str(tmp_path))
    assert results(done)["login"] == "failure", done.stdout
    assert "Correct `key_file` in the description" in done.stdout


def test_a_site_with_one_time_passwords_says_that_somebody_has_to_log_in(
    own_sshd: Callable[..., Sshd], tmp_path: Path
) -> None:
    server = own_sshd(authentication="keyboard-interactive")
    done = checked(described(server, tmp_path, name="lab", interactive_login=True), HOME=str(tmp_path))
    assert results(done)["login"] == "failure", done.stdout
    assert "sessionflow server login lab" in done.stdout


def test_this_computer_is_checked_without_a_server(tmp_path: Path) -> None:
    done = checked("local", SESSIONFLOW_STORAGE=str(tmp_path))
    assert results(done)["storage volume"] == "ok", done.stdout + done.stderr
    assert "host key" not in results(done)
    missing = checked("local", SESSIONFLOW_STORAGE=str(tmp_path / "none"))
    assert missing.returncode == 1
    assert results(missing)["storage locks"] == "skipped"


def test_an_environment_without_what_its_jobs_need_is_a_failure(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    site = Site.from_json(
        {"storage": str(tmp_path), "environments": {"behavior": {"python": str(bare / "bin" / "python")}}}
    )
    found = {each["step"]: each for each in check(site, [])}
    assert found["environment behavior"]["result"] == "failure"
    assert "No module named" in found["environment behavior"]["words"]
    assert found["environment core"]["result"] == "ok"


def test_a_volume_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    assert writable("storage", tmp_path / "none").result == "failure"
    (tmp_path / "file").touch()
    assert "is no folder" in writable("storage", tmp_path / "file").words
    assert writable("storage", Path("/proc")).result == "failure"
    assert writable("storage", tmp_path).result == "ok"


def test_a_volume_that_hangs_holds_nobody_up_and_what_was_found_before_stays() -> None:
    def steps() -> Iterator[Finding]:
        yield Finding("storage volume", "ok", "there")
        time.sleep(62)

    before, late = Group("storage volume", 0.2, steps).findings()
    assert before.result == "ok"
    assert (late.result, late.words) == ("failure", "no answer within 0.2 s")


def test_locks_that_other_nodes_do_not_see_are_a_warning(tmp_path: Path) -> None:
    assert locks("working", tmp_path, None).result == "ok"
    alone = locks("working", tmp_path, Mount("/work", "nfs4", frozenset({"rw", "local_lock=flock"})))
    assert alone.result == "warning"
    assert "local_lock=flock" in alone.words


def test_the_mount_of_a_path_is_the_innermost_and_the_latest() -> None:
    mounts = parse_mounts(
        "rootfs / rootfs rw 0 0\n"
        "/dev/vda / ext4 rw,relatime 0 0\n"
        "nas:/lab /mnt/lab\\040data nfs4 rw,local_lock=none 0 0\n"
        "tmpfs /mnt tmpfs rw 0 0\n"
    )
    assert (found := mount_of("/mnt/lab data/storage", mounts))
    assert (found.point, found.kind) == ("/mnt/lab data", "nfs4")
    assert (other := mount_of("/mnt/labels", mounts))
    assert other.kind == "tmpfs"
    assert (root := mount_of("/home", mounts))
    assert root.kind == "ext4"


def test_room_counts_bytes_and_inodes() -> None:
    def state(free: int, inodes: int, free_inodes: int) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 1000, free, free, inodes, free_inodes, free_inodes, 0, 255))

    assert room("working", state(500, 1000, 500)).result == "ok"
    assert room("working", state(80, 1000, 500)).result == "warning"
    assert room("working", state(500, 1000, 5)).result == "failure"
    assert "inodes without a limit" in room("working", state(500, 0, 0)).words


def test_quotas_are_read_with_the_hard_limit_where_there_is_one() -> None:
    text = (
        "Disk quotas for user me (uid 1000): \n"
        "     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
        "      /dev/sdb1 1835008* 1048576 2097152 1700000000      31       0       0       0\n"
        "       nas:/lab    4096       0       0       0       9      10      10       0\n"
        "       nas:/any    4096       0       0       0       9       0       0       0\n"
    )
    full, files = parse_quota(text)
    assert (full.filesystem, full.used_kib, full.limit_kib) == ("/dev/sdb1", 1835008, 2097152)
    assert quota("storage", full).result == "ok"
    assert quota("storage", files).result == "warning"
    assert parse_quota("Disk quotas for user nobody (uid 65534): no limited resources used\n") == []
    (lustre,) = parse_quota("     /lustre  900  0  1000  -  5  0  0  -\n")
    assert quota("storage", lustre).result == "warning"


def test_what_jobs_ask_for_is_read_from_the_pipelines_and_changed_by_the_server() -> None:
    plain = {wish["label"]: wish for wish in wishes(Server(storage_root="/data"))}
    assert {label.split("/")[0] for label in plain} >= {"checksum", "preparation", "behavior", "archiving", "manifest"}
    server = Server.model_validate(
        {"storage_root": "/data", "resources": {"behavior": {"memory_gb": 64}, "behavior/encoder": {"cpus": 30}}}
    )
    changed = {wish["label"]: wish for wish in wishes(server)}
    assert changed["behavior"]["memory_gb"] == 64
    assert (changed["behavior/encoder"]["cpus"], changed["behavior/encoder"]["memory_gb"]) == (30, 64)
    text = 'Job(f"plane-{p}", ["x"], Resources(cpus=30, memory_gb=80, minutes=180))'
    (wish,) = wishes_in("suite2p", text)
    assert (wish.label, wish.resources.cpus) == ("suite2p/plane-0", 30)


def test_every_pipeline_that_asks_for_something_is_seen() -> None:
    for path in (ROOT / "flows").glob("*.py"):
        if "Resources(" in path.read_text() and path.stem != "wishes":
            assert wishes_in(path.stem, path.read_text()), path.name


def test_a_clock_that_is_off_is_a_warning_a_slow_answer_is_not() -> None:
    assert clock({"time": 1003.0}, asked=1000.0, took=6.0).result == "ok"
    behind = clock({"time": 400.0}, asked=1000.0, took=0.1)
    assert (behind.result, "600 s behind" in behind.words) == ("warning", True)
    assert "ahead" in clock({"time": 4600.0}, asked=1000.0, took=0.1).words
    assert clock({}, asked=1000.0, took=0.1).result == "skipped"


def test_each_environment_of_another_version_is_named() -> None:
    hello = {"version": "0.0.1", "python": "3.11.2", "executable": "python", "host": "login"}
    found = versions({**hello, "environments": {"behavior": "0.0.2"}}, Server(storage_root="/data"))
    assert [(each.step, each.result) for each in found] == [
        ("server side", "warning"),
        ("version of behavior", "warning"),
    ]


def test_commands_about_servers_need_no_prefect_and_no_paramiko(tmp_path: Path) -> None:
    program = "import sys, flows.cli_server\nprint([name for name in ('prefect', 'paramiko') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
