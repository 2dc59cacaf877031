from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gene_batches import KNOWN
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import genes
from wycryst_models import gene_batch, global_states

from models.generators.wycryst.contract import Allowed, DecodedGenes, GeneBatch
from models.generators.wycryst.network import CategoricalAutoencoder, NetworkOptions
from models.genes import WyckoffGene, feasible, slot_order
from models.symmetry import tables

SMALL = NetworkOptions(latent_size=8, hidden=32, site_size=8)
WIDE = NetworkOptions(latent_size=8, hidden=32, site_size=8, max_count=30)
N_SLOTS = 4


@pytest.fixture(scope="module")
def network() -> CategoricalAutoencoder:
    return CategoricalAutoencoder(SMALL, N_SLOTS, 2, seed=3).eval()


@pytest.fixture
def known() -> GeneBatch:
    return gene_batch([WyckoffGene.from_text(text) for text in KNOWN])


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(numbers: list[int] | range, size: int) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(numbers)] = True
    return mask


LIMITS = {
    "everything": Allowed.everything(N_SLOTS),
    "few elements and groups": Allowed(some([3, 8, 12, 22, 38], 104), some([62, 221, 225], 231), (2, 3)),
    "exactly four of four": Allowed(some([1, 8, 20, 103], 104), some([0, 47], 231), (4, 4)),
    "elements alone": Allowed(some([0, 6, 14], 104), some(range(231), 231), (1, 1)),
    "three of many": Allowed(some(range(1, 104), 104), some(range(195, 231), 231), (3, 3)),
}


def check_decoded(decoded: DecodedGenes, allowed: Allowed) -> None:
    group, elements, counts = (t.numpy() for t in (decoded.spacegroup, decoded.elements, decoded.counts))
    assert feasible(group, elements, counts).all()
    assert allowed.spacegroups[decoded.spacegroup].all()
    filled = elements > 0
    assert allowed.elements[decoded.elements[decoded.elements > 0]].all()
    number = filled.sum(axis=1)
    assert number.min() >= allowed.n_elements[0]
    assert number.max() <= allowed.n_elements[1]
    assert (filled[:, 1:] <= filled[:, :-1]).all()  # empty slots come last
    rank = slot_order()[elements]
    assert ((rank[:, 1:] > rank[:, :-1]) | ~filled[:, 1:]).all()  # in the order of slots, so none comes twice
    assert (counts[~filled] == 0).all()


# decoding


@pytest.mark.parametrize("limits", LIMITS)
@pytest.mark.parametrize("temperature", [None, 0.0, 0.5, 2.0])
def test_decoded_genes_are_feasible_in_order_and_within_the_limits(
    network: CategoricalAutoencoder, limits: str, temperature: float | None
) -> None:
    allowed = LIMITS[limits]
    latent = 4.0 * torch.randn(400, 8, generator=noise())
    generator = None if temperature is None else noise(1)
    check_decoded(network.decode(latent, allowed, generator, temperature or 0.0), allowed)


def test_the_untrained_decoder_would_break_the_rules_without_its_masks(
    network: CategoricalAutoencoder,
) -> None:
    """The limits of the test above bind: letters are drawn often, and everything that may be drawn is drawn."""
    latent = 4.0 * torch.randn(3000, 8, generator=noise())
    decoded = network.decode(latent, Allowed.everything(N_SLOTS), noise(1), 2.0)
    taken = (decoded.counts > 0).sum(dim=1)  # (n, 27) slots on each letter
    free = tables().dof[decoded.spacegroup] > 0
    assert (taken[free] > 1).any()  # letters with freedom are shared, so the others would be too
    assert len(decoded.spacegroup.unique()) == 230
    assert set(decoded.elements.flatten().tolist()) == set(range(104))


def test_no_generator_gives_the_limit_of_cold_draws(network: CategoricalAutoencoder) -> None:
    latent = torch.randn(200, 8, generator=noise())
    likeliest = network.decode(latent, Allowed.everything(N_SLOTS), None, 1.0)
    cold = network.decode(latent, Allowed.everything(N_SLOTS), noise(5), 0.0)
    warm = network.decode(latent, Allowed.everything(N_SLOTS), noise(5), 1.0)
    assert torch.equal(likeliest.spacegroup, cold.spacegroup)
    assert torch.equal(likeliest.counts, cold.counts)
    assert not torch.equal(warm.spacegroup, cold.spacegroup)


