from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from wycryst_models import (
    COMMON,
    SMALL_NETWORK,
    crystals_of,
    global_states,
    make_generator,
    with_options,
)

from models.data import E_ABOVE_HULL, FORMATION_ENERGY, Conditions, LabelledStructure
from models.errors import TrainingDataError
from models.generators.wycryst.gene_set import GeneSet
from models.generators.wycryst.generator import WyCrystGenerator
from models.genes import WyckoffGene, arrays_from_genes
from models.testing import reference_crystals

QUINARY = "1|Ca:a|F:a|Mg:a|O:a|Sr:a"


SHARP = {
    "network": {**SMALL_NETWORK, "latent_noise": 0.1},
    "training": {"min_steps": 200, "epochs": 200, "learning_rate": 1e-2, "exchange": 0.0},
    "fine_tune_steps": 60,
    "fine_tune_learning_rate": 3e-3,
}
"""With little noise the property branch learns thirty crystals in a few seconds."""


@pytest.fixture(scope="module")
def quick() -> WyCrystGenerator:
    generator = make_generator()
    generator.fit(reference_crystals(), 0)
    return generator


@pytest.fixture
def copied(quick: WyCrystGenerator, tmp_path: Path) -> WyCrystGenerator:
    """A copy to change."""
    quick.save(tmp_path / "copied")
    return WyCrystGenerator.load(tmp_path / "copied")


def gene_set(texts: Sequence[str], n_slots: int = 4) -> GeneSet:
    arrays = arrays_from_genes([WyckoffGene.from_text(text) for text in texts], n_slots)
    return GeneSet(*arrays, np.full((len(texts), 2), np.nan), np.ones(len(texts)))


def test_the_property_branch_learns_the_labels_in_their_units() -> None:
    generator = make_generator(**SHARP)
    train = [
        replace(
            item,
            properties={
                FORMATION_ENERGY: 50.0 + len(item.structure.composition),
                E_ABOVE_HULL: 0.1 if len(item.structure) > 2 else 0.0,
            },
        )
        for item in reference_crystals()
    ]
    generator.fit(train, 0)
    predicted, truth = generator.predict_genes(generator.fitted.known), generator.fitted.known.values
    assert (np.abs(predicted - truth).mean(axis=0) < 0.3 * truth.std(axis=0)).all()


# fine-tuning


LABELLED = ["221|Mg:a|Sr:b", "225|Ba:a|O:b", "216|Mg:a|Se:c", "225|Ca:a|Cl:c", "221|Ba:a|O:c|Ti:b"]


def labels(above: float | None, energy: float = 1.0) -> list[LabelledStructure]:
    return [
        replace(item, properties={E_ABOVE_HULL: above, FORMATION_ENERGY: energy})
        for item in crystals_of(LABELLED)
    ]


@pytest.mark.parametrize(("energy", "above", "rest"), [(0.1, 0.12, 0.85), (0.1, 0.25, 0.95)])
def test_fine_tuning_moves_predictions_towards_the_labels(energy: float, above: float, rest: float) -> None:
    generator = make_generator(**SHARP)
    generator.fit(reference_crystals(), 0)
    genes = gene_set(LABELLED)
    before = np.abs(generator.predict_genes(genes) - [energy, above]).mean(axis=0)
    generator.fine_tune(labels(above, energy), [], 0)
    after = np.abs(generator.predict_genes(genes) - [energy, above]).mean(axis=0)
    assert (after < rest * before).all()


def test_labelled_genes_become_known_and_weigh_by_their_stability(copied: WyCrystGenerator) -> None:
    old = copied.fitted.known
    assert not set(LABELLED) & old.texts
    given = [labels(above)[row] for row, above in enumerate((0.0, 0.1, 5.0, None, -0.2))]
    copied.fine_tune(given, [], 0)
    known = copied.fitted.known
    assert set(LABELLED) <= known.texts
    assert len(known) == len(old) + 5
    expected = [4.0, 4.0 / np.e, 0.02, 1.0, 4.0]
    assert known.weights[-5:] == pytest.approx(expected)
    assert known.weights[:-5] == pytest.approx(old.weights)
    assert np.isnan(known.values[-2, 1])
    assert len(old) == 30  # the genes of before are another record


def test_stable_labels_are_written_more_often_after_fine_tuning(
    copied: WyCrystGenerator, tmp_path: Path
) -> None:
    conditions = Conditions(("Ca", "Mg", "Ba", "O", "Se", "Cl", "Ti"), (2, 3), 12)

    def found(model: WyCrystGenerator) -> int:
        """Count labelled genes among the first few genes of each of thirty calls."""
        free = with_options(model, tmp_path / "free", exclude_known=False, max_draws=20)
        texts = [one.gene.text() for seed in range(30) for one in free.genes(20, conditions, seed).genes]
        return sum(text in LABELLED for text in texts)

    before = found(copied)
    unstable = WyCrystGenerator.load(tmp_path / "copied")
    unstable.fine_tune(labels(0.5), [], 0)
    copied.fine_tune(labels(0.0), [], 0)
    assert found(copied) > 1.3 * max(before, found(unstable))
    excluded = with_options(copied, tmp_path / "new", exclude_known=True).genes(200, conditions, 1)
    assert not {one.gene.text() for one in excluded.genes} & set(LABELLED)


def test_labels_without_a_gene_change_nothing(copied: WyCrystGenerator) -> None:
    before = {name: tensor.clone() for name, tensor in copied.fitted.network.state_dict().items()}
    copied.fine_tune([], [], 0)
    copied.fine_tune(crystals_of([QUINARY]), [], 0)
    after = copied.fitted.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(copied.fitted.known) == 30


def test_a_fine_tuning_that_diverges_leaves_the_model_as_it_was(copied: WyCrystGenerator) -> None:
    copied.config = WyCrystGenerator.Config(
        **{**copied.config.model_dump(), "labelled_weight": 1e39}
    )  # inf as float32
    before = {name: tensor.clone() for name, tensor in copied.fitted.network.state_dict().items()}
    with pytest.raises(TrainingDataError, match="diverged"):
        copied.fine_tune(labels(0.0), [], 0)
    after = copied.fitted.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert len(copied.fitted.known) == 30
    assert not copied.fitted.network.training
    assert copied.sample(2, COMMON, 0)


def test_fine_tunings_repeat_by_their_seed(quick: WyCrystGenerator, tmp_path: Path) -> None:
    quick.save(tmp_path)
    before = global_states()
    found = []
    for seed in (1, 1, 2):
        model = WyCrystGenerator.load(tmp_path)
        model.fine_tune(labels(0.1), [], seed)
        found.append(model.fitted.network.state_dict()["mean.weight"])
    assert global_states() == before
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
