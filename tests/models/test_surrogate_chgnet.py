"""CHGNet as surrogate: against chgnet's own code, against numbers of nature, and when crystals misbehave."""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pymatgen.core import Element, Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from models.errors import DeviceError, ModelsError
from models.relaxation import Evaluation, Geometry
from models.surrogates.batched import as_geometry
from models.surrogates.chgnet import UNTRAINED, CHGNetSurrogate, element_energies, load_quietly
from models.surrogates.chgnet_graph import CrystalGraph, crystal_graph
from models.testing import reference_crystals

EV_PER_ANG3_IN_GPA = 160.21766208


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def surrogate() -> CHGNetSurrogate:
    return CHGNetSurrogate()


def shaken(crystal: Structure, seed: int, scale: float = 1.0, by: float = 0.05) -> Structure:
    rng = np.random.default_rng(seed)
    lattice = crystal.lattice.matrix * scale @ (np.eye(3) + rng.normal(scale=0.01, size=(3, 3)))
    moved = Structure(lattice, crystal.species, crystal.frac_coords)
    coords = moved.cart_coords + rng.normal(scale=by, size=(len(moved), 3))
    return Structure(lattice, crystal.species, coords, coords_are_cartesian=True)


def textbook(places: Sequence[int]) -> list[Structure]:
    crystals = [item.structure for item in reference_crystals()]
    return [crystals[place] for place in places]


def relaxed_energies(surrogate: CHGNetSurrogate, crystals: Sequence[Structure]) -> list[float]:
    outcomes = surrogate.relax(crystals, fix_symmetry=False, max_steps=100, fmax_ev_per_ang=0.03)
    assert all(outcome.converged for outcome in outcomes)
    return [outcome.energy_per_atom for outcome in outcomes]


# --- the same potential as chgnet's -------------------------------------------------------------------------


def test_energy_forces_and_stress_are_chgnets_own(surrogate: CHGNetSurrogate) -> None:
    crystals = [shaken(crystal, seed) for seed, crystal in enumerate(textbook([0, 7, 11, 14, 19, 21, 25]))]
    crystals.append(crystals[4] * (1, 2, 1))
    expected = load_quietly("0.3.0").predict_structure(crystals, task="efs")
    geometries = [as_geometry(crystal) for crystal in crystals]
    assert all(isinstance(geometry, Geometry) for geometry in geometries)
    answers = surrogate.evaluate(geometries)  # type: ignore[arg-type]
    for crystal, own, answer in zip(crystals, expected, answers, strict=True):
        assert isinstance(answer, Evaluation)
        assert answer.energy / len(crystal) == pytest.approx(float(own["e"]), abs=2e-6)
        np.testing.assert_allclose(answer.forces, own["f"], atol=2e-4)
        np.testing.assert_allclose(answer.stress * EV_PER_ANG3_IN_GPA, own["s"], atol=2e-2)


def test_graph_has_chgnets_bonds_and_angles() -> None:
    converter = load_quietly("0.3.0").graph_converter
    for crystal in textbook([2, 14, 22]):
        geometry = as_geometry(crystal)
        assert isinstance(geometry, Geometry)
        own, graph = converter(crystal), crystal_graph(geometry, 6.0, 3.0)
        assert len(graph.bonds) == len(own.atom_graph)
        assert len(graph.one_directed) == len(own.undirected2directed)
        assert len(graph.angles) == len(own.bond_graph)


def test_stress_is_the_derivative_of_the_energy(surrogate: CHGNetSurrogate) -> None:
    crystal = shaken(textbook([21])[0], 0, scale=0.97)
    geometry = as_geometry(crystal)
    assert isinstance(geometry, Geometry)
    answer = surrogate.evaluate([geometry])[0]
    assert isinstance(answer, Evaluation)
    assert np.trace(answer.stress) < 0  # compressed: negative, in ase's sign
    step = 4e-3
    for row, column in ((0, 0), (1, 1), (0, 1), (1, 2)):
        strain = np.zeros((3, 3))
        strain[row, column] = strain[column, row] = step / (1 if row == column else 2)
        energies = []
        for sign in (1, -1):
            strained = Geometry(
                geometry.numbers, geometry.frac_coords, geometry.lattice @ (np.eye(3) + sign * strain)
            )
            found = surrogate.evaluate([strained])[0]
            assert isinstance(found, Evaluation)
            energies.append(found.energy)
        slope = (energies[0] - energies[1]) / (2 * step) / geometry.volume
        assert slope == pytest.approx(answer.stress[row, column], abs=2e-3)


