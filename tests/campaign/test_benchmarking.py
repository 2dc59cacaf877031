"""Retrospective campaigns on a small pool: the real driver, store and acquisition, an oracle for DFT."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from command_line import campaign
from pyarrow import parquet
from retrospective import N_POOL, benchmark_document, write_benchmark, write_pool

from campaign.benchmarking.benchmark import run_benchmark
from campaign.benchmarking.config import load_benchmark
from campaign.benchmarking.pool_data import load_pool
from campaign.benchmarking.variants import checked, variant_documents
from campaign.components import check_components
from campaign.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The folder of a benchmark that has ended, and what it printed."""
    folder = tmp_path_factory.mktemp("benchmark")
    return folder / "small", list(run_benchmark(write_benchmark(folder)))


def outcome(folder: Path, variant: str, seed: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (folder / "campaigns" / variant / f"seed-{seed}" / "result.json").read_text()
    )
    return found


def found_by(folder: Path, variant: str, seed: int = 0) -> int:
    return sum(label["stable"] for label in outcome(folder, variant, seed)["labels"])


def pool_of(folder: Path) -> Any:
    return load_pool(next((folder / "prepared").glob("pool-*")))


def run_of(folder: Path, variant: str, seed: int = 0) -> RunFolder:
    return RunFolder(folder / "campaigns" / variant / f"seed-{seed}" / "run")


