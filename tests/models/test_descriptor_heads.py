from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toy_crystals import read_crystals, toy_crystals

from models.data import LabelledStructure
from models.descriptors import describe_crystal, n_descriptors
from models.equivalents import equivalent_structures
from models.heads.descriptors import DescriptorHead, DescriptorHeadConfig
from models.heads.residual_process import ResidualProcess
from models.networks import descriptors as network

SMALL = {"hidden": 32, "members": 2, "max_epochs": 40, "batch_size": 16}
SHIFT = 0.4


def small_head(**options: object) -> DescriptorHead:
    return DescriptorHead(DescriptorHeadConfig(**SMALL | options))


def of_a_campaign(items: list[LabelledStructure], shift: float = SHIFT) -> list[LabelledStructure]:
    """Return crystals as a campaign's labels, which lie higher than the reference would make believe."""
    energy = "formation_energy_per_atom"
    return [
        replace(one, campaign=True, properties={energy: (one.known(energy) or 0.0) + shift}) for one in items
    ]


@pytest.fixture(scope="module")
def fitted() -> DescriptorHead:
    head = small_head()
    head.fit(toy_crystals(110)[:70], [], seed=3)
    return head


def copied(head: DescriptorHead, folder: Path) -> DescriptorHead:
    head.save(folder)
    return DescriptorHead.load(folder)


def test_other_descriptions_of_a_crystal_have_the_same_descriptors(data_dir: Path) -> None:
    crystals = [one.structure for one in read_crystals(data_dir, "wbm_train.parquet", 25)]
    vectors = np.array([describe_crystal(one) for one in crystals])
    assert vectors.shape == (25, n_descriptors())
    assert np.isfinite(vectors).all()
    allowed = 1e-6 * np.ptp(vectors, axis=0) + 1e-9
    for place, structure in enumerate(crystals):
        for name, other in equivalent_structures(structure, place).items():
            assert (np.abs(describe_crystal(other) - vectors[place]) <= allowed).all(), name


def test_descriptors_change_little_when_atoms_move_little(data_dir: Path) -> None:
    for one in read_crystals(data_dir, "wbm_train.parquet", 10, seed=1):
        before = describe_crystal(one.structure)
        moved = one.structure.copy()
        moved.perturb(1e-5)
        assert np.abs(describe_crystal(moved) - before).max() < 1e-2 * np.abs(before).max()


def test_an_atom_without_neighbours_is_described() -> None:
    from pymatgen.core import Lattice, Structure

    assert np.isfinite(describe_crystal(Structure(Lattice.cubic(12), ["Cs"], [[0, 0, 0]]))).all()


def test_descriptors_are_remembered() -> None:
    structure = toy_crystals(1)[0].structure
    assert network._remembered(structure) is network._remembered(structure.copy())


def test_a_few_labels_correct_a_campaign_and_leave_the_reference_as_it_was(
    fitted: DescriptorHead, tmp_path: Path
) -> None:
    labels = of_a_campaign(toy_crystals(110)[70:])
    learned, asked = labels[:20], labels[20:]
    known = toy_crystals(110)[:70]
    head = copied(fitted, tmp_path)
    before, reference = head.evaluate(asked), head.evaluate(known)
    figures = head.fine_tune(learned, known, seed=0)
    after = head.evaluate(asked)
    assert before["mae"] > 0.7 * SHIFT
    assert after["mae"] < 0.5 * before["mae"]
    assert figures["mae_labelled_after"] < figures["mae_labelled_before"]
    assert head.evaluate(known) == reference


def test_labels_are_learned_once_however_often_they_are_told(fitted: DescriptorHead, tmp_path: Path) -> None:
    labels = of_a_campaign(toy_crystals(110)[70:90])
    one, other = copied(fitted, tmp_path / "a"), copied(fitted, tmp_path / "b")
    one.fine_tune(labels, [], seed=0)
    other.fine_tune(of_a_campaign(toy_crystals(110)[70:80], shift=-1.0), [], seed=0)  # wrong, mended later
    other.fine_tune(labels[:10], [], seed=0)
    figures = other.fine_tune(labels[10:], [], seed=0)
    structures = [one.structure for one in toy_crystals(110)[80:]]
    assert figures["n_known"] == 20
    assert np.allclose(one.predict(structures).mean, other.predict(structures).mean, atol=1e-6)


