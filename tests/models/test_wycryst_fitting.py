from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gene_batches import KNOWN
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import ELEMENTS, genes
from wycryst_models import gene_batch, global_states

from models.errors import TrainingDataError
from models.generators.wycryst.accuracy import reconstruction
from models.generators.wycryst.conditional_prior import ConditionalPrior, presence
from models.generators.wycryst.contract import GeneBatch
from models.generators.wycryst.fitting import Course, GeneTraining, course_of, exchanged, fit_autoencoder
from models.generators.wycryst.network import CategoricalAutoencoder, NetworkOptions
from models.genes import WyckoffGene, arrays_from_genes, atomic_number, feasible, slot_order
from models.symmetry import LETTERS

SMALL = NetworkOptions(latent_size=8, hidden=32, site_size=8)
N_SLOTS = 4


@pytest.fixture
def known() -> GeneBatch:
    return gene_batch([WyckoffGene.from_text(text) for text in KNOWN])


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# fitting


def test_a_small_network_learns_genes_by_heart(known: GeneBatch) -> None:
    """Decoding must read what training wrote: slots, letters and counts in their places."""
    network = CategoricalAutoencoder(SMALL.model_copy(update={"latent_noise": 0.1}), N_SLOTS, 2, seed=0)
    course = Course(
        epochs=160, max_steps=160, batch_size=5, learning_rate=1e-2, optimizer="adamw", weight_decay=0.0
    )
    log = fit_autoencoder(network, known, course, seed=0)
    assert log.steps == 160
    assert len(log.losses) == 160
    assert reconstruction(network, known).gene == 1.0
    with torch.no_grad():
        predicted = network.properties(network.encode(known)[0])
    assert (predicted - known.targets).abs().max() < 0.3


def test_a_training_repeats_by_its_seed_and_leaves_the_global_generators_alone(known: GeneBatch) -> None:
    course = course_of(GeneTraining(epochs=3, min_steps=1), len(known))
    found = []
    before = global_states()
    for seed in (1, 1, 2):
        network = CategoricalAutoencoder(SMALL, N_SLOTS, 2, seed=0)
        fit_autoencoder(network, known, course, seed)
        found.append(network.state_dict())
    assert global_states() == before
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not torch.equal(found[0]["mean.weight"], found[2]["mean.weight"])


def test_trainings_of_nothing_and_trainings_that_diverge_are_refused(known: GeneBatch) -> None:
    course = course_of(GeneTraining(epochs=1, min_steps=1), 5)
    with pytest.raises(TrainingDataError, match="too few genes"):
        fit_autoencoder(CategoricalAutoencoder(SMALL, N_SLOTS, 2), known.part(torch.tensor([0])), course, 0)
    broken = replace(known, weights=torch.full((5,), torch.inf))
    with pytest.raises(TrainingDataError, match="diverged"):
        fit_autoencoder(CategoricalAutoencoder(SMALL, N_SLOTS, 2), broken, course, 0)


def test_few_genes_are_passed_over_more_often_and_many_less() -> None:
    options = GeneTraining(epochs=10, min_steps=100, max_steps=200, batch_size=16)
    few, some_genes, many = (course_of(options, n) for n in (8, 320, 16000))
    assert (few.epochs, few.batch_size) == (100, 8)
    assert some_genes.epochs == 10
    assert (many.epochs, many.max_steps) == (10, 200)


# exchanged elements


SEEN = torch.tensor([atomic_number(symbol) for symbol in ELEMENTS])


@settings(max_examples=40, deadline=None)
@given(st.lists(genes(), min_size=1, max_size=8), st.integers(0, 2**31))
def test_exchanged_elements_keep_genes_feasible_and_their_letters(
    found: list[WyckoffGene], seed: int
) -> None:
    batch = gene_batch(found)
    after = exchanged(batch, 1.0, SEEN, noise(seed))
    arrays = after.spacegroup.numpy(), after.elements.numpy(), after.counts.numpy()
    assert feasible(*arrays).all()
    rank = slot_order()[arrays[1]]
    assert (np.diff(rank, axis=1) >= 0).all()
    assert torch.equal(after.spacegroup, batch.spacegroup)
    assert torch.equal(after.weights, batch.weights)
    for row in range(len(found)):
        slots = [sorted(map(tuple, one.counts[row].tolist())) for one in (batch, after)]
        assert slots[0] == slots[1]
        same = torch.equal(after.elements[row], batch.elements[row]) and torch.equal(
            after.counts[row], batch.counts[row]
        )
        assert same == torch.isfinite(after.targets[row]).all()
        assert same or torch.isnan(after.targets[row]).all()