def test_every_variant_uses_its_budget(finished: tuple[Path, list[str]]) -> None:
    for variant in ("default", "frozen", "random", "oracle"):
        for seed in (0, 1):
            labels = outcome(finished[0], variant, seed)["labels"]
            assert len({label["candidate"] for label in labels}) == 12
            assert [label["round"] for label in labels] == sorted(place // 3 for place in range(12))


def test_the_oracle_labels_nothing_but_stable_crystals(finished: tuple[Path, list[str]]) -> None:
    pool = pool_of(finished[0])
    assert sum(above <= 0 for above in pool.e_above_hull.values()) >= 12
    assert found_by(finished[0], "oracle") == 12


def test_a_head_that_learns_from_labels_beats_one_that_does_not_and_chance(
    finished: tuple[Path, list[str]],
) -> None:
    found = {
        variant: sum(found_by(finished[0], variant, seed) for seed in (0, 1))
        for variant in ("default", "frozen", "random")
    }
    assert found["default"] > found["frozen"]
    assert found["default"] > found["random"]


def test_a_label_says_what_the_file_hid(finished: tuple[Path, list[str]]) -> None:
    pool = pool_of(finished[0])
    for label in outcome(finished[0], "random")["labels"]:
        assert label["e_above_hull"] == pytest.approx(pool.e_above_hull[label["candidate"]], abs=1e-9)
        assert label["stable"] is (label["e_above_hull"] <= 0)


def test_nobody_but_the_oracle_can_see_the_truth(finished: tuple[Path, list[str]]) -> None:
    """Neither the generator's file nor a document of a crystal without a label holds an energy of the file."""
    place = next((finished[0] / "prepared").glob("pool-*"))
    assert parquet.read_schema(place / "pool.parquet").names == ["lattice", "atomic_numbers", "frac_coords"]
    pool = pool_of(finished[0])
    run = run_of(finished[0], "default")
    with run.store() as store:
        waiting = list(store.query("candidates", {"state": "screened"}))
        flows = json.dumps(list(store.query("flows")))
    assert len(waiting) == N_POOL - 12
    for one in waiting:
        truths = (pool.truth[one["_id"]], pool.e_above_hull[one["_id"]])
        assert all(repr(truth) not in json.dumps(one) for truth in truths)
        assert "oracle" not in one["predictions"]
    assert all(repr(truth) not in flows for truth in pool.truth.values())


def test_models_that_do_not_learn_have_one_version(finished: tuple[Path, list[str]]) -> None:
    terms = {}
    for variant in ("default", "frozen"):
        with run_of(finished[0], variant).store() as store:
            terms[variant] = {one["term"] for one in store.query("models", {"key": {"$regex": "^head"}})}
    assert terms["frozen"] == {0}
    assert terms["default"] > {0}


def test_all_campaigns_begin_with_the_same_trained_head(finished: tuple[Path, list[str]]) -> None:
    heads = set()
    for variant in ("default", "random"):
        for seed in (0, 1):
            with run_of(finished[0], variant, seed).store() as store:
                first = next(iter(store.query("models", {"key": {"$regex": "^head"}, "term": 0})))
            assert "read from" in first["verdict"]
            heads.add(first["sha256"])
    assert len(heads) == 1


def test_a_benchmark_that_has_ended_runs_nothing_again(finished: tuple[Path, list[str]]) -> None:
    folder, _ = finished
    files = sorted(folder.glob("campaigns/*/*/result.json"))
    before = [file.stat().st_mtime_ns for file in files]
    printed = list(run_benchmark(folder.parent / "benchmark.yaml"))
    assert "8 of 8 campaigns have ended before" in printed
    assert [file.stat().st_mtime_ns for file in files] == before


def test_equal_seeds_choose_equal_labels_in_another_folder(
    finished: tuple[Path, list[str]], tmp_path: Path
) -> None:
    file = write_benchmark(
        tmp_path, seeds=1, policies={"default": {}, "random": {"acquisition.policy": "random"}}
    )
    list(run_benchmark(file, output=tmp_path / "again"))
    assert outcome(tmp_path / "again", "default")["labels"] == outcome(finished[0], "default")["labels"]


def test_what_was_prepared_may_be_moved(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    shutil.copytree(finished[0] / "prepared", tmp_path / "moved" / "prepared")
    models = sorted(path.name for path in (tmp_path / "moved" / "prepared" / "models").iterdir())
    list(run_benchmark(finished[0].parent / "benchmark.yaml", output=tmp_path / "moved"))
    assert sorted(path.name for path in (tmp_path / "moved" / "prepared" / "models").iterdir()) == models
    for variant in ("default", "random"):
        assert outcome(tmp_path / "moved", variant)["labels"] == outcome(finished[0], variant)["labels"]


def test_a_campaign_that_was_cut_off_is_carried_on(finished: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Its store is that of a driver that died after the second round."""
    shutil.copytree(finished[0].parent, tmp_path / "copy")
    folder = tmp_path / "copy" / "small"
    expected = outcome(finished[0], "oracle")["labels"]
    cut = folder / "campaigns" / "oracle" / "seed-0"
    (cut / "result.json").unlink()
    with run_of(folder, "oracle").store(read_only=False) as store:
        last = [one["_id"] for one in store.query("labels", {"round": 3})]
        for name in last:
            store.set_fields("labels", name, {"state": "queued", "result": None, "judged": False, "jobs": []})
        store.set_fields("campaigns", "small-oracle", {"state": "running"})
    printed = list(run_benchmark(finished[0].parent / "benchmark.yaml", output=folder))
    assert "7 of 8 campaigns have ended before" in printed
    assert outcome(folder, "oracle")["labels"] == expected


def test_the_report_holds_every_figure(finished: tuple[Path, list[str]]) -> None:
    folder, printed = finished
    report = json.loads((folder / "report.json").read_text())
    assert set(report["figures"]) == {"default", "frozen", "random", "oracle"}
    assert report["figures"]["oracle"]["area_over_ideal"]["value"] == 1.0
    assert report["figures"]["random"]["enhancement"]["value"] == 1.0
    assert report["paired"]["oracle"]["random"]["value"] > 1
    assert len(report["curves"]["default"]["stable"][0]) == 13
    page = (folder / "report.md").read_text()
    assert "| oracle | 12 (12 to 12) |" in page
    assert page.splitlines()[0] in printed
    assert (folder / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "<svg" in (folder / "report.svg").read_text()


def test_predictions_of_a_file_reach_candidates_as_the_screen_would_write_them(tmp_path: Path) -> None:
    rows = parquet.read_table(write_pool(tmp_path)).to_pylist()
    told = {
        "material_id": [one["material_id"] for one in rows],
        "e_above_hull": [0.001 * n for n in range(len(rows))],
    }
    parquet.write_table(pa.table(told), tmp_path / "told.parquet")
    policies = {"random": {"acquisition.policy": "random"}}
    file = write_benchmark(tmp_path, predictions="told.parquet", policies=policies, seeds=1)
    list(run_benchmark(file))
    pool = pool_of(tmp_path / "small")
    known = dict(zip(told["material_id"], told["e_above_hull"], strict=True))
    with run_of(tmp_path / "small", "random").store() as store:
        documents = list(store.query("candidates", fields=["predictions"]))
    assert len(documents) == N_POOL
    for one in documents:
        assert one["predictions"]["e_above_hull"] == known[pool.source_ids[one["_id"]]]


def test_the_surrogate_is_asked_once_for_all_campaigns(tmp_path: Path) -> None:
    document = benchmark_document()["campaign"] | {"surrogate": {"kind": "components:StillSurrogate"}}
    policies = {"default": {}, "random": {"acquisition.policy": "random"}}
    file = write_benchmark(tmp_path, predictions="surrogate", campaign=document, policies=policies, seeds=[4])
    list(run_benchmark(file))
    place = next((tmp_path / "small" / "prepared").glob("pool-*"))
    known = {
        one["candidate_id"]: one["values"]
        for one in json.loads(next(place.glob("screened-*.json")).read_text())
    }
    for variant in ("default", "random"):
        with run_of(tmp_path / "small", variant, 4).store() as store:
            for one in store.query("candidates", fields=["predictions"]):
                assert one["predictions"]["e_above_hull"] == known[one["_id"]]["e_above_hull"]
                assert one["predictions"]["surrogate"] == "still"


def test_campaigns_may_have_a_part_of_the_pool_each(tmp_path: Path) -> None:
    policies = {"default": {}, "random": {"acquisition.policy": "random"}}
    pool = {"file": "pool.parquet", "draw": 25}
    list(run_benchmark(write_benchmark(tmp_path, pool=pool, policies=policies)))
    drawn = {}
    for variant in policies:
        for seed in (0, 1):
            with run_of(tmp_path / "small", variant, seed).store() as store:
                drawn[variant, seed] = {one["_id"] for one in store.query("candidates", fields=["_id"])}
    assert {len(one) for one in drawn.values()} == {25}
    assert drawn["default", 0] == drawn["random", 0] != drawn["default", 1]


def test_a_surrogate_may_be_the_truth_for_what_generators_propose(tmp_path: Path) -> None:
    campaign_block = benchmark_document()["campaign"] | {
        "chemistry": {"elements": ["Ca", "Mg", "Si"], "n_elements": 2, "max_atoms": 4},
        "generators": [{"kind": "components:BinaryGenerator"}],
        "screen": [{"kind": "composition"}, {"kind": "duplicates"}],
        "surrogate": {"kind": "components:StillSurrogate"},
        "acquisition": {"policy": "greedy", "candidates_per_round": 10},
    }
    document = {"truth": "surrogate", "campaign": campaign_block, "seeds": 1, "labels": 6}
    policies = {"default": {}, "random": {"acquisition.policy": "random"}}
    changes = benchmark_document(**document, policies=policies)
    del changes["pool"]
    file = write_benchmark(tmp_path)  # its reference
    file.write_text(json.dumps(changes))
    list(run_benchmark(file))
    for variant in policies:
        labels = outcome(tmp_path / "small", variant)["labels"]
        assert len(labels) == 6
        assert all(label["e_above_hull"] is not None for label in labels)


def test_the_command_line_runs_a_benchmark_in_processes_of_its_own(tmp_path: Path) -> None:
    policies = {"default": {}, "random": {"acquisition.policy": "random"}}
    file = write_benchmark(tmp_path, policies=policies, seeds=1, keep_runs=False)
    ran = campaign("benchmark", file, "--workers", "2", "--output", tmp_path / "there")
    assert ran.code == 0, ran.err
    assert "# Benchmark small" in ran.out
    assert not list((tmp_path / "there").glob("campaigns/*/*/run"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": "chance"}, "baseline 'chance' is none of the policies"),
        (
            {"policies": {"random": {"labels.engine": "gpaw"}}},
            "labels.engine, which the benchmark decides itself",
        ),
        ({"policies": {"random": {"acquisition.polcy": "random"}}}, "did you mean 'policy'"),
        ({"policies": {"random": {"learn.heads": [{"kind": "wickoff"}]}}}, "'wickoff'"),
        ({"pool": {"file": "pool.parquet", "column": "energy"}}, "no such column"),
        ({"pool": {"file": "elsewhere.parquet"}}, "does not exist"),
        ({"truth": "surrogate"}, "truth: surrogate has none"),
        ({"policies": {"random": {"reference.exclude": ["CaSi"]}}}, "a variant changes the reference"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in campaign("benchmark", write_benchmark(tmp_path, **changes)).error
    assert not (tmp_path / "small" / "prepared" / "models").exists()  # told before anything is trained


def test_the_template_is_valid_once_its_files_are_there(tmp_path: Path) -> None:
    write_pool(tmp_path)
    file = tmp_path / "benchmark.yaml"
    assert "campaign benchmark" in campaign("init", file, "--template", "benchmark").out
    config = load_benchmark(file)
    chemistry = {"elements": ["Ca", "Mg", "Si"], "n_elements": [2, 2], "max_atoms": 4}
    documents = variant_documents(
        config, {"size": 60, "file": tmp_path / "pool.parquet", "chemistry": chemistry}
    )
    assert documents["camd_like"]["acquisition"]["explore_fraction"] == 0.5
    assert documents["camd_like"]["acquisition"]["backlog"] == 60


def test_the_example_is_valid() -> None:
    config = load_benchmark(Path(__file__).parents[2] / "examples" / "benchmark.yaml")
    documents = variant_documents(config, None)
    for name, document in documents.items():
        check_components(checked(document, name))
    assert documents["no_learning"]["learn"]["retrain"] is False
    assert documents["no_learning"]["generators"] == [{"kind": "substitution"}]


@pytest.mark.slow
def test_real_crystals_lie_as_far_above_the_hull_as_their_table_says(data_dir: Path, tmp_path: Path) -> None:
    campaign_block = {
        "reference": {
            "crystals": [str(data_dir / "mp_train.parquet")],
            "hull": [str(data_dir / "hull_reference.parquet")],
        },
        "learn": {"heads": [{"kind": "components:ElementHead"}], "discriminators": [], "max_reference": 2000},
    }
    pool = {"file": str(data_dir / "wbm_train.parquet"), "between": [-0.5, 1.5], "limit": 120}
    policies = {
        "default": {},
        "random": {"acquisition.policy": "random"},
        "oracle": {"acquisition": {"policy": "oracle", "diversity": "none"}},
    }
    file = write_benchmark(tmp_path, campaign=campaign_block, pool=pool, policies=policies, seeds=1)
    list(run_benchmark(file))
    folder = tmp_path / "small"
    known = {
        str(row["material_id"]): row["e_above_hull_ref"]
        for row in parquet.read_table(
            data_dir / "wbm_train.parquet", columns=["material_id", "e_above_hull_ref"]
        ).to_pylist()
    }
    source_ids = pool_of(folder).source_ids
    for label in outcome(folder, "default")["labels"]:
        assert label["e_above_hull"] == pytest.approx(known[source_ids[label["candidate"]]], abs=1e-6)
    assert found_by(folder, "oracle") == 12
