from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaign.errors import SiteError
from campaign.site import POOLS, Site, gpus_visible, labels_on_one_machine, load_site, pool_of, size_pools

CHECKOUT = Path(__file__).parent.parent.parent


def _write(folder: Path, text: str) -> str:
    (folder / "site.yaml").write_text(text, encoding="utf-8")
    return "site.yaml"


def test_local_needs_no_file(tmp_path: Path) -> None:
    assert load_site("local", tmp_path) == Site()


def test_the_shipped_local_site_says_what_the_code_says() -> None:
    assert load_site(str(CHECKOUT / "deploy" / "sites" / "local.yaml"), CHECKOUT) == Site()


def test_a_site_file_is_read_beside_the_campaign(tmp_path: Path) -> None:
    text = "pools: {dft: {workers: 3, cores_per_worker: 2}}\nworker_init: ['source env.sh']\n"
    site = load_site(_write(tmp_path, text), tmp_path)
    assert (site.name, site.pools.dft.workers, site.worker_init) == ("site", 3, ("source env.sh",))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("pools: {dft: {worker: 3}}", ["pools.dft.worker: unknown key", "workers", "cores_per_worker"]),
        ("pools: {fft: {workers: 3}}", ["pools.fft: unknown key", "allowed: cpu, dft, gpu"]),
        ("provider: sge", ["provider", "got 'sge'", "allowed: local, slurm"]),
        ("pools: {dft: {workers: 0}}", ["pools.dft.workers", "got 0"]),
        ("pools: {dft: {workers: many}}", ["pools.dft.workers", "got 'many'"]),
        ("parsl_config: my/config.py", ["parsl_config", "got 'my/config.py'"]),
        ("colour: red", ["colour: unknown key", "allowed:"]),
        ("pools: {dft: {partition: x}}", ["pool dft: partition: for blocks of a batch system", "`provider`"]),
        ("provider: slurm\nbatch: {walltime: 240}", ["batch.walltime", "got 240", "90 min"]),
        ("provider: slurm\nbatch: {walltime: 10 s}", ["batch.walltime", "at least a minute"]),
        ("provider: slurm\nbatch: {queue: x}", ["batch.queue: unknown key", "partition"]),
        ("provider: slurm\nbatch: {partition: a b}", ["batch.partition", "got 'a b'"]),
        ("provider: slurm\nbatch: {min_blocks: 2}", ["min_blocks 2 is more than max_blocks 1"]),
        (
            "provider: slurm\npools: {dft: {walltime: 5 min, grace_s: 300}}",
            ["leaves nothing of the walltime"],
        ),
        ("provider: kubernetes", ["provider kubernetes needs `kubernetes: {image: ...}`"]),
        ("provider: slurm\npools: {dft: {ranks_per_task: 3, nodes_per_block: 2}}", ["do not spread evenly"]),
        ("- 1", ["not a table of settings"]),
        ("a: [1", ["cannot be read as YAML"]),
        ("a: !!python/object/apply:os.system ['touch /tmp/owned']", ["cannot be read as YAML"]),
    ],
)
def test_a_faulty_site_file_is_one_line(tmp_path: Path, text: str, told: list[str]) -> None:
    with pytest.raises(SiteError) as caught:
        load_site(_write(tmp_path, text), tmp_path)
    line = str(caught.value)
    assert "\n" not in line
    assert "cure:" in line or "allowed:" in line
    for words in told:
        assert words in line


def test_a_missing_site_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(SiteError, match="there is no such site"):
        load_site("cluster.yaml", tmp_path)


@pytest.mark.parametrize(
    ("cores", "gpus", "expected"),
    [
        (1, (), (1, 1, 1)),
        (2, (), (1, 1, 2)),
        (4, (), (1, 1, 3)),
        (8, (), (1, 2, 7)),
        (64, ("0", "1", "2", "3"), (4, 16, 63)),
    ],
)
def test_sizes_follow_the_cores(cores: int, gpus: tuple[str, ...], expected: tuple[int, ...]) -> None:
    sizes = size_pools(Site(), cores, gpus)
    assert tuple(sizes[name].workers for name in POOLS) == expected
    assert sizes["gpu"].accelerators == gpus
    assert sizes["dft"].accelerators == ()
    assert all(size.rule for size in sizes.values())


@given(cores=st.integers(1, 512), per_task=st.integers(1, 64), n_gpus=st.integers(0, 8))
def test_every_pool_has_a_worker_and_dft_never_takes_more_than_there_is(
    cores: int, per_task: int, n_gpus: int
) -> None:
    site = Site.model_validate({"pools": {"dft": {"cores_per_worker": per_task}}})
    sizes = size_pools(site, cores, tuple(str(i) for i in range(n_gpus)))
    assert all(size.workers >= 1 for size in sizes.values())
    assert sizes["dft"].workers == 1 or sizes["dft"].workers * per_task <= cores
    assert sizes["gpu"].workers == max(1, n_gpus)


@pytest.mark.parametrize(
    ("pool", "told"),
    [
        ({"accelerators": 2}, "not as many GPUs"),
        ({"accelerators": ["7"]}, "not seen here"),
        ({"workers": 3, "accelerators": "auto"}, "a GPU of its own"),
    ],
)
def test_gpus_that_are_not_there_are_refused(pool: dict[str, object], told: str) -> None:
    with pytest.raises(SiteError, match=told):
        size_pools(Site.model_validate({"pools": {"gpu": pool}}), 8, ("0",))