def test_unwrapped_coordinates_are_the_same_crystal(surrogate: CHGNetSurrogate) -> None:
    geometry = as_geometry(shaken(textbook([21])[0], 1))
    assert isinstance(geometry, Geometry)
    moved = Geometry(
        geometry.numbers, geometry.frac_coords + np.array([[3], [-2], [0], [1], [7]]), geometry.lattice
    )
    first, second = surrogate.evaluate([geometry, moved])
    assert isinstance(first, Evaluation)
    assert isinstance(second, Evaluation)
    assert first.energy == pytest.approx(second.energy, abs=1e-4)
    np.testing.assert_allclose(first.forces, second.forces, atol=1e-3)


# --- relaxation ---------------------------------------------------------------------------------------------


def test_batched_and_alone_end_at_the_same_place(surrogate: CHGNetSurrogate) -> None:
    crystals = [shaken(c, seed, scale=1.03) for seed, c in enumerate(textbook([0, 3, 9, 17, 19, 21, 26]))]
    alone = [relaxed_energies(surrogate, [crystal])[0] for crystal in crystals]
    small = CHGNetSurrogate(CHGNetSurrogate.Config(rows_per_batch=700))
    np.testing.assert_allclose(relaxed_energies(surrogate, crystals), alone, atol=1e-3)
    np.testing.assert_allclose(relaxed_energies(small, crystals), alone, atol=1e-3)


