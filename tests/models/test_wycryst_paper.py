from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gene_batches import KNOWN, array_of, batch_of, known_batch, read_ternaries

from models.errors import NotFittedError, OptionsError, TrainingDataError
from models.generators.wycryst import paper_loss
from models.generators.wycryst import paper_representation as representation
from models.generators.wycryst.accuracy import reconstruct, reconstruction
from models.generators.wycryst.contract import Allowed, GeneAutoencoder, GeneBatch
from models.generators.wycryst.paper import PaperAutoencoder, PaperOptions
from models.genes import WyckoffGene
from models.symmetry import tables

SMALL = PaperOptions(filters=(8, 8, 8), dense=32, latent_size=16)


@pytest.fixture
def known() -> GeneBatch:
    return known_batch()


@pytest.fixture(scope="module")
def real(data_dir: Path) -> GeneBatch:
    return read_ternaries(data_dir, 400)


def prepared(options: PaperOptions, batch: GeneBatch, seed: int = 0) -> PaperAutoencoder:
    network = PaperAutoencoder(options, 3, batch.targets.shape[1], seed)
    network.prepare(batch)
    return network


def noise() -> torch.Generator:
    return torch.Generator().manual_seed(7)


# what it refuses


def test_genes_without_a_place_in_the_array_are_found_and_refused(known: GeneBatch) -> None:
    odd = batch_of(
        [
            WyckoffGene.from_text("221|Ba:a|O:c|Ti:b"),
            WyckoffGene.from_text("225|Cl:b|Na:a"),
            WyckoffGene.from_text("47|Ba:A|O:A|Ti:b"),
        ]
    )
    assert representation.representable(odd).tolist() == [True, False, False]
    network = prepared(SMALL, known)
    with pytest.raises(TrainingDataError, match="2 of 3 genes do not fit"):
        network.encode(odd)
    assert representation.representable(known).all()


def test_networks_and_batches_with_other_numbers_of_slots_are_refused(known: GeneBatch) -> None:
    with pytest.raises(OptionsError, match="ternaries only"):
        PaperAutoencoder(SMALL, 4, 1)
    wide = GeneBatch(
        known.spacegroup,
        torch.nn.functional.pad(known.elements, (0, 1)),
        torch.nn.functional.pad(known.counts, (0, 0, 0, 1)),
        known.targets,
        known.weights,
    )
    with pytest.raises(TrainingDataError, match="4 slots"):
        prepared(SMALL, known).encode(wide)


# the network


def test_the_network_has_the_published_number_of_weights() -> None:
    # 10,025,386 are the weights that are trained; TensorFlow's running means and variances (896) are not among them
    network = PaperAutoencoder(PaperOptions(), 3, 1)
    assert sum(weight.numel() for weight in network.parameters()) == 10_025_386


