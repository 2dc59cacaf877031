"""The FTCP baseline: its arrays against pymatgen, its losses against figures made by hand, its answers to labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from models.data import E_ABOVE_HULL, FORMATION_ENERGY, STABLE, Conditions, LabelledStructure
from models.errors import CheckpointError, OptionsError, TrainingDataError
from models.generators.ftcp.config import FTCPConfig
from models.generators.ftcp.evaluation import property_metrics, reconstruction_metrics
from models.generators.ftcp.fitting import fit_scale, rate_factor
from models.generators.ftcp.generator import FTCPGenerator
from models.generators.ftcp.network import FTCPNetwork
from models.generators.ftcp.representation import (
    Layout,
    decode,
    element_features,
    k_points,
    possible,
    read_cells,
    represent,
    to_structure,
)
from models.testing import reference_crystals

LAYOUT = Layout(max_elements=3, max_sites=20)
SMALL = FTCPConfig(
    filters=32,
    dense=64,
    latent=32,
    epochs=60,
    batch_size=8,
    learning_rate=1e-2,
    fine_tune_learning_rate=1e-3,
    fine_tune_epochs=10,
    properties=(FORMATION_ENERGY, STABLE, "band_gap"),
)
CONDITIONS = Conditions(("Ca", "Mg", "Sr", "Ti", "O", "F", "Cl"), (2, 3), 12)


def perovskite() -> Structure:
    """A perovskite, strained and shifted so that no entry is what it is by chance."""
    frac = np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.5]])
    lattice = Lattice.from_parameters(3.8, 3.9, 4.1, 89.0, 91.0, 92.0)
    return Structure(lattice, ["Ca", "Ti", "O", "O", "O"], frac + np.array([0.03, 0.11, 0.23]))


def rock_salt() -> Structure:
    return reference_crystals()[0].structure


def arrays(*structures: Structure) -> torch.Tensor:
    return represent(read_cells(structures, LAYOUT)[0], LAYOUT, element_features())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a generator fitted on the textbook crystals."""
    found = tmp_path_factory.mktemp("ftcp")
    model = FTCPGenerator(SMALL)
    model.fit(reference_crystals(), 0)
    assert model.log.reconstruction[-1] < 0.1 * model.log.reconstruction[0]
    model.save(found)
    return found


def test_the_array_has_the_blocks_of_the_paper() -> None:
    array = arrays(perovskite())[0]
    assert array.shape == (240, 62)
    assert [int(torch.argmax(array[:103, c])) + 1 for c in range(3)] == [20, 22, 8]  # by electronegativity
    assert array[:103].sum() == 3
    assert torch.allclose(array[103, :3], torch.tensor([3.8, 3.9, 4.1]))
    assert torch.allclose(array[104, :3], torch.tensor([89.0, 91.0, 92.0]))
    assert torch.allclose(array[105:110, :3].double(), torch.from_numpy(perovskite().frac_coords), atol=1e-6)
    assert array[125:130, :3].tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
    assert torch.equal(array[146:238, :3], element_features()[[20, 22, 8]].T)
    empty = [array[110:125], array[130:145], array[238:], array[:145, 3:], array[145, :3]]
    assert all(bool((block == 0).all()) for block in empty)


def test_the_reciprocal_space_is_the_real_part_of_a_structure_factor() -> None:
    crystal = perovskite()
    array = arrays(crystal)[0]
    hkl, norms = k_points(torch.tensor([crystal.lattice.abc]), torch.tensor([crystal.lattice.angles]))
    waves = np.exp(2j * np.pi * crystal.frac_coords @ hkl[0].double().numpy().T)  # (n_atoms, 59)
    features = element_features().double().numpy()[list(crystal.atomic_numbers)]  # (n_atoms, 92)
    assert np.allclose(array[146:238, 3:], (features.T @ waves).real, atol=1e-4)
    assert torch.equal(array[145, 3:], norms[0])