def test_a_slot_takes_its_letters_along() -> None:
    batch = gene_batch([WyckoffGene.from_text("221|Ba:a|O:c|Ti:b")] * 200)
    after = exchanged(batch, 1.0, torch.tensor([9]), noise())  # fluorine, the last in the order of slots
    for elements, counts in zip(after.elements.tolist(), after.counts, strict=True):
        letter = {z: LETTERS[int(counts[slot].argmax())] for slot, z in enumerate(elements) if z}
        assert letter.get(56, "a") == "a"
        assert letter.get(22, "b") == "b"
        assert letter.get(8, "c") == "c"
        assert sorted(letter.values()) == ["a", "b", "c"]
    assert {9 in row for row in after.elements.tolist()} == {True, False}


def test_the_share_of_exchanged_genes_is_kept_and_none_is_the_identity() -> None:
    batch = gene_batch([WyckoffGene.from_text("221|Ba:a|O:c|Ti:b")] * 4000)
    seen = torch.arange(1, 100)
    none = exchanged(batch, 0.0, seen, noise())
    assert torch.equal(none.elements, batch.elements)
    assert torch.equal(none.targets, batch.targets)
    changed = torch.isnan(exchanged(batch, 0.4, seen, noise()).targets[:, 0]).float().mean()
    # a chosen gene has at least one of its three elements redrawn in 7 of 8 cases, rarely by itself
    assert float(changed) == pytest.approx(0.4 * 7 / 8, abs=0.04)


# the prior


def test_the_density_of_the_prior_integrates_to_one() -> None:
    prior = seeded_prior(2)
    axis = torch.linspace(-9.0, 9.0, 181)
    grid = torch.cartesian_prod(axis, axis)
    present = presence(torch.tensor([[8, 20, 0]])).expand(len(grid), -1)
    targets = torch.tensor([[0.3, torch.nan]]).expand(len(grid), -1)
    with torch.no_grad():
        density = prior.log_probability(grid, present, targets).exp()
    assert float(density.sum()) * 0.1**2 == pytest.approx(1.0, abs=2e-3)


def test_samples_of_the_prior_have_its_density() -> None:
    prior = seeded_prior(1)
    axis = torch.linspace(-12.0, 12.0, 4801)[:, None]
    one = presence(torch.tensor([[8, 20, 0]]))
    asked = torch.tensor([[torch.nan, -2.0]])
    with torch.no_grad():
        density = prior.log_probability(axis, one.expand(len(axis), -1), asked.expand(len(axis), -1)).exp()
        found = prior.sample(one.expand(20000, -1), asked.expand(20000, -1), noise(), 1.0)[:, 0]
    mass = density / density.sum()
    mean = float((mass * axis[:, 0]).sum())
    deviation = math.sqrt(float((mass * (axis[:, 0] - mean) ** 2).sum()))
    assert float(found.mean()) == pytest.approx(mean, abs=5 * deviation / math.sqrt(20000))
    assert float(found.std()) == pytest.approx(deviation, rel=0.04)
    for share in (0.1, 0.5, 0.9):
        quantile = float(found.quantile(share))
        assert float(mass[axis[:, 0] <= quantile].sum()) == pytest.approx(share, abs=0.02)


def seeded_prior(latent_size: int) -> ConditionalPrior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        prior = ConditionalPrior(latent_size, 2)
        for weight in (prior.weight.weight, prior.mean.weight):
            torch.nn.init.normal_(weight, std=1.0)
    return prior


def test_the_prior_learns_where_elements_and_properties_lie() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        prior = ConditionalPrior(1, 2)
    oxygen, fluorine = presence(torch.tensor([[8, 20, 0]])), presence(torch.tensor([[9, 20, 0]]))
    present = torch.cat([oxygen.expand(100, -1), fluorine.expand(100, -1)])
    target = torch.rand(200, 2, generator=noise()) * 2.0 - 1.0
    centre = torch.where(torch.arange(200) < 100, 2.0, -2.0) + target[:, 0]
    latent = (centre + 0.1 * torch.randn(200, generator=noise(1)))[:, None]
    optimizer = torch.optim.Adam(prior.parameters(), lr=3e-3)
    for _ in range(200):
        optimizer.zero_grad()
        torch.autograd.backward(-prior.log_probability(latent, present, target).mean())
        optimizer.step()
    for one, value, truth in ((oxygen, 0.5, 2.5), (oxygen, -0.5, 1.5), (fluorine, 0.5, -1.5)):
        asked = torch.tensor([[value, 0.0]]).expand(500, -1)
        found = prior.sample(one.expand(500, -1), asked, noise(2), 1.0)
        assert float(found.mean()) == pytest.approx(truth, abs=0.15)
        still = prior.sample(one.expand(500, -1), asked, noise(2), 0.0)
        assert float(still.std()) < float(found.std())


def test_presence_tells_elements_and_empty_slots() -> None:
    elements = torch.from_numpy(arrays_from_genes([WyckoffGene.from_text(KNOWN[0])], N_SLOTS)[1])
    found = presence(elements)
    assert found.shape == (1, 104)
    assert found[0].nonzero()[:, 0].tolist() == [0, 8, 22, 56]
