"""What only the embedded store has to stand: full disks, damaged files, several processes, forks, SQL short cuts."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import sqlite3
import subprocess
import threading
import time
from pathlib import Path

import pytest

from campaign.errors import StoreError, StoreFullError, StoreUnreachableError, StoreVersionError
from campaign.storage.search import Search
from campaign.storage.sqlite_documents import SqliteDocuments
from campaign.storage.sqlite_file import network_file_system
from campaign.storage.sqlite_pushdown import expression, push
from campaign.store import CampaignStore, StoreConfig

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def store(tmp_path):
    with CampaignStore.open(StoreConfig(), tmp_path) as opened:
        yield opened


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_full_disk_is_told_and_harms_nothing(store):
    store.insert_new("candidates", [{"_id": "a", "n": 1}])
    pages = store._documents.file.read("PRAGMA page_count")[0][0]
    store._documents.file.read(f"PRAGMA max_page_count = {pages + 20}")
    rows = [{"_id": f"b{i}", "text": "x" * 5000} for i in range(100)]
    for call in (
        lambda: store.insert_new("candidates", rows),
        lambda: store.put("candidates", {"_id": "a", "text": "x" * 500_000}),
        lambda: store.set_fields("candidates", "a", {"text": "x" * 500_000}),
    ):
        with pytest.raises(StoreFullError, match="no space"):
            call()
    assert list(store.query("candidates")) == [{"_id": "a", "n": 1}]
    store._documents.file.read("PRAGMA max_page_count = 1073741823")
    assert len(store.insert_new("candidates", rows)) == 100


def test_a_really_full_file_system(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    size = ["-t", "tmpfs", "-o", "size=2m", "tmpfs", str(mount)]
    if os.geteuid() or subprocess.run(["mount", *size], capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    try:
        with CampaignStore.open(StoreConfig(), mount) as store:
            stored = []
            with pytest.raises(StoreFullError):
                for i in range(1000):
                    store.put("candidates", {"_id": f"{i:04d}", "text": "x" * 5000})
                    stored.append(f"{i:04d}")
            assert len(stored) > 10
            assert [d["_id"] for d in store.query("candidates", fields=[])] == stored
        with CampaignStore.open(StoreConfig(), mount, read_only=True) as store:
            assert store.count("candidates") == len(stored)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_a_store_on_a_read_only_disk_can_be_read(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    tmpfs = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(mount)]
    if os.geteuid() or subprocess.run(tmpfs, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here (needs root)")
    try:
        with CampaignStore.open(StoreConfig(), mount) as store:
            store.put("candidates", {"_id": "a"})
        subprocess.run(["mount", "-o", "remount,ro", str(mount)], check=True)
        with CampaignStore.open(StoreConfig(), mount, read_only=True) as store:
            assert list(store.query("candidates")) == [{"_id": "a"}]
        with pytest.raises(StoreUnreachableError, match="permissions"):
            CampaignStore.open(StoreConfig(), mount).put("candidates", {"_id": "b"})
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)


def test_garbage_and_foreign_files_are_told_and_left_alone(tmp_path):
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(random.Random(1).randbytes(20_000))
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    before = {path: digest(path) for path in (garbage, foreign)}
    for path, message in ((garbage, "damaged or no store"), (foreign, "another program")):
        for read_only in (True, False):
            with pytest.raises(StoreError, match=message):
                CampaignStore.open(StoreConfig(path=path), tmp_path, read_only=read_only)
        assert digest(path) == before[path]


def test_a_torn_file_is_told(tmp_path):
    with CampaignStore.open(StoreConfig(), tmp_path) as store:
        store.insert_new("candidates", [{"_id": f"{i}", "text": "x" * 3000} for i in range(300)])
    path = tmp_path / "store.sqlite"
    data = bytearray(path.read_bytes())
    data[8192 : len(data) // 2] = b"\xff" * (len(data) // 2 - 8192)
    path.write_bytes(data)
    with pytest.raises(StoreError, match="damaged"), CampaignStore.open(StoreConfig(), tmp_path) as store:
        list(store.query("candidates"))


def test_a_newer_file_format_is_refused_and_left_alone(tmp_path):
    CampaignStore.open(StoreConfig(), tmp_path).close()
    path = tmp_path / "store.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    before = digest(path)
    for read_only in (True, False):
        with pytest.raises(StoreVersionError, match="99"):
            CampaignStore.open(StoreConfig(), tmp_path, read_only=read_only)
    assert digest(path) == before


def test_reading_creates_nothing(tmp_path):
    with pytest.raises(StoreUnreachableError, match="no store at this path"):
        CampaignStore.open(StoreConfig(), tmp_path / "none", read_only=True)
    assert not (tmp_path / "none").exists()
    CampaignStore.open(StoreConfig(), tmp_path).close()
    path = tmp_path / "store.sqlite"
    before = digest(path)
    with CampaignStore.open(StoreConfig(), tmp_path, read_only=True) as reader:
        assert reader.count("candidates") == 0
        assert list(reader.query("candidates", {"x": 1})) == []
        assert reader.get("candidates", "x") is None
    assert digest(path) == before


def test_no_permission_is_told(tmp_path):
    if os.geteuid() == 0:
        blocked = tmp_path / "file"
        blocked.write_text("")
        folder = blocked / "run"  # a file where a folder is needed: even root cannot write there
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
    with pytest.raises(StoreUnreachableError):
        CampaignStore.open(StoreConfig(), folder)


def test_closing_twice_and_using_it_after(store):
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get("candidates", "a")


def test_network_file_systems_are_warned_about(tmp_path, store):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "/dev/sda1 / ext4 rw 0 0\nserver:/home /home nfs4 rw 0 0\n"
        "/dev/sdb1 /home/local ext4 rw 0 0\n//nas/my\\040data /mnt/my\\040data cifs rw 0 0\n"
    )
    assert network_file_system(Path("/home/me/run/store.sqlite"), mounts) == "nfs4"
    assert network_file_system(Path("/home/local/store.sqlite"), mounts) is None
    assert network_file_system(Path("/mnt/my data/s.sqlite"), mounts) == "cifs"
    assert network_file_system(Path("/homes/x"), mounts) is None
    assert network_file_system(Path("/x"), tmp_path / "no-such-file") is None
    assert store.warnings() == []


def _insert(folder: Path, worker: int) -> None:
    with CampaignStore.open(StoreConfig(), folder) as store:
        for i in range(100):
            store.insert_new("candidates", [{"_id": f"{worker}-{i}", "state": "sampled"}])
            store.set_fields("candidates", "shared", {f"by{worker}": i})


def test_processes_share_a_file(tmp_path, store):
    store.put("candidates", {"_id": "shared"})
    workers = [SPAWN.Process(target=_insert, args=(tmp_path, worker)) for worker in range(3)]
    for worker in workers:
        worker.start()
    with CampaignStore.open(StoreConfig(), tmp_path, read_only=True) as reader:
        seen = [0]
        while any(worker.is_alive() for worker in workers):
            seen.append(reader.count("candidates", {"state": "sampled"}))
            time.sleep(0.01)
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert seen == sorted(seen)
    assert store.count_by("candidates", "state") == {"sampled": 300, None: 1}
    assert store.get("candidates", "shared") == {"_id": "shared", "by0": 99, "by1": 99, "by2": 99}


def _open(folder: Path) -> None:
    CampaignStore.open(StoreConfig(), folder).close()


def test_processes_may_create_the_store_at_once(tmp_path):
    workers = [SPAWN.Process(target=_open, args=(tmp_path / "new",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4


def test_a_forked_child_has_its_own_connection(tmp_path, store):
    store.put("candidates", {"_id": "parent"})
    pid = os.fork()
    if pid == 0:
        try:
            store.put("candidates", {"_id": "child"})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    store.put("candidates", {"_id": "after"})
    assert [d["_id"] for d in store.query("candidates")] == ["parent", "child", "after"]


def test_a_heartbeat_thread_writes_while_the_main_thread_does(store):
    store.put("rounds", {"_id": "beat", "n": 0})
    stop = threading.Event()
    beats = []

    def beat() -> None:
        while not stop.is_set():
            store.set_fields("rounds", "beat", {"n": len(beats)})
            beats.append(time.monotonic())

    thread = threading.Thread(target=beat)
    thread.start()
    for i in range(20):
        store.insert_new("candidates", [{"_id": f"{i}-{j}", "text": "x" * 500} for j in range(100)])
        list(store.query("candidates", {"text": "y"}))
    stop.set()
    thread.join()
    assert len(beats) > 5
    assert store.count("candidates") == 2000


def test_indexes_answer_documented_questions(store):
    file = store._documents.file
    store.insert_new("candidates", [{"_id": str(i), "state": "screened", "score": i / 7} for i in range(50)])
    for criteria in ({"state": "screened"}, {"score": {"$gt": 3}}, {"formula": {"$in": ["CaO", "TiO2"]}}):
        pushed = push(criteria, lambda field: True)
        plan = file.read(
            f'EXPLAIN QUERY PLAN SELECT row FROM "candidates" WHERE {pushed.sql}', pushed.parameters
        )
        assert all("USING INDEX ix:candidates" in row[3] for row in plan if "candidates" in row[3]), plan
    by_score = f'EXPLAIN QUERY PLAN SELECT row FROM "candidates" ORDER BY {expression("score")} DESC LIMIT 10'
    assert "ix:candidates:score" in file.read(by_score)[0][3]


def test_a_misread_value_switches_the_short_cut_off(tmp_path):
    documents = SqliteDocuments(tmp_path / "s.sqlite")
    documents.ensure_index("c", "a")
    documents.ensure_index("c", "p.q")
    documents.put("c", [{"_id": str(i), "a": i, "p": {"q": "x"}} for i in range(5)])
    assert documents._usable("c", "a")
    documents.put("c", [{"_id": "list", "a": [3, 9], "p": [{"q": "x"}, {"q": "y"}]}])
    assert not documents._usable("c", "a")
    assert [d["_id"] for d in documents.find("c", Search({"a": 3}))] == ["3", "list"]
    assert [d["_id"] for d in documents.find("c", Search({"p.q": "y"}))] == ["list"]
    assert next(documents.find("c", Search(sort=[("a", -1)])))["_id"] == "list"
    documents.put("c", [{"_id": "list", "a": True, "p": {}}])
    assert documents.count("c", {"a": 1}) == 1
    documents.put("c", [{"_id": "list", "a": 7, "p": {}}])
    assert documents._usable("c", "a")
    documents.close()


def test_numbers_with_many_digits_are_found(tmp_path):
    documents = SqliteDocuments(tmp_path / "s.sqlite")
    documents.ensure_index("c", "x")
    draw = random.Random(3)
    numbers = [draw.uniform(-1, 1) * 10.0 ** draw.randint(-300, 300) for _ in range(500)]
    documents.put("c", [{"_id": f"{i:03d}", "x": x} for i, x in enumerate(numbers)])
    for i, x in enumerate(numbers):
        assert [d["_id"] for d in documents.find("c", Search({"x": x}))] == [f"{i:03d}"]
    assert documents.count("c", {"x": {"$gte": 0}}) == sum(x >= 0 for x in numbers)
    documents.close()


def test_status_is_fast_with_many_candidates(tmp_path):
    """The counts that `campaign status` shows come from the indexes."""
    with CampaignStore.open(StoreConfig(), tmp_path) as store:
        pad = "x" * 4000
        store.insert_new(
            "candidates",
            [{"_id": f"{i}", "state": "abc"[i % 3], "score": i / 9, "structure": pad} for i in range(10_000)],
        )
    with CampaignStore.open(StoreConfig(), tmp_path, read_only=True) as store:
        started = time.perf_counter()
        assert sum(store.count_by("candidates", "state").values()) == 10_000
        assert store.count("candidates", {"state": "a"}) == 3334
        assert len(list(store.query("candidates", {}, ["score"], [("score", -1)], limit=5))) == 5
        assert time.perf_counter() - started < 0.5