@pytest.mark.parametrize(
    "lattice",
    [
        Lattice.from_parameters(3.8, 3.9, 4.1, 89.0, 91.0, 92.0),
        Lattice.from_parameters(2.6, 2.6, 19.0, 90.0, 90.0, 120.0),
        Lattice([[0, 1.8, 1.8], [1.8, 0, 1.8], [1.8, 1.8, 0]]),
        Lattice.from_parameters(1.9, 2.0, 2.0, 90.0, 90.0, 90.0),  # the second radius
    ],
)
def test_k_points_are_those_that_pymatgen_finds_in_the_sphere(lattice: Lattice) -> None:
    sphere = lattice.reciprocal_lattice_crystallographic.get_points_in_sphere
    points = sphere([[0, 0, 0]], [0, 0, 0], 1.297, zip_results=False)
    if len(points[0]) < 60:
        points = sphere([[0, 0, 0]], [0, 0, 0], 1.4, zip_results=False)
    expected = [
        (tuple(np.round(h).astype(int).tolist()), d) for h, d in zip(*points[:2], strict=True) if d > 0
    ]
    expected.sort(key=lambda p: (sum(map(abs, p[0])), -p[0][0], -p[0][1], -p[0][2]))
    assert len(expected) >= 59
    hkl, norms = k_points(torch.tensor([lattice.abc]), torch.tensor([lattice.angles]))
    assert [tuple(h) for h in hkl[0].int().tolist()] == [h for h, _ in expected[:59]]
    assert np.allclose(norms[0], [d for _, d in expected[:59]], atol=1e-6)


def test_atoms_in_other_cells_and_in_another_order_make_the_same_array() -> None:
    crystal = perovskite()
    moved = Structure(crystal.lattice, crystal.species, crystal.frac_coords + [[1, -2, 0]] * 5)
    turned = Structure.from_sites([crystal[i] for i in (1, 2, 0, 3, 4)])
    same = arrays(crystal, moved, turned)
    assert torch.allclose(same[0], same[1], atol=1e-4)
    assert torch.allclose(same[0], same[2])


def test_a_coordinate_that_rounding_left_below_one_counts_as_zero() -> None:
    crystal = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0.9999999, -1e-9, 0.0], [0.5, 0.5, 0.9]])
    cells, _ = read_cells([crystal], LAYOUT)
    assert cells.frac_coords[0, 0].tolist() == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert cells.frac_coords[0, 1].tolist() == pytest.approx([0.5, 0.5, 0.9], abs=1e-6)


def test_a_binary_crystal_leaves_the_third_element_empty() -> None:
    array = arrays(rock_salt())[0]
    assert bool((array[:103, 2] == 0).all() and (array[125:145, 2] == 0).all())
    assert bool((array[146:238, 2] == 0).all())
    cells = decode(array[None], LAYOUT)
    assert cells.elements.tolist() == [[11, 17, 0]]


def test_what_is_read_off_an_array_is_the_crystal() -> None:
    crystals = [perovskite(), rock_salt(), reference_crystals()[-1].structure]
    decoded = decode(arrays(*crystals), LAYOUT)
    assert bool(possible(decoded).all())
    for place, crystal in enumerate(crystals):
        again = to_structure(decoded, place)
        assert again.composition == crystal.composition
        assert np.allclose(sorted(again.lattice.parameters), sorted(crystal.lattice.parameters), atol=1e-4)
        assert np.allclose(again.distance_matrix, crystal.distance_matrix, atol=1e-4)


def test_weak_sites_are_dropped_and_other_elements_get_no_vote() -> None:
    array = arrays(perovskite())
    array[0, 129] = 0.04  # the last oxygen hardly sits anywhere
    allowed = torch.zeros(104, dtype=torch.bool)
    allowed[[38, 22, 8]] = True
    array[0, 37, 0] = 0.2  # strontium is second to calcium, which is not allowed
    cells = decode(array, LAYOUT, allowed)
    assert to_structure(cells, 0).formula == "Sr1 Ti1 O2"