def test_the_newest_labels_are_kept(fitted: DescriptorHead, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    head = DescriptorHead.load(tmp_path)
    head.config = head.config.model_copy(update={"max_labels": 10})
    assert head.fine_tune(of_a_campaign(toy_crystals(110)[70:95]), [], seed=0)["n_known"] == 10


def test_a_corrected_head_is_the_same_after_a_checkpoint(fitted: DescriptorHead, tmp_path: Path) -> None:
    head = copied(fitted, tmp_path / "a")
    head.fine_tune(of_a_campaign(toy_crystals(110)[70:90]), [], seed=0)
    structures = [one.structure for one in toy_crystals(110)]
    again = copied(head, tmp_path / "b").predict(structures)
    assert np.allclose(again.mean, head.predict(structures).mean, atol=1e-9)
    assert np.allclose(again.std, head.predict(structures).std, atol=1e-9)


def test_a_property_that_few_labels_have_is_corrected_by_those(tmp_path: Path) -> None:
    def with_gap(one: LabelledStructure, gap: float | None) -> LabelledStructure:
        return replace(one, properties={**one.properties, "band_gap": gap})

    crystals = toy_crystals(110)
    energy = [one.known("formation_energy_per_atom") or 0.0 for one in crystals]
    known = [
        with_gap(one, -e if place % 3 else None)
        for place, (one, e) in enumerate(zip(crystals, energy, strict=True))
    ]
    head = small_head(properties=("formation_energy_per_atom", "band_gap"))
    head.fit(known[:70], [], seed=3)
    asked = [one.structure for one in known[90:]]
    before = head.predict(asked).mean
    labels = [
        replace(
            one,
            campaign=True,
            properties={
                "formation_energy_per_atom": energy[70 + place],
                "band_gap": 2.0 if place < 6 else None,
            },
        )
        for place, one in enumerate(known[70:90])
    ]
    head.fine_tune(labels, [], seed=0)
    after = head.predict(asked).mean
    assert np.isfinite(after).all()
    assert np.abs(after[:, 0] - before[:, 0]).mean() < 0.2
    assert np.abs(after[:, 1] - 2.0).mean() < np.abs(before[:, 1] - 2.0).mean()


def toy_process(n: int, sigma: float = 0.1) -> tuple[ResidualProcess, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    points = draw.normal(size=(n + 100, 3)) * 0.5
    errors = 0.3 + 0.2 * np.sin(3 * points[:, 0]) + sigma * draw.normal(size=len(points))
    return ResidualProcess.fit(points[:n], errors[:n], sigma), points[n:], errors[n:]


def test_a_process_finds_errors_that_are_alike_for_alike_crystals() -> None:
    process, points, errors = toy_process(100)
    mean, std = process.correct(points)
    assert np.abs(errors - mean).mean() < 0.5 * np.abs(errors).mean()
    assert 0.8 < (np.abs(errors - mean) < 1.645 * std).mean() <= 0.98


def test_a_process_is_unsure_far_from_labels() -> None:
    process, points, _ = toy_process(100)
    _, near = process.correct(points)
    _, far = process.correct(points + 10.0)
    assert far.min() > near.max()


def test_one_label_does_not_make_a_process_sure_of_everything() -> None:
    process = ResidualProcess.fit(np.zeros((1, 3)), np.array([0.0]), 0.1)
    _, std = process.correct(np.array([[0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]))
    assert std[0] < std[1]
    assert std[1] > 0.2


def test_a_label_that_is_wrong_by_electronvolts_does_not_spoil_its_neighbours() -> None:
    process, points, errors = toy_process(100)
    residuals = process.residuals.copy()
    residuals[0] = -50.0
    spoilt = ResidualProcess.fit(process.points, residuals, process.sigma)
    mean, _ = spoilt.correct(points)
    assert np.abs(errors - mean).mean() < 2.0 * np.abs(errors - process.correct(points)[0]).mean()
