from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from toy_crystals import toy_crystals

from models.data import LabelledStructure
from models.ensemble import find_device
from models.errors import DeviceError, TrainingDataError
from models.graph import GraphSet
from models.networks.cgcnn import CGCNN, CGCNNConfig, CGCNNEnsemble, CGCNNEnsembleConfig
from models.training import (
    Schedule,
    TrainingConfig,
    TrainingSet,
    derive_seed,
    draw_replay,
    evaluate_loss,
    one_cycle,
    regression_loss,
    standardisation,
    train_network,
)

NETWORK = CGCNNConfig(hidden=12, convolutions=1, gaussians=12)
SCHEDULE = Schedule(
    epochs=12, max_steps=1000, patience=50, batch_size=8, learning_rate=0.01, weight_decay=0.01
)


def training_set(items: list[LabelledStructure], weights: float = 1.0) -> TrainingSet:
    graphs = GraphSet.from_structures([item.structure for item in items], 5.0, 8)
    targets = np.array([[item.properties["formation_energy_per_atom"]] for item in items], dtype=np.float32)
    return TrainingSet(graphs, targets, np.full(len(items), weights, dtype=np.float32))


@pytest.fixture(scope="module")
def data() -> tuple[TrainingSet, TrainingSet]:
    items = toy_crystals(60)
    return training_set(items[:45]), training_set(items[45:])


def trained(train: TrainingSet, valid: TrainingSet | None, schedule: Schedule, seed: int = 3) -> CGCNN:
    network = CGCNN(NETWORK, 1, seed=1)
    train_network(network, train, valid, regression_loss, schedule, seed=seed)
    return network


def test_training_lowers_the_loss_and_keeps_the_best_weights(data: tuple[TrainingSet, TrainingSet]) -> None:
    train, valid = data
    network = CGCNN(NETWORK, 1, seed=1)
    before = evaluate_loss(network, valid, regression_loss, 16)
    log = train_network(network, train, valid, regression_loss, SCHEDULE, seed=3)
    after = evaluate_loss(network, valid, regression_loss, 16)
    assert after < 0.5 * before
    assert log.best_loss == pytest.approx(after)
    assert log.steps == 12 * 6
    assert 0 < log.best_epoch <= log.epochs == 12


def test_a_rate_that_only_harms_gives_back_the_weights_of_the_start(
    data: tuple[TrainingSet, TrainingSet],
) -> None:
    train, valid = data
    good = trained(train, valid, SCHEDULE)
    kept = [p.detach().clone() for p in good.parameters()]
    wrong = TrainingSet(train.inputs, -10.0 - train.targets, train.weights)
    patient = Schedule(**{**vars(SCHEDULE), "patience": 3})
    log = train_network(good, wrong, valid, regression_loss, patient, seed=1)
    assert log.best_epoch == 0
    assert log.epochs == 3  # early stopping
    assert all(torch.equal(a, b) for a, b in zip(kept, good.parameters(), strict=True))


def test_the_seed_decides_the_order_and_nothing_else_does(data: tuple[TrainingSet, TrainingSet]) -> None:
    train, _ = data
    short = Schedule(**{**vars(SCHEDULE), "epochs": 2})
    first = trained(train, None, short)
    torch.manual_seed(99)
    same, other = trained(train, None, short), trained(train, None, short, seed=4)
    assert torch.equal(first.output.weight, same.output.weight)
    assert not torch.equal(first.output.weight, other.output.weight)


def test_the_step_limit_holds_within_an_epoch(data: tuple[TrainingSet, TrainingSet]) -> None:
    network = CGCNN(NETWORK, 1, seed=1)
    limited = Schedule(**{**vars(SCHEDULE), "max_steps": 8})
    log = train_network(network, data[0], None, regression_loss, limited, seed=3)
    assert (log.steps, log.epochs, log.best_loss) == (8, 2, None)


def test_unknown_targets_teach_nothing(data: tuple[TrainingSet, TrainingSet]) -> None:
    train, _ = data
    short = Schedule(**{**vars(SCHEDULE), "epochs": 1, "batch_size": 100})
    masked = train.targets.copy()
    masked[::2] = np.nan
    wild = np.where(np.isnan(masked), 1e6, masked).astype(np.float32)
    weights = np.where(np.isnan(masked[:, 0]), 0.0, 1.0).astype(np.float32)
    by_nan = trained(TrainingSet(train.inputs, masked, train.weights), None, short)
    by_weight = trained(TrainingSet(train.inputs, wild, weights), None, short)
    assert torch.allclose(by_nan.output.weight, by_weight.output.weight, atol=1e-6)
    nothing = np.full_like(masked, np.nan)
    with pytest.raises(TrainingDataError, match="no crystal"):
        trained(TrainingSet(train.inputs, nothing, train.weights), None, short)