def test_cells_that_cannot_be_are_told() -> None:
    array = arrays(perovskite()).repeat(5, 1, 1)
    array[1, 103, 0] = 0.02  # 0.1 Å³ per atom or so
    array[2, 104, :3] = torch.tensor([60.0, 60.0, 150.0])  # no such corner
    array[3, 105, 0] = torch.nan
    array[4, 125:145] = 0.0  # no atoms
    assert possible(decode(array, LAYOUT)).tolist() == [True, False, False, False, False]


def test_only_crystals_that_fit_are_read() -> None:
    disordered = Structure(Lattice.cubic(4.0), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    quaternary = Structure(Lattice.cubic(6.0), ["Na", "K", "Cl", "F"], np.eye(4, 3) * 0.5)
    large = rock_salt() * (11, 1, 1)
    cells, kept = read_cells([disordered, perovskite(), quaternary, large, rock_salt()], LAYOUT)
    assert kept.tolist() == [1, 4]
    assert len(cells) == 2
    assert represent(read_cells([quaternary], Layout(4, 20))[0], Layout(4, 20), element_features()).shape == (
        1,
        240,
        63,
    )


def test_too_few_crystals_are_named() -> None:
    large = LabelledStructure(rock_salt() * (11, 1, 1), {})
    with pytest.raises(TrainingDataError, match=r"got .4 of 9.; .* 20 atoms"):
        FTCPGenerator(SMALL).fit([*reference_crystals()[:4], *[large] * 5], 0)


def test_rows_are_scaled_to_the_training_crystals_and_back() -> None:
    network = FTCPNetwork(SMALL, LAYOUT, 0)
    cells, _ = read_cells([item.structure for item in reference_crystals()], LAYOUT)
    fit_scale(network, cells, LAYOUT)
    array = represent(cells, LAYOUT, element_features())
    scaled = network.scale(array)
    assert float(scaled.min()) == 0.0
    highest = scaled.amax(dim=(0, 2))
    assert bool(((highest - 1.0).abs() < 1e-5).logical_or(highest == 0.0).all())
    assert torch.allclose(network.unscale(scaled), array, atol=1e-4)


@pytest.mark.parametrize("max_sites", [20, 7])
def test_the_decoder_mirrors_the_encoder(max_sites: int) -> None:
    layout = Layout(3, max_sites)
    network = FTCPNetwork(SMALL, layout, 0).eval()
    array = torch.rand(2, layout.n_rows, layout.n_columns)
    mean, log_variance = network.encode(array)
    assert mean.shape == log_variance.shape == (2, 32)
    assert network.decode(mean).shape == array.shape


def test_the_full_network_has_the_layers_of_the_paper() -> None:
    shapes = [
        tuple(weight.shape)
        for weight in FTCPNetwork(FTCPConfig(), LAYOUT, 0).parameters()
        if weight.dim() > 1
    ]
    assert shapes == [
        (32, 62, 5), (64, 32, 3), (128, 64, 3), (1024, 7680), (256, 1024), (256, 1024),
        (7680, 256), (128, 64, 3), (64, 32, 3), (32, 62, 5), (128, 256), (32, 128), (1, 32),
    ]  # fmt: skip


def test_the_rate_drops_at_epochs_50_and_100_of_200() -> None:
    factors = [rate_factor(epoch, 200) for epoch in (0, 49, 50, 99, 100, 199)]
    assert factors == [1.0, 1.0, 0.2, 0.2, 0.1, 0.1]


def test_the_loss_sums_errors_and_masks_labels() -> None:
    network = FTCPNetwork(SMALL, LAYOUT, 0).eval()
    array = torch.rand(3, LAYOUT.n_rows, LAYOUT.n_columns)
    unknown = torch.full((3, 3), torch.nan)
    some = unknown.clone()
    some[1, 0] = 0.25

    def losses(targets: torch.Tensor, weights: torch.Tensor) -> tuple[float, float, float]:
        with torch.no_grad():
            found = network.losses(array, targets, weights, torch.Generator().manual_seed(1))
        return found.reconstruction.item(), found.divergence.item(), found.properties.item()

    ones = torch.ones(3, 2)
    plain, masked = losses(some, ones), losses(unknown, ones)
    with torch.no_grad():
        mean, log_variance = network.encode(array)
        predicted = float(network.predict(mean)[1, 0])
        each = torch.distributions.kl_divergence(
            torch.distributions.Normal(mean, torch.exp(0.5 * log_variance)),
            torch.distributions.Normal(0.0, 1.0),
        )
    assert plain[2] == pytest.approx(10.0 * (predicted - 0.25) ** 2, rel=1e-4)
    assert plain[1] == pytest.approx(2.0 * float(each.mean()), rel=1e-4)
    assert masked == (plain[0], plain[1], 0.0)
    parts = [losses(unknown, torch.eye(3)[place][:, None].repeat(1, 2))[0] for place in range(3)]
    assert sum(parts) == pytest.approx(plain[0], rel=1e-5)


def test_crystals_come_from_seeds_of_the_wanted_elements(folder: Path) -> None:
    model = FTCPGenerator.load(folder)
    found = model.sample(12, CONDITIONS, 3)
    assert 6 <= len(found) <= 12
    known = {item.structure.composition.reduced_formula for item in reference_crystals()}
    sources = {crystal.properties["source"] for crystal in found}
    assert sources <= {"CaMg", "CaO", "MgO", "CaF2", "CaTiO3", "SrO", "CaS"} & known
    assert len({crystal.composition.formula for crystal in found}) > 1


def test_other_seeds_and_the_prior_serve_where_there_are_none(folder: Path) -> None:
    strange = Conditions(("Fe", "Co", "Br"), (2, 2), 4)
    model = FTCPGenerator.load(folder)
    found = model.sample(4, strange, 0)
    assert found
    assert all({e.symbol for e in crystal.composition} <= {"Fe", "Co", "Br"} for crystal in found)
    free = FTCPGenerator(SMALL.model_copy(update={"prior_fraction": 1.0}))
    free._restore(FTCPGenerator._weights(model), 0)
    assert {crystal.properties["source"] for crystal in free.sample(4, CONDITIONS, 0)} <= {"prior"}


def test_a_formula_is_kept_to(folder: Path) -> None:
    wanted = Conditions(("Ca", "O", "F"), (2, 2), 12, formula="CaF2")
    found = FTCPGenerator.load(folder).sample(4, wanted, 0)
    assert all(crystal.composition.reduced_formula == "CaF2" for crystal in found)
    assert {crystal.properties["source"] for crystal in found} <= {"CaF2"}


def test_what_cannot_be_answered_gives_nothing_or_a_named_error(folder: Path) -> None:
    model = FTCPGenerator.load(folder)
    assert model.sample(3, Conditions(("Ca", "Ti", "O", "F"), (4, 4), 12), 0) == []
    with pytest.raises(OptionsError, match="no such element"):
        model.sample(3, Conditions(("Ca", "Xx"), (1, 2), 12), 0)


def test_labels_move_the_predictions(folder: Path) -> None:
    model = FTCPGenerator.load(folder)
    crystals = [item.structure for item in reference_crystals()]
    before = model.predict_properties(crystals)
    assert np.isnan(before[:, 2]).all()  # nobody ever told a band gap
    news = [
        LabelledStructure(crystal, {FORMATION_ENERGY: -0.6, "band_gap": 2.0 + 0.1 * i})
        for i, crystal in enumerate(crystals[:8])
    ]
    model.fine_tune(news, reference_crystals()[8:], 1)
    after = model.predict_properties(crystals)
    assert np.abs(after[:8, 0] + 0.6).mean() < 0.7 * np.abs(before[:8, 0] + 0.6).mean()
    assert ((after[:, 2] >= 2.0) & (after[:, 2] <= 2.7)).all()


def test_stable_labels_become_the_seeds_that_are_drawn(folder: Path) -> None:
    model = FTCPGenerator.load(folder)
    good = Structure(rock_salt().lattice, ["Rb", "I"], rock_salt().frac_coords)
    bad = Structure(rock_salt().lattice, ["Rb", "At"], rock_salt().frac_coords)
    model.fine_tune(
        [LabelledStructure(good, {E_ABOVE_HULL: 0.0}), LabelledStructure(bad, {E_ABOVE_HULL: 1.0})],
        reference_crystals(),
        1,
    )
    found = model.sample(20, Conditions(("Rb", "I", "At"), (2, 2), 12), 0)
    sources = [crystal.properties["source"] for crystal in found]
    assert sources.count("RbI") > 15
    assert model._seeds.weights[-2:].tolist() == pytest.approx([4.0, 4.0 * np.exp(-10.0)])


def test_labels_that_do_not_fit_are_no_labels(folder: Path) -> None:
    with pytest.raises(TrainingDataError, match="0 of 1"):
        FTCPGenerator.load(folder).fine_tune(
            [LabelledStructure(rock_salt() * (11, 1, 1), {STABLE: 1.0})], [], 0
        )


def test_crystals_that_do_not_fit_have_no_prediction_and_no_reconstruction(folder: Path) -> None:
    model = FTCPGenerator.load(folder)
    pair = [rock_salt() * (11, 1, 1), rock_salt()]
    predicted = model.predict_properties(pair)
    assert np.isnan(predicted[0]).all()
    assert np.isfinite(predicted[1, :2]).all()
    assert model.reconstruct(pair)[0] is None
    assert model.evaluate_reconstruction(pair)["n"] == 1.0
    assert model.predict_properties([]).shape == (0, 3)


def test_a_damaged_checkpoint_is_named(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        text = file.read_bytes()
        (tmp_path / file.name).write_bytes(text.replace(b'"filters": 32', b'"filters": 64'))
    with pytest.raises(CheckpointError, match="does not describe"):
        FTCPGenerator.load(tmp_path)


def test_reconstruction_figures_are_those_of_the_definition() -> None:
    cells, _ = read_cells([perovskite(), rock_salt()], LAYOUT)
    perfect = represent(cells, LAYOUT, element_features())
    figures = reconstruction_metrics(cells, perfect, LAYOUT)
    assert figures["element_accuracy"] == figures["site_accuracy"] == figures["exact_composition"] == 1.0
    assert figures["lattice_mape"] == figures["angle_mape"] == 0.0
    # Coordinates below 0.1 are set to zero, as in the public code: 0.03 nine times of 21 numbers.
    small = sum(float(x) for x in perovskite().frac_coords.ravel() % 1 if x % 1 < 0.1)
    assert figures["coordinate_mae"] == pytest.approx(small / 21, abs=1e-6)
    wrong = perfect.clone()
    wrong[0, 103, :3] *= 1.1  # 10 % for three of six lengths
    wrong[1, 104, 0] *= 0.8  # 20 % for one of six angles
    wrong[0, 19, 0], wrong[0, 25, 0] = 0.3, 0.4  # one of five elements
    wrong[1, 126, 1] = 0.0  # one site of forty lost
    figures = reconstruction_metrics(cells, wrong, LAYOUT)
    assert figures["lattice_mape"] == pytest.approx(5.0, rel=1e-4)
    assert figures["angle_mape"] == pytest.approx(20.0 / 6.0, rel=1e-4)
    assert figures["element_accuracy"] == pytest.approx(0.8)
    assert figures["site_accuracy"] == pytest.approx(39 / 40)
    assert figures["exact_composition"] == 0.0


def test_property_figures_leave_out_what_is_not_known() -> None:
    truth = np.array([[1.0, 1.0], [2.0, 1.0], [np.nan, 0.0], [4.0, np.nan]])
    predicted = np.array([[1.5, 0.9], [2.0, 0.2], [9.0, 0.1], [np.nan, 0.7]])
    figures = property_metrics(("band_gap", STABLE), truth, predicted)
    assert figures["band_gap:mae"] == pytest.approx(0.25)
    assert figures["band_gap:n"] == 2.0
    assert figures["stable:recall"] == 0.5
    assert figures["stable:precision"] == 1.0
