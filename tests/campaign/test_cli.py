"""The command line from the first command to the last: init, validate, launch, status, query, stop, resume."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import Ran, campaign, children_seconds, process, start
from mongo_server import MongoServer, free_port
from test_driver import small_campaign

from campaign.config import load_config
from campaign.lease import Owner, acquire, process_start
from campaign.run_folder import RunFolder
from campaign.store import COLLECTIONS
from campaign.templates import TEMPLATES
from campaign.versions import package_versions
from campaign.views.status import result_rows


def json_lines(ran: Ran) -> list[dict]:
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


# init and validate


@pytest.mark.parametrize("template", [name for name in TEMPLATES if name != "benchmark"])
def test_every_template_is_written_and_checked(template: str, tmp_path: Path):
    file = tmp_path / "campaign.yaml"
    ran = campaign("init", file, "--template", template)
    assert ran.code == 0
    assert f"campaign validate {file}" in ran.out
    config = load_config(file)
    ran = campaign("validate", file)
    if template == "parquet":  # it names files of the user's own
        assert "crystals.parquet" in ran.error
        return
    assert (ran.code, ran.err) == (0, "")
    assert f"rounds: {config.stop.rounds}" in ran.out
    assert f"engine {config.labels.engine}: " in ran.out
    tasks = re.search(r"a round: at most (.*) tasks; labels about ([\d.]+) core-hours", ran.out)
    assert tasks, ran.out
    counts = dict(part.split() for part in tasks[1].split(", "))
    assert int(counts["label"]) == config.acquisition.labels_per_round
    assert int(counts["sample"]) >= config.acquisition.candidates_per_round // config.batching.sample
    assert float(tasks[2]) > 0
    once = re.search(r"once: (\d+) reference labels, about ([\d.]+) core-hours", ran.out)
    assert once, ran.out
    assert int(once[1]) >= len(config.chemistry.elements)
    assert (float(once[2]) > 0) == (config.labels.engine == "gpaw")  # CHGNet's few phases round to nothing


def test_validate_writes_nothing(tmp_path: Path):
    file = small_campaign(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert campaign("validate", file).code == 0
    assert sorted(tmp_path.iterdir()) == before


def test_validate_counts_what_a_campaign_then_does(tmp_path: Path, run: RunFolder):
    """The expected number of tasks is an upper bound of what the same campaign submitted per round."""
    ran = campaign("validate", small_campaign(tmp_path))
    expected = {name: int(n) for name, n in re.findall(r"(sample|screen|score|label|train) (\d+)", ran.out)}
    with run.store() as store:
        usage = store.get("campaigns", "small")["usage"]
        labels = store.count("labels", {"purpose": "candidate"})
    assert usage["sample_tasks"] == 2 * expected["sample"]
    assert usage["screen_tasks"] <= 2 * expected["screen"]
    assert labels == 2 * expected["label"]


def test_schema_is_json_schema():
    schema = json.loads(campaign("schema").out)
    assert schema["additionalProperties"] is False
    assert "acquisition" in schema["properties"]


# launch


def test_launch_without_a_terminal_prints_plain_lines(launched: tuple[Ran, RunFolder]):
    out = launched[0].out
    assert "\x1b" not in out
    assert re.search(r"^\d\d:\d\d:\d\d  round_opened +round 0 begins$", out, re.MULTILINE)
    assert "labelled candidates [eV/atom]" in out
    assert "campaign finished: every round is complete" in out
    assert f"campaign status {launched[1].path}" in out


def test_the_final_table_holds_every_label(launched: tuple[Ran, RunFolder]):
    ran, run = launched
    with run.store() as store:
        rows = result_rows(store)
    table = ran.out[ran.out.index("labelled candidates") :]
    for row in rows:
        assert f"{row['e_above_hull']:+.3f}" in table


def test_quiet_prints_the_table_only(tmp_path: Path):
    file = small_campaign(tmp_path, stop={"rounds": 1}, acquisition={"labels_per_round": 1})
    ran = campaign("launch", file, "--pools", "threads", "--quiet", "--run-dir", tmp_path / "elsewhere")
    assert ran.code == 0
    assert "round_opened" not in ran.out
    assert "labelled candidates" in ran.out
    assert (tmp_path / "elsewhere" / "store.sqlite").exists()
    assert not (tmp_path / "small").exists()


# status


def test_status_shows_funnel_labels_and_best(run: RunFolder):
    ran = campaign("status", run.path)
    assert (ran.code, ran.err) == (0, "")
    for words in [
        "finished",
        "labelled 6",
        "rejected by",
        "done 6",
        "best",
        "eV/atom",
        "rounds",
        "core-hours",
    ]:
        assert words in ran.out
    assert "driver" not in ran.out, "nobody drives a finished campaign"


def test_status_as_json_agrees_with_the_store(run: RunFolder):
    found = json.loads(campaign("status", run.path, "--json").out)
    with run.store() as store:
        assert found["candidates"] == store.count_by("candidates", "state")
        assert found["labels"] == {"done": 6}
        best = result_rows(store)[0]
    assert found["state"] == "finished"
    assert found["driver"] is None
    assert found["best"][0]["label_id"] == best["label_id"]
    assert [row["selected"] for row in found["rounds"]] == [3, 3]


def test_run_may_be_the_yaml_that_was_launched(run: RunFolder):
    by_file = json.loads(campaign("status", run.path.parent / "campaign.yaml", "--json").out)
    by_folder = json.loads(campaign("status", run.path, "--json").out)
    assert by_file | {"seconds_since_update": 0} == by_folder | {"seconds_since_update": 0}


def test_status_and_stop_tell_that_a_driver_has_died(copied):
    run = copied()
    gone = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with run.store(read_only=False) as store:
        here = Owner.this_process()
        owner = Owner(here.host, gone.pid, here.user, process_start(gone.pid), here.machine)
        acquire(store, "small", owner)
        store.set_fields("campaigns", "small", {"state": "running"})
    assert f"process {gone.pid} on {here.host}" in campaign("status", run.path).out
    assert "asked the driver" in campaign("stop", run.path).out
    run.stop_file.unlink()
    gone.kill()
    gone.wait()
    assert "is gone" in campaign("status", run.path).out
    assert json.loads(campaign("status", run.path, "--json").out)["driver"]["live"] is False
    ran = campaign("stop", run.path)
    assert "is gone" in ran.out
    assert "campaign resume" in ran.out
    assert not run.stop_file.exists()


@pytest.mark.slow
def test_status_takes_less_than_a_second_with_10000_candidates(tmp_path: Path):
    from benchmarks.resume_time import fill

    folder = fill(tmp_path / "bench", 10_000)
    seconds = []
    for _ in range(3):
        begin = children_seconds()
        ran = process("status", folder.path, "--json")
        seconds.append(children_seconds() - begin)
        assert sum(json.loads(ran.out)["candidates"].values()) == 10_000
    assert min(seconds) < 1.0, seconds


# query


def test_query_filters_selects_sorts_and_limits(run: RunFolder):
    ran = campaign(
        "query", run.path, "labels", '{"purpose": "candidate", "result.e_above_hull": {"$lt": 0.0}}',
        "--fields", "formula,result.e_above_hull", "--sort", "-result.e_above_hull", "--limit", 3, "--json",
    )  # fmt: skip
    found = json_lines(ran)
    with run.store() as store:
        below = [row for row in result_rows(store) if row["e_above_hull"] < 0]
    wanted = sorted((row["e_above_hull"] for row in below), reverse=True)
    assert [one["result"]["e_above_hull"] for one in found] == wanted[:3]
    assert all(set(one) == {"_id", "formula", "result"} for one in found)
    left_out = len(wanted) - 3
    assert ran.err == (f"{left_out} more documents fit: --limit 0 shows all\n" if left_out else "")


def test_query_counts(run: RunFolder):
    with run.store() as store:
        by_state = store.count_by("candidates", "state")
    assert campaign("query", run.path, "candidates", "--count").out == f"{sum(by_state.values())}\n"
    assert campaign("query", run.path, "candidates", '{"state": "labelled"}', "--count").out == "6\n"
    counts = json_lines(campaign("query", run.path, "candidates", "--count-by", "state", "--json"))
    assert {row["state"]: row["count"] for row in counts} == by_state
    assert [row["count"] for row in counts] == sorted(by_state.values(), reverse=True)


def test_query_prints_whole_documents_or_a_table(run: RunFolder):
    (document,) = json_lines(campaign("query", run.path, "campaigns", "--json"))
    assert document["name"] == "small"
    assert document["versions"]["torch"] == package_versions()["torch"]
    table = campaign("query", run.path, "labels", "--fields", "formula,state").out
    assert table.count("done") == 9
    assert "formula" in table
    for collection in COLLECTIONS:
        assert campaign("query", run.path, collection, "--limit", 2).code == 0


def test_what_reads_changes_nothing(run: RunFolder, tmp_path: Path):
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()}
    target = tmp_path / "x.csv"
    for name, *rest in (
        ["status"],
        ["query", "labels"],
        ["stop"],
        ["export", "--format=csv", f"--output={target}"],
    ):
        assert campaign(name, run.path, *rest).code == 0
    after = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file()}
    assert {file for file in before if before[file] != after.get(file)} <= {run.path / "store.sqlite-shm"}


def test_query_into_a_closed_pipe_is_quiet(run: RunFolder):
    running = start("query", run.path, "candidates", "--json", "--limit", 0)
    running.stdout.close()
    assert "Traceback" not in running.stderr.read()
    running.wait()


# doctor


def test_doctor_says_what_works_and_ends_with_0():
    ran = campaign("doctor")
    assert (ran.code, ran.err) == (0, "")
    found = (
        "python",
        "torch",
        "packages together",
        "chgnet weights",
        "engine gpaw",
        "embedded store",
        "disk",
    )
    for words in found:
        assert words in ran.out


def test_doctor_ends_with_1_and_the_cure_for_what_does_not_work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("AWAY_URI", f"mongodb://me:secret@127.0.0.1:{free_port()}")
    ran = campaign("doctor", "--uri", "env:AWAY_URI", "--site", "nowhere.yaml")
    assert (ran.code, ran.err) == (1, "")
    (server,) = [line for line in ran.out.splitlines() if "mongodb" in line]
    assert "no" in server.split("│")[2]
    assert "start the server" in ran.out
    assert "there is no such site" in ran.out
    assert "secret" not in ran.out


def test_doctor_reaches_a_server(mongod: MongoServer):
    ran = campaign("doctor", "--uri", mongod.uri)
    assert ran.code == 0
    assert "writable" in ran.out


# help


def test_every_command_has_help():
    ran = campaign()
    assert ran.code == 0
    names = ("init", "validate", "schema", "launch", "resume", "status", "stop", "query", "export", "doctor")
    for name in names:
        assert name in ran.out
        assert campaign(name, "--help").code == 0


def test_help_comes_at_once():
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        process("--help")
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.5, seconds