def test_a_diverged_training_is_told(data: tuple[TrainingSet, TrainingSet]) -> None:
    train, _ = data
    broken = TrainingSet(train.inputs, train.targets, np.full(len(train), np.inf, dtype=np.float32))
    with pytest.raises(TrainingDataError, match="diverged"):
        trained(broken, None, SCHEDULE)


class ReadsPlaces:
    """Inputs that remember which crystals were asked for."""

    def __init__(self, n: int) -> None:
        self.n, self.seen = n, set[int]()

    def __len__(self) -> int:
        return self.n

    def batch(self, indices: npt.ArrayLike, device: str | torch.device = "cpu") -> torch.Tensor:
        self.seen |= set(np.asarray(indices).tolist())
        return torch.zeros(np.asarray(indices).shape[0], 1)


def test_a_part_asks_for_its_own_crystals_only() -> None:
    inputs = ReadsPlaces(10)
    targets = np.arange(10, dtype=np.float32)[:, None]
    rows = np.array([7, 2, 5])
    part = TrainingSet(inputs, targets, np.ones(10, dtype=np.float32)).part(rows)
    assert len(part) == 3
    assert part.targets[:, 0].tolist() == [7.0, 2.0, 5.0]
    part.inputs.batch([0, 2])
    assert inputs.seen == {7, 5}


def test_no_member_learns_from_its_own_fold_and_each_is_asked_about_it() -> None:
    items = toy_crystals(40)
    data = training_set(items)
    folds = np.array([place % 4 if place < 20 else -1 for place in range(40)])
    config = CGCNNEnsembleConfig(members=4, hidden=12, convolutions=1, gaussians=12, max_epochs=3)
    whole = CGCNNEnsemble.create(config, 1, seed=1)
    other = CGCNNEnsemble.create(config, 1, seed=1)
    schedule = Schedule.from_scratch(config)
    whole.train_in_folds(data, folds, regression_loss, schedule, seed=2)
    # What stands in fold 1 is changed: only its own member does not notice, but for when it stops.
    changed = data.targets.copy()
    changed[folds == 1] += 3.0
    other.train_in_folds(
        TrainingSet(data.inputs, changed, data.weights), folds, regression_loss, schedule, seed=2
    )
    before, after = whole.outputs(data.inputs), other.outputs(data.inputs)
    assert [bool(np.allclose(before[k], after[k])) for k in (0, 2, 3)] == [False] * 3
    rows, said = whole.outputs_out_of_fold(data.inputs, folds)
    assert rows.tolist() == list(range(20))
    np.testing.assert_array_equal(said[:, 0], [before[place % 4, place, 0] for place in range(20)])


def test_what_is_not_known_does_not_count_in_the_standardisation() -> None:
    values = np.array([[1.0, np.nan, 2.0], [3.0, np.nan, 2.0], [np.nan, np.nan, 2.0]])
    centre, spread = standardisation(values)
    assert centre.tolist() == [2.0, 0.0, 2.0]
    assert spread.tolist() == [1.0, 1.0, 1.0]


def test_replay_is_drawn_without_repeats() -> None:
    items = toy_crystals(20)
    drawn = draw_replay(items, 8, seed=1)
    assert len({id(item) for item in drawn}) == 8
    assert [items.index(item) for item in drawn] == sorted(items.index(item) for item in drawn)
    assert draw_replay(items, 8, seed=2) != drawn
    assert draw_replay(items, 30, seed=1) == items
    assert draw_replay(items, 0, seed=1) == []


def test_seeds_of_parts_differ() -> None:
    seeds = {derive_seed(seed, member, part) for seed in (0, 1) for member in range(4) for part in (0, 1)}
    assert len(seeds) == 16
    assert derive_seed(5, 1) == derive_seed(5, 1)
    assert 0 <= derive_seed(-1, 0) < 2**63


def test_the_learning_rate_rises_then_falls() -> None:
    rates = [one_cycle(step / 100) for step in range(101)]
    peak = rates.index(max(rates))
    assert max(rates) == pytest.approx(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_devices_that_are_not_there_are_refused() -> None:
    assert find_device("cpu").type == "cpu"
    with pytest.raises(DeviceError, match="no device"):
        find_device("gpu7")
    with pytest.raises(DeviceError, match="not on this machine"):
        find_device("cuda:99")


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="members"):
        TrainingConfig(members=1)
    with pytest.raises(ValueError, match="epochs"):
        TrainingConfig(epochs=3)  # type: ignore[call-arg]