def test_draws_follow_their_generator(network: CategoricalAutoencoder) -> None:
    latent, before = torch.randn(50, 8, generator=noise()), global_states()
    one, same, other = (
        network.decode(latent, Allowed.everything(N_SLOTS), noise(seed), 1.0) for seed in (1, 1, 2)
    )
    assert torch.equal(one.counts, same.counts)
    assert not torch.equal(one.counts, other.counts)
    assert global_states() == before


# encoding


@settings(max_examples=20, deadline=None)
@given(st.lists(genes(), min_size=2, max_size=6), st.randoms())
def test_a_gene_is_encoded_alike_in_any_company(found: list[WyckoffGene], random: object) -> None:
    network = CategoricalAutoencoder(WIDE, N_SLOTS, 2, seed=1).eval()
    batch = gene_batch(found)
    with torch.no_grad():
        together = network.encode(batch)
        for row in range(len(found)):
            alone = network.encode(batch.part(torch.tensor([row])))
            back = network.encode(batch.part(torch.arange(len(found) - 1, -1, -1)))
            for part in (0, 1):
                assert torch.allclose(together[part][row], alone[part][0], atol=1e-5)
                assert torch.allclose(together[part][row], back[part][len(found) - 1 - row], atol=1e-5)


def test_encoding_sees_group_elements_letters_and_counts(network: CategoricalAutoencoder) -> None:
    texts = ["225|Cl:b|Na:a", "221|Cl:b|Na:a", "225|Cl:b|K:a", "225|Cl:c|Na:a", "225|Cl:c|Cl:e|Cl:e|Na:a"]
    texts += ["225|Cl:c|Cl:e|Na:a"]
    with torch.no_grad():
        mean, _ = network.encode(gene_batch([WyckoffGene.from_text(text) for text in texts]))
    apart = torch.cdist(mean, mean) + torch.eye(len(texts))
    assert apart.min() > 1e-3


def test_equal_seeds_give_equal_weights_and_leave_the_global_generators_alone() -> None:
    before = global_states()
    one, same, other = (CategoricalAutoencoder(SMALL, N_SLOTS, 2, seed).state_dict() for seed in (1, 1, 2))
    assert global_states() == before
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["mean.weight"], other["mean.weight"])


# losses


@settings(max_examples=20, deadline=None)
@given(st.lists(genes(), min_size=1, max_size=6))
def test_losses_of_real_genes_are_finite_and_reach_every_weight(found: list[WyckoffGene]) -> None:
    network = CategoricalAutoencoder(WIDE, N_SLOTS, 2, seed=1)
    losses = network.losses(gene_batch(found), noise(), 1.0)
    parts = ["element", "formula", "group", "kl", "letters", "prior", "property"]
    assert sorted(losses.parts) == parts
    assert all(math.isfinite(value) and value < 1e4 for value in losses.parts.values())
    assert math.isclose(float(losses.total.detach()), sum(losses.parts.values()), rel_tol=1e-4)
    torch.autograd.backward(losses.total)
    for name, weight in network.named_parameters():
        assert weight.grad is not None, name
        assert torch.isfinite(weight.grad).all(), name


@pytest.mark.parametrize("text", ["225|Cl:b|Na:b", "221|Ba:a|O:b|Ti:a", "2|Ca:z|O:a"])
def test_what_no_crystal_can_have_has_no_probability(network: CategoricalAutoencoder, text: str) -> None:
    number, *orbits = text.split("|")
    gene = WyckoffGene(int(number), tuple(tuple(orbit.split(":")) for orbit in orbits))  # type: ignore[arg-type]
    assert network.losses(gene_batch([gene]), noise(), 0.0).parts["letters"] > 1e8


def gradients(
    network: CategoricalAutoencoder, batch: GeneBatch, progress: float = 1.0
) -> dict[str, torch.Tensor]:
    network.zero_grad(set_to_none=True)
    network.eval()  # no dropout, so that gradients of two calls compare
    torch.autograd.backward(network.losses(batch, noise(), progress).total)
    return {name: w.grad.clone() for name, w in network.named_parameters() if w.grad is not None}