def test_fixed_symmetry_keeps_what_a_free_relaxation_breaks(surrogate: CHGNetSurrogate) -> None:
    # Cubic CsGeCl3: nature, and CHGNet, prefer it polar. A shaken start within the tolerance is cubic still.
    sites = [[0] * 3, [0.5] * 3, [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    cubic = Structure(Lattice.cubic(5.3), ["Cs", "Ge", "Cl", "Cl", "Cl"], sites)
    start = Structure(
        cubic.lattice, cubic.species, cubic.frac_coords + 0.002 * np.arange(15).reshape(5, 3) % 0.01
    )
    free, fixed = (
        surrogate.relax([start], fix_symmetry=fix, max_steps=200, fmax_ev_per_ang=0.01, symprec=0.1)[0]
        for fix in (False, True)
    )
    assert (free.spacegroup_before, fixed.spacegroup_before) == (221, 221)
    assert fixed.converged
    assert fixed.spacegroup_after == 221
    assert SpacegroupAnalyzer(fixed.structure, symprec=1e-4).get_space_group_number() == 221
    assert free.spacegroup_after != 221
    assert free.energy_per_atom < fixed.energy_per_atom - 1e-3


def test_provenance_and_oxidation_states_survive(surrogate: CHGNetSurrogate) -> None:
    crystal = textbook([0])[0].copy()
    crystal.add_oxidation_state_by_element({"Na": 1, "Cl": -1})
    crystal.properties = {"prototype": "AB", "substitution": {"K": "Na"}}
    final = surrogate.relax([crystal], fix_symmetry=True, max_steps=50, fmax_ev_per_ang=0.05)[0].structure
    assert final.properties == crystal.properties
    assert final.species == crystal.species


def test_awkward_crystals_get_an_error_and_harm_nobody(surrogate: CHGNetSurrogate) -> None:
    good = textbook([0])[0]
    awkward = {
        "nan": Structure(Lattice.cubic(4), ["Na"], [[float("nan"), 0, 0]]),
        "Pu": Structure(Lattice.cubic(4), ["Am"], [[0, 0, 0]]),
        "collapsed": Structure(Lattice.cubic(1.0), ["Na"], [[0, 0, 0]]),
        "same place": Structure(Lattice.cubic(4), ["Na", "K"], [[0, 0, 0], [0, 0, 0]]),
        "neighbour": Structure(Lattice.cubic(20), ["Na"], [[0, 0, 0]]),
        "not trained on Ra": Structure(Lattice.cubic(4), ["Ra", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "occupied": Structure(Lattice.cubic(4), [{"Na": 0.5}], [[0, 0, 0]]),
    }
    awkward["finite"] = awkward.pop("nan")
    outcomes = surrogate.relax(
        [good, *awkward.values(), good], fix_symmetry=True, max_steps=50, fmax_ev_per_ang=0.05
    )
    assert outcomes[0].converged
    assert outcomes[-1].converged
    for word, outcome in zip(awkward, outcomes[1:-1], strict=True):
        assert outcome.error is not None
        assert word in outcome.error
        assert not outcome.converged


def test_a_batch_that_does_not_fit_is_halved() -> None:
    class Cramped(CHGNetSurrogate):
        """A device with room for two crystals, and none for copper."""

        calls = 0

        def _forward(self, graphs: Sequence[CrystalGraph], derivatives: bool) -> list[Evaluation | str]:
            self.calls += 1
            if len(graphs) > 2 or any(29 in graph.geometry.numbers for graph in graphs):
                raise RuntimeError("out of memory\nsecond line")
            return super()._forward(graphs, derivatives)

    crystals = textbook([0, 1, 25, 3, 4])
    cramped = Cramped()
    energies = cramped.energies(crystals)
    assert np.isnan(energies).tolist() == [False, False, True, False, False]
    np.testing.assert_allclose(
        energies[[0, 1, 3, 4]], CHGNetSurrogate().energies(crystals)[[0, 1, 3, 4]], atol=1e-5
    )
    error = cramped.relax(crystals[2:3], fix_symmetry=False, max_steps=1, fmax_ev_per_ang=0.1)[0].error
    assert error is not None
    assert "out of memory" in error
    assert "\n" not in error


def test_max_steps_zero_gives_the_crystal_as_it_is(surrogate: CHGNetSurrogate) -> None:
    crystal = shaken(textbook([0])[0], 3, scale=1.05)
    outcome = surrogate.relax([crystal], fix_symmetry=False, max_steps=0, fmax_ev_per_ang=0.01)[0]
    assert outcome.n_steps == 0
    assert not outcome.converged
    assert outcome.energy_per_atom == pytest.approx(float(surrogate.energies([crystal])[0]), abs=1e-5)


# --- scale, device, manners ---------------------------------------------------------------------------------


def test_formation_energies_are_those_of_the_materials_project(surrogate: CHGNetSurrogate) -> None:
    # Corrected formation energies [eV/atom] on the Materials Project's pages
    known = {
        "NaCl": (0, -2.10),
        "MgO": (3, -3.04),
        "CaF2": (17, -4.24),
        "CaTiO3": (21, -3.45),
        "NiAl": (14, -0.66),
    }
    outcomes = surrogate.relax(
        textbook([place for place, _ in known.values()]),
        fix_symmetry=True,
        max_steps=50,
        fmax_ev_per_ang=0.05,
    )
    found = surrogate.formation_energies(
        [o.structure for o in outcomes], [o.energy_per_atom for o in outcomes]
    )
    np.testing.assert_allclose(found, [energy for _, energy in known.values()], atol=0.12)


def test_every_element_up_to_plutonium_but_few_has_a_reference(surrogate: CHGNetSurrogate) -> None:
    missing = {Element.from_Z(z).symbol for z in range(1, 95)} - set(element_energies())
    assert missing == set(UNTRAINED.values())
    assert all(-15 < energy < 0 for energy in element_energies().values())
    with pytest.raises(ModelsError, match="no elemental reference"):
        surrogate.element_energy("Og")
    assert np.isnan(surrogate.formation_energies([Structure(Lattice.cubic(4), ["Og"], [[0] * 3])], [0.0]))


def test_an_element_in_its_ground_state_is_the_zero(surrogate: CHGNetSurrogate) -> None:
    copper = textbook([25])
    energy = relaxed_energies(surrogate, copper)
    assert surrogate.formation_energies(copper, energy)[0] == pytest.approx(0.0, abs=0.03)


def test_it_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    CHGNetSurrogate().energies(textbook([0]))
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_building_it_loads_nothing() -> None:
    assert "_model" not in vars(CHGNetSurrogate())
    assert "chgnet-0.3.0" in CHGNetSurrogate().version


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_missing_gpu_is_told() -> None:
    with pytest.raises(DeviceError, match="not on this machine"):
        CHGNetSurrogate(CHGNetSurrogate.Config(device="cuda")).energies(textbook([0]))
    assert CHGNetSurrogate(CHGNetSurrogate.Config(device="auto")).device.type == "cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_same(surrogate: CHGNetSurrogate) -> None:
    crystals = [shaken(c, seed) for seed, c in enumerate(textbook([0, 9, 21]))]
    on_gpu = CHGNetSurrogate(CHGNetSurrogate.Config(device="cuda"))
    np.testing.assert_allclose(on_gpu.energies(crystals), surrogate.energies(crystals), atol=1e-4)
    np.testing.assert_allclose(
        relaxed_energies(on_gpu, crystals), relaxed_energies(surrogate, crystals), atol=2e-3
    )


# --- against data, and the clock ----------------------------------------------------------------------------


def materials(data_dir: Path, n: int, seed: int) -> tuple[list[Structure], np.ndarray]:
    import pandas as pd

    table = pd.read_parquet(data_dir / "mp_val.parquet")
    table = table[(table.n_atoms <= 10) & table.formation_energy_per_atom.notna()].sample(
        n, random_state=seed
    )
    crystals = [
        Structure(np.reshape(r.lattice, (3, 3)), r.atomic_numbers, np.reshape(r.frac_coords, (-1, 3)))
        for r in table.itertuples()
    ]
    return crystals, table.formation_energy_per_atom.to_numpy()


@pytest.mark.slow
def test_formation_energies_of_held_out_materials(surrogate: CHGNetSurrogate, data_dir: Path) -> None:
    crystals, labels = materials(data_dir, 100, 0)
    outcomes = surrogate.relax(crystals, fix_symmetry=True, max_steps=100, fmax_ev_per_ang=0.05)
    energies = surrogate.formation_energies(crystals, [outcome.energy_per_atom for outcome in outcomes])
    error = np.abs(energies - labels)
    assert np.isfinite(error).all()
    assert error.mean() < 0.05, f"{error.mean():.3f} eV/atom"
    assert np.mean([outcome.converged for outcome in outcomes]) > 0.95


@pytest.mark.slow
def test_crystals_far_from_rest_converge(surrogate: CHGNetSurrogate, data_dir: Path) -> None:
    rng = np.random.default_rng(0)
    crystals = [
        shaken(crystal, seed, float(rng.uniform(0.94, 1.06)), by=0.06)
        for seed, crystal in enumerate(materials(data_dir, 60, 2)[0])
    ]
    outcomes = surrogate.relax(crystals, fix_symmetry=False, max_steps=200, fmax_ev_per_ang=0.05)
    assert [outcome.error for outcome in outcomes] == [None] * 60
    assert sum(outcome.converged for outcome in outcomes) >= 59
    assert np.mean([outcome.n_steps for outcome in outcomes]) < 20


@pytest.mark.slow
def test_batched_is_faster_than_one_by_one(surrogate: CHGNetSurrogate, data_dir: Path) -> None:
    from chgnet.model import StructOptimizer

    crystals = [shaken(c, seed, 1.03) for seed, c in enumerate(materials(data_dir, 12, 1)[0])]
    with contextlib.redirect_stdout(io.StringIO()):
        one_by_one = StructOptimizer(use_device="cpu", on_isolated_atoms="ignore")
        begin = time.process_time()
        theirs = [
            one_by_one.relax(c, fmax=0.05, steps=300, verbose=False, assign_magmoms=False) for c in crystals
        ]
        slow = time.process_time() - begin
    begin = time.process_time()
    ours = surrogate.relax(crystals, fix_symmetry=False, max_steps=300, fmax_ev_per_ang=0.05)
    fast = time.process_time() - begin
    excess = [
        o.energy_per_atom - t["trajectory"].energies[-1] / len(c)
        for o, t, c in zip(ours, theirs, crystals, strict=True)
    ]
    assert fast < slow / 2, f"{len(crystals)} crystals: {fast:.1f} s batched, {slow:.1f} s one by one"
    assert np.median(excess) < 2e-3  # and ends no higher