def test_equal_seeds_give_equal_weights_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (PaperAutoencoder(SMALL, 3, 1, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    for left, right in zip(one.state_dict().values(), same.state_dict().values(), strict=True):
        assert torch.equal(left, right) or bool(torch.isnan(left).all())
    assert not torch.equal(one.mean.weight, other.mean.weight)


def test_it_offers_what_the_contract_asks_for(known: GeneBatch) -> None:
    network: GeneAutoencoder = prepared(SMALL, known)
    mean, log_variance = network.encode(known)
    assert mean.shape == log_variance.shape == (5, 16)
    decoded = network.decode(mean, Allowed.everything(3), None, 1.0)
    assert decoded.spacegroup.dtype == decoded.elements.dtype == decoded.counts.dtype == torch.int64
    assert decoded.elements.shape == (5, 3)
    assert decoded.counts.shape == (5, 3, 27)
    assert network.properties(mean).shape == (5, 1)


def test_only_allowed_space_groups_are_decoded(known: GeneBatch) -> None:
    network = prepared(SMALL, known)
    groups = torch.zeros(231, dtype=torch.bool)
    groups[[0, 62, 139]] = True
    allowed = Allowed(torch.ones(104, dtype=torch.bool), groups, (3, 3))
    latent = torch.randn(50, 16, generator=noise())
    assert set(network.decode(latent, allowed, None, 1.0).spacegroup.tolist()) <= {62, 139}


def test_illegal_letters_stay_in_the_decoded_counts(known: GeneBatch) -> None:
    network = prepared(SMALL, known).eval()
    last = network.decoder[-1]
    assert isinstance(last, torch.nn.ConvTranspose1d)
    assert last.bias is not None
    with torch.no_grad():
        last.weight.zero_()
        last.bias.fill_(1.0)  # every row of every column is 1
    groups = torch.zeros(231, dtype=torch.bool)
    groups[1] = True  # P1 has the letter a only
    allowed = Allowed(torch.ones(104, dtype=torch.bool), groups, (3, 3))
    decoded = network.decode(torch.zeros(1, 16), allowed, None, 1.0)
    assert decoded.spacegroup.tolist() == [1]
    assert decoded.counts[0, 0].tolist() == [1] * 26 + [0]


def test_equal_noise_gives_equal_losses_and_other_noise_others(known: GeneBatch) -> None:
    network = prepared(SMALL, known).eval()
    first, again = (float(network.losses(known, noise(), 0.0).total.detach()) for _ in range(2))
    assert first == again
    assert float(network.losses(known, noise().manual_seed(8), 0.0).total.detach()) != first


# the loss


def test_the_parts_of_the_loss_are_the_published_sums(known: GeneBatch) -> None:
    network = prepared(SMALL, known).eval()
    losses = network.losses(known, noise(), 0.5)
    assert float(losses.total.detach()) == pytest.approx(sum(losses.parts.values()), rel=1e-5)
    with torch.no_grad():
        mean, log_variance = network.encode(known)
        latent = mean + torch.randn(mean.shape, generator=noise()) * torch.exp(0.5 * log_variance)
        array = (array_of(known) - network.decoder(latent).transpose(1, 2)).square().sum() / 64
        probability = network.group_decoder(latent).softmax(dim=1)[torch.arange(5), known.spacegroup - 1]
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(dim=1) / 16
        predicted = network.property_branch(mean)
        scaled = torch.linspace(0.0, 1.0, 5)[:, None]  # the targets run evenly from -1 to 1
    assert losses.parts["array"] == pytest.approx(float(array), rel=1e-5)
    assert losses.parts["group"] == pytest.approx(float(-probability.log().sum() / 6), rel=1e-5)
    assert losses.parts["kl"] == pytest.approx(4 * float(kl.mean()), rel=1e-4)
    assert losses.parts["property"] == pytest.approx(
        32 * float((predicted - scaled).square().sum()), rel=1e-5
    )


def test_weights_of_genes_count_in_the_reconstruction(known: GeneBatch) -> None:
    network = prepared(SMALL, known).eval()
    heavy = GeneBatch(known.spacegroup, known.elements, known.counts, known.targets, torch.full((5,), 3.0))
    light, loaded = (network.losses(batch, noise(), 0.0).parts for batch in (known, heavy))
    for name in ("array", "group", "formula"):
        assert loaded[name] == pytest.approx(3 * light[name], rel=1e-5)
    assert loaded["kl"] == pytest.approx(light["kl"])


def one_hot_groups(batch: GeneBatch) -> torch.Tensor:
    return torch.nn.functional.one_hot(batch.spacegroup - 1, 230).to(torch.float32)


def test_the_soft_formula_term_is_nothing_for_real_genes_given_back_exactly(real: GeneBatch) -> None:
    array, multiplicity = array_of(real), representation.multiplicity_table()
    assert len(real) > 390
    errors = paper_loss.soft_formula_error(one_hot_groups(real), array, array, multiplicity)
    assert float(errors.max()) < 1e-10
    moved = one_hot_groups(real).roll(1, dims=1)  # the next space group has other multiplicities, mostly
    assert (
        float((paper_loss.soft_formula_error(moved, array, array, multiplicity) > 1e-4).float().mean()) > 0.3
    )


def test_the_soft_formula_term_is_relative_to_the_number_of_atoms() -> None:
    # spinel with 8 instead of 32 oxygen atoms: the letter e written with 1/4
    batch = batch_of([WyckoffGene.from_text("227|Al:c|Mg:b|O:e")])
    truth = array_of(batch)
    written = truth.clone()
    written[0, 198 + 4, 2] = 0.25
    error = paper_loss.soft_formula_error(
        one_hot_groups(batch), written, truth, representation.multiplicity_table()
    )
    assert float(error) == pytest.approx((24 / 56) ** 2)


def formula_only(kind: str) -> PaperOptions:
    return SMALL.model_copy(
        update={
            "formula_loss": kind,
            "array_weight": 0.0,
            "group_weight": 0.0,
            "kl_weight": 0.0,
            "property_weight": 0.0,
            "property_l2": 0.0,
        }
    )


def test_the_soft_formula_term_teaches_letters_and_space_groups(known: GeneBatch) -> None:
    network = prepared(formula_only("soft"), known)
    torch.autograd.backward(network.losses(known, noise(), 0.0).total)
    for part in (network.decoder, network.group_decoder, network.encoder):
        gradients = [weight.grad for weight in part.parameters()]
        assert max(float(g.abs().max()) for g in gradients if g is not None) > 1e-6


def test_the_published_formula_term_teaches_nothing(known: GeneBatch) -> None:
    network = prepared(formula_only("paper"), known)
    losses = network.losses(known, noise(), 0.0)
    assert losses.parts["formula"] > 0.0
    torch.autograd.backward(losses.total)
    for name, weight in network.named_parameters():
        assert weight.grad is None or not weight.grad.any(), name


def test_the_published_formula_term_reads_the_multiplicities_of_the_group_before() -> None:
    batch = batch_of([WyckoffGene.from_text("221|Ba:a|O:c|Ti:b"), WyckoffGene.from_text("1|K:a|N:a|O:a")])
    array = array_of(batch)
    errors = paper_loss.inert_formula_error(
        one_hot_groups(batch), array, array, representation.multiplicity_table()
    )
    a, b, c = tables().multiplicity[220, :3].tolist()  # I-43d: 12, 12, 16
    assert errors.tolist() == [(a - 1) ** 2 + (b - 1) ** 2 + (c - 3) ** 2, 3.0]  # before P1 is the row of 0


# properties


def test_targets_are_scaled_to_their_range_and_come_back_standardised() -> None:
    genes = [WyckoffGene.from_text(text) for text in KNOWN]
    batch = batch_of(genes, [-1.5, 0.5, float("nan"), 2.5, 0.0])
    network = prepared(SMALL, batch).eval()
    assert network.lowest_target.tolist() == [-1.5]
    assert network.target_range.tolist() == [4.0]
    last = network.property_branch[-2]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.weight.zero_()  # the sigmoid says 1/2: the middle of the range
    assert torch.allclose(network.properties(torch.zeros(2, 16)), torch.full((2, 1), 0.5))
    # known errors on the scale of 0...1: -1/2, 0, 1/2, -1/8
    loss = network.losses(batch, noise(), 0.0).parts["property"]
    assert loss == pytest.approx(32 * (0.25 + 0.0 + 0.25 + 1 / 64))


def test_missing_targets_give_no_gradient_and_no_nan(known: GeneBatch) -> None:
    network = prepared(SMALL, known)
    unknown = GeneBatch(
        known.spacegroup, known.elements, known.counts, torch.full((5, 1), torch.nan), known.weights
    )
    losses = network.losses(unknown, noise(), 0.0)
    assert losses.parts["property"] == 0.0
    torch.autograd.backward(losses.total)
    assert all(w.grad is None or bool(torch.isfinite(w.grad).all()) for w in network.parameters())


def test_without_prepare_the_scale_of_properties_is_asked_for(known: GeneBatch) -> None:
    network = PaperAutoencoder(SMALL, 3, 1)
    with pytest.raises(NotFittedError, match="prepare"):
        network.losses(known, noise(), 0.0)
    with pytest.raises(NotFittedError, match="prepare"):
        network.properties(torch.zeros(1, 16))


def test_a_property_known_of_no_gene_is_refused(known: GeneBatch) -> None:
    unknown = GeneBatch(
        known.spacegroup, known.elements, known.counts, torch.full((5, 1), torch.nan), known.weights
    )
    with pytest.raises(TrainingDataError, match="column 0"):
        PaperAutoencoder(SMALL, 3, 1).prepare(unknown)


def test_a_network_without_properties_trains_all_the_same(known: GeneBatch) -> None:
    bare = GeneBatch(known.spacegroup, known.elements, known.counts, torch.zeros(5, 0), known.weights)
    network = prepared(SMALL, bare)
    losses = network.losses(bare, noise(), 0.0)
    torch.autograd.backward(losses.total)
    assert losses.parts["property"] == 0.0
    assert network.properties(torch.zeros(2, 16)).shape == (2, 0)


def test_a_saved_state_brings_back_the_scale_of_properties(known: GeneBatch) -> None:
    network = prepared(SMALL, known).eval()
    copy = PaperAutoencoder(SMALL, 3, 1, seed=9).eval()
    copy.load_state_dict(network.state_dict())
    latent = torch.randn(4, 16, generator=noise())
    assert torch.equal(copy.properties(latent), network.properties(latent))


# accuracy


def test_reconstruction_leaves_the_network_in_its_mode(known: GeneBatch) -> None:
    network = prepared(SMALL, known)
    network.train()
    statistics = network.state_dict()["encoder.1.running_mean"].clone()
    first = reconstruct(network, known)
    assert network.training
    assert torch.equal(statistics, network.state_dict()["encoder.1.running_mean"])
    assert torch.equal(first.counts, reconstruct(network, known).counts)


def test_a_small_network_learns_forty_real_genes_by_heart(real: GeneBatch) -> None:
    batch = real.part(torch.arange(40))
    options = SMALL.model_copy(update={"filters": (24, 24, 24), "dense": 128, "latent_size": 64})
    network = prepared(options, batch)
    optimizer = torch.optim.RMSprop(network.parameters(), lr=2e-3, alpha=0.9, eps=1e-7)
    before = reconstruction(network, batch)
    generator = noise()
    for _ in range(150):
        optimizer.zero_grad()
        torch.autograd.backward(network.losses(batch, generator, 0.0).total)
        optimizer.step()
    after = reconstruction(network, batch)
    assert before.elements < 0.1
    assert after.spacegroup > 0.9
    assert after.slot_elements > 0.6
    with torch.no_grad():
        network.eval()
        error = (network.properties(network.encode(batch)[0]) - batch.targets).abs().mean()
    assert float(error) < 0.4