def with_options(**changes: float) -> CategoricalAutoencoder:
    return CategoricalAutoencoder(SMALL.model_copy(update=changes), N_SLOTS, 2, seed=3)


@pytest.mark.parametrize(
    ("option", "weight"),
    [
        ("formula_weight", "to_count.1.weight"),
        ("formula_weight", "count_site.weight"),
        ("kl_weight", "log_variance.weight"),
        ("property_weight", "property_branch.0.weight"),
        ("property_weight", "mean.weight"),
    ],
)
def test_every_term_moves_the_weights_that_it_is_for(known: GeneBatch, option: str, weight: str) -> None:
    without, strong = (gradients(with_options(**{option: value}), known) for value in (0.0, 5.0))
    assert (strong[weight] - without[weight]).abs().max() > 1e-4


def test_the_kl_term_warms_up(known: GeneBatch) -> None:
    network = with_options(kl_warm_up=0.4, kl_weight=1.0).eval()
    start, half, warm, end = (
        network.losses(known, noise(), progress).parts["kl"] for progress in (0.0, 0.2, 0.4, 1.0)
    )
    assert start == 0.0
    assert warm > 0.0
    assert half == pytest.approx(warm / 2)
    assert end == pytest.approx(warm)


def test_free_bits_cost_nothing(known: GeneBatch) -> None:
    low, high = (gradients(with_options(kl_weight=1.0, free_bits=bits), known) for bits in (0.0, 1e6))
    none = gradients(with_options(kl_weight=0.0, free_bits=0.0), known)
    assert torch.allclose(high["log_variance.weight"], none["log_variance.weight"])
    assert not torch.allclose(low["log_variance.weight"], none["log_variance.weight"])


def test_the_prior_learns_without_moving_the_autoencoder(known: GeneBatch) -> None:
    network = with_options()
    one = gradients(network, known)
    with torch.no_grad():
        for weight in network.prior.parameters():
            weight.mul_(3.0)
    other = gradients(network, known)
    assert one["prior.mean.weight"].abs().max() > 0
    assert not torch.allclose(one["prior.mean.weight"], other["prior.mean.weight"])
    moved = [n for n in one if not n.startswith("prior.") and not torch.equal(one[n], other[n])]
    assert moved == []


def test_missing_targets_do_not_reach_the_weights(known: GeneBatch) -> None:
    targets = known.targets.clone()
    targets[:, 1] = torch.nan
    targets[0, 0] = torch.nan
    network = with_options()
    found = gradients(network, replace(known, targets=targets))
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    last = found["property_branch.5.weight"]
    assert (last[1] == 0).all()
    assert (last[0] != 0).any()
    nothing = replace(known, targets=torch.full_like(targets, torch.nan))
    assert network.losses(nothing, noise(), 1.0).parts["property"] == 0.0
    assert all(torch.isfinite(gradient).all() for gradient in gradients(network, nothing).values())


def test_weights_say_how_much_a_gene_counts(known: GeneBatch) -> None:
    network = with_options(latent_noise=0.0).eval()

    def group_loss(batch: GeneBatch) -> float:
        return network.losses(batch, noise(), 0.0).parts["group"]

    alone = [group_loss(known.part(torch.tensor([row]))) for row in range(5)]
    heavy = torch.tensor([1.0, 1.0, 3.0, 1.0, 0.0])
    expected = np.average(alone, weights=heavy)
    assert group_loss(replace(known, weights=heavy)) == pytest.approx(expected, rel=1e-4)
    assert group_loss(replace(known, weights=10.0 * heavy)) == pytest.approx(expected, rel=1e-4)
    assert group_loss(known) == pytest.approx(np.mean(alone), rel=1e-4)
    assert abs(np.mean(alone) - expected) > 1e-2


def test_unstable_genes_weigh_little_as_genes_and_fully_as_energies(known: GeneBatch) -> None:
    network = with_options(latent_noise=0.0).eval()
    light, usual, heavy = (
        network.losses(replace(known, weights=weight * known.weights), noise(), 0.0).parts["property"]
        for weight in (0.02, 1.0, 3.0)
    )
    assert light == pytest.approx(usual)
    assert heavy == pytest.approx(3.0 * usual)