def test_a_gpu_pool_of_many_workers_runs_on_the_cpu_where_there_is_no_gpu() -> None:
    site = Site.model_validate({"pools": {"gpu": {"workers": 3, "accelerators": "auto"}}})
    assert size_pools(site, 8, ())["gpu"].workers == 3


def test_gpus_are_seen_without_torch(tmp_path: Path) -> None:
    assert gpus_visible({}, tmp_path) == ()
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert gpus_visible({}, tmp_path) == ("0", "1", "2")
    assert gpus_visible({"CUDA_VISIBLE_DEVICES": "1, 10"}, tmp_path) == ("1", "10")
    assert gpus_visible({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == ()
    assert gpus_visible({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == ()


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("4:00:00", 14400), ("'04:00:00'", 14400), ("0:30", 1800), ("1-12:00:00", 129600), ("90 min", 5400),
        ("1.5 h", 5400), ("2 d", 172800), ("45 minutes", 2700), ("12h", 43200),
    ],
)  # fmt: skip
def test_walltimes_are_written_as_people_write_them(tmp_path: Path, written: str, seconds: float) -> None:
    """Also 4:00:00 without quotes, which YAML 1.1 reads as a number to the base of 60."""
    site = load_site(_write(tmp_path, f"provider: slurm\nbatch: {{walltime: {written}}}\n"), tmp_path)
    assert site.batch.walltime == seconds
    assert pool_of(site, "gpu").walltime == seconds
    assert Site.model_validate(site.model_dump()) == site


def test_keys_of_blocks_are_given_once_and_a_pool_wins(tmp_path: Path) -> None:
    text = """
provider: slurm
batch: {account: p1, partition: main, max_blocks: 4}
pools:
  cpu: {provider: local}
  dft: {partition: cpu, nodes_per_block: 2, workers: 8}
"""
    site = load_site(_write(tmp_path, text), tmp_path)
    gpu, cpu, dft = (pool_of(site, name) for name in POOLS)
    assert (gpu.provider, gpu.partition, gpu.account, gpu.max_blocks) == ("slurm", "main", "p1", 4)
    assert (dft.partition, dft.account, dft.exclusive, dft.walltime) == ("cpu", "p1", False, 14400)
    assert cpu.provider == "local"
    sizes = size_pools(site, 2, ())
    assert (sizes["dft"].slots, sizes["dft"].cores_per_node, sizes["cpu"].slots) == (64, 8, 1)


@pytest.mark.parametrize(
    ("pool", "devices", "cores"),
    [
        ({"gpus_per_node": 2}, ("0", "1"), 2),
        ({"gres": "gpu:a100:4", "cores_per_worker": 8}, ("0", "1", "2", "3"), 32),
        ({"gres": "gpu:3"}, ("0", "1", "2"), 3),
        ({"gres": "gpu:3", "accelerators": 0}, (), 1),
        ({"accelerators": 2}, ("0", "1"), 2),
        ({"accelerators": ["0,1", "2,3"], "gpus_per_node": 4}, ("0,1", "2,3"), 2),
        ({}, (), 1),
        ({"cores_per_node": 32, "cores_per_worker": 4}, (), 32),
    ],
)
def test_gpus_of_nodes_are_taken_as_written(
    pool: dict[str, object], devices: tuple[str, ...], cores: int
) -> None:
    size = size_pools(Site.model_validate({"provider": "slurm", "pools": {"gpu": pool}}), 2, ())["gpu"]
    assert size.accelerators == devices
    assert size.workers == (len(devices) or cores // size.cores_per_worker)
    assert size.cores_per_node == cores


def test_groups_of_gpus_here_are_looked_at_one_by_one() -> None:
    site = Site.model_validate({"pools": {"gpu": {"accelerators": ["0,1", "2,3"]}}})
    assert size_pools(site, 8, ("0", "1", "2", "3"))["gpu"].workers == 2
    with pytest.raises(SiteError, match="not seen here"):
        size_pools(site, 8, ("0", "1"))


@pytest.mark.parametrize(
    "path", sorted((CHECKOUT / "deploy" / "sites").glob("*.yaml")), ids=lambda path: path.stem
)
def test_every_shipped_site_is_valid(path: Path) -> None:
    site = load_site(str(path), CHECKOUT)
    assert site.name == path.stem
    assert size_pools(site, 8, ())


@pytest.mark.parametrize(
    ("pools", "shared"),
    [
        ({}, False),
        ({"dft": {"provider": "local"}}, True),
        ({"dft": {"kind": "fireworks", "launchpad": {}}}, False),
        ({"gpu": {"provider": "local"}}, False),
    ],
)
def test_labels_share_one_memory_only_where_the_driver_starts_their_workers_beside_itself(
    pools: dict[str, object], shared: bool
) -> None:
    assert labels_on_one_machine(Site.model_validate({"provider": "slurm", "pools": pools})) is shared


def test_labels_here_share_one_memory_and_nobody_knows_of_those_of_an_own_configuration() -> None:
    assert labels_on_one_machine(Site())
    assert not labels_on_one_machine(Site(parsl_config="mine:config"))
