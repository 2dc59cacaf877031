"""Screens of Wyckoff genes, and those that ask the campaign's own models."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from strategies import shaken

from campaign.components import check_components, spec_of
from campaign.config import parse_config
from campaign.errors import ComponentError
from campaign.screens.contract import ScreenContext, ScreenItem
from campaign.screens.funnel import Outcome, run_segment
from models.surrogates.base import Relaxed

CUBIC = "221|Ca:a|O:c|Ti:b"


def perovskite(edge: float = 3.9, gene: str | None = CUBIC) -> Structure:
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    properties = {} if gene is None else {"gene": gene, "trial": 0}
    return Structure(Lattice.cubic(edge), ["Ca", "Ti", "O", "O", "O"], sites, properties=properties)


def run(structures: list[Structure], kind: str, context: ScreenContext | None = None, **options):
    items = [ScreenItem(f"c{place}", structure) for place, structure in enumerate(structures)]
    return run_segment(items, [(kind, options)], context or ScreenContext())


# --- wyckoff --------------------------------------------------------------------------------------------


def test_the_gene_is_recorded():
    (outcome,) = run([perovskite(gene=None)], "wyckoff")
    assert outcome.passed
    assert outcome.values["dof"] == 0
    assert outcome.values["n_orbits"] == 3
    assert outcome.values["gene"].startswith("221|Ca:")


def tetragonal() -> Structure:
    """P4mm: atoms are free to move along the axis."""
    return Structure(
        Lattice.tetragonal(3.9, 4.3), ["Ca", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.55], [0.5, 0.5, 0]]
    )


@pytest.mark.parametrize(
    ("crystal", "options", "words"),
    [
        (perovskite(), {"max_orbits": 2}, "3 orbits, at most 2 wanted"),
        (
            perovskite(),
            {"max_atoms_conventional": 4},
            "5 atoms in the conventional cell, at most 4 wanted",
        ),
        (tetragonal(), {"max_dof": 2}, "3 free coordinates, at most 2 wanted"),
    ],
)
def test_limits_of_a_gene_hold(crystal, options, words):
    (outcome,) = run([crystal], "wyckoff", **options)
    assert outcome.reason == words
    ((name, most),) = options.items()
    assert run([crystal], "wyckoff", **{name: most + 1})[0].passed


def test_a_crystal_that_lost_the_space_group_of_its_gene_is_rejected():
    lost = shaken(perovskite(), 0.25)
    lost.properties = {"gene": CUBIC}
    (outcome,) = run([lost], "wyckoff")
    assert outcome.reason == "space group 1, its gene has 221"
    assert run([lost], "wyckoff", spacegroup_kept=False)[0].passed
    lost.properties.pop("gene")
    assert run([lost], "wyckoff")[0].passed


def test_a_gene_that_no_crystal_can_have_is_rejected():
    (outcome,) = run([perovskite(gene="221|Ca:a|Ti:a|O:c")], "wyckoff")
    assert not outcome.passed
    assert outcome.reason.startswith("error: GeneError")


# --- best_trial -----------------------------------------------------------------------------------------


def trials(energies: dict[str, tuple[str | None, float]]) -> dict[str, Outcome]:
    items = [
        ScreenItem(name, perovskite(gene=gene), {"energy_per_atom": energy})
        for name, (gene, energy) in energies.items()
    ]
    outcomes = run_segment(items, [("best_trial", {})], ScreenContext())
    return {outcome.candidate_id: outcome for outcome in outcomes}


def test_of_the_trials_of_a_gene_the_lowest_passes():
    found = trials(
        {"a": (CUBIC, -1.0), "b": (CUBIC, -1.25), "c": ("62|x", -0.1), "d": (None, 0.0), "e": (None, 1.0)}
    )
    assert [name for name, outcome in found.items() if outcome.passed] == ["b", "c", "d", "e"]
    assert found["a"].reason == f"0.250 eV/atom above b, another trial of {CUBIC}"
    assert found["a"].values == {"best_trial": "b"}


def test_of_equal_trials_the_first_passes():
    found = trials({"a": (CUBIC, -1.0), "b": (CUBIC, -1.0)})
    assert [outcome.passed for outcome in found.values()] == [True, False]


class Springs:
    """A surrogate whose energy is the distance of the cell edge from 4 Å; it loses every property."""

    version = "springs"

    def __init__(self) -> None:
        self.fixed: list[tuple[bool, int]] = []

    def energies(self, structures):
        return np.array([abs(one.lattice.a - 4.0) if one.lattice.a < 9 else math.nan for one in structures])

    def relax(self, structures, *, fix_symmetry, **_options):
        self.fixed.append((fix_symmetry, len(structures)))
        bare = [Structure(one.lattice, one.species, one.frac_coords) for one in structures]
        energies = self.energies(structures)
        return [Relaxed(s, float(e), 0.0, True, 1, 221, 221) for s, e in zip(bare, energies, strict=True)]

    def formation_energies(self, structures, energies=None):
        return self.energies(structures)


def test_trials_without_an_energy_are_asked_of_the_surrogate():
    crystals = [perovskite(3.8), perovskite(3.9), perovskite(9.5)]
    outcomes = run(crystals, "best_trial", ScreenContext(surrogate=Springs()))
    assert [outcome.passed for outcome in outcomes] == [False, True, False]
    assert outcomes[2].reason == "the surrogate gives no energy"


def test_only_crystals_from_genes_are_relaxed_with_fixed_symmetry_and_remember_them():
    surrogate = Springs()
    crystals = [perovskite(), perovskite(4.0, gene=None), perovskite(4.1)]
    outcomes = run(crystals, "relax", ScreenContext(surrogate=surrogate))
    assert surrogate.fixed == [(False, 1), (True, 2)]
    assert [outcome.structure.properties.get("gene") for outcome in outcomes] == [CUBIC, None, CUBIC]
    assert [outcome.structure.lattice.a for outcome in outcomes] == pytest.approx([3.9, 4.0, 4.1])
    for option in (True, False):
        run(crystals, "relax", ScreenContext(surrogate=surrogate), fix_symmetry=option)
        assert surrogate.fixed[-1] == (option, 3)


# --- predicted_energy, synthesizability ------------------------------------------------------------------


@dataclass
class Bench:
    """Judges with opinions of their own; the real ones are asked in test_judged_screening."""

    energies: list[tuple[float, float]]
    probabilities: list[float] | None = None

    def predictions(self, structures):
        return [
            {
                "head_formation_energy_per_atom": {"mean": mean, "std": std},
                "head_e_above_hull": {"mean": mean + 0.5, "std": std},
            }
            for mean, std in self.energies[: len(structures)]
        ]

    def stable_probability(self, structures):
        return None if self.probabilities is None else np.array(self.probabilities[: len(structures)])


def test_predicted_energies_get_the_benefit_of_the_doubt():
    context = ScreenContext(judges=Bench([(-1.0, 0.1), (-0.85, 0.1), (-0.85, 0.2)]))
    crystals = [perovskite(edge) for edge in (3.8, 3.9, 4.0)]
    outcomes = run(crystals, "predicted_energy", context, max_formation_energy_ev_per_atom=-1.0)
    assert [outcome.passed for outcome in outcomes] == [True, False, True]
    assert "-0.850 ± 0.100 eV/atom, -0.950 less 1 deviations, at most -1 wanted" in outcomes[1].reason
    assert outcomes[0].values["unrelaxed_formation_energy_per_atom"] == -1.0
    hard = run(crystals, "predicted_energy", context, max_e_above_hull_ev_per_atom=-0.4, n_std=0.0)
    assert [outcome.passed for outcome in hard] == [True, False, False]
    assert "energy above the hull" in hard[1].reason


def test_predicted_energies_need_a_head_for_them_or_nobody_at_all():
    class Others(Bench):
        def predictions(self, structures):
            return [dict(self.energies) for _ in structures]

    options = {"max_formation_energy_ev_per_atom": -1.0}
    unfit = ScreenContext(judges=Others([]))
    assert run([perovskite()], "predicted_energy", unfit, **options)[0].passed
    gap = ScreenContext(judges=Others([("head_band_gap", 1.0)]))
    with pytest.raises(ComponentError, match=r"formation_energy_per_atom.*learn\.heads"):
        run([perovskite()], "predicted_energy", gap, **options)


def test_improbable_crystals_are_rejected_unless_nobody_can_tell():
    crystals = [perovskite(3.8), perovskite(3.9)]
    outcomes = run(crystals, "synthesizability", ScreenContext(judges=Bench([], [0.5, 0.49])))
    assert [outcome.passed for outcome in outcomes] == [True, False]
    assert outcomes[1].reason == "probability 0.49, at least 0.5 wanted"
    assert outcomes[1].values["unrelaxed_stable_probability"] == 0.49
    assert all(one.passed for one in run(crystals, "synthesizability", ScreenContext(judges=Bench([]))))


def config(kind: str, options: dict, **learn):
    document = {
        "name": "judged",
        "chemistry": {"elements": ["Ca", "Si"], "n_elements": 2},
        "screen": [{"kind": "composition"}, {"kind": kind, "options": options}],
        "learn": learn,
    }
    return parse_config(document, "test")


def test_a_screen_without_its_judges_is_refused():
    with pytest.raises(ComponentError, match=r"needs a discriminator.*learn\.discriminators"):
        check_components(config("synthesizability", {}, discriminators=[]))
    with pytest.raises(ComponentError, match=r"needs a head.*learn\.heads"):
        check_components(config("predicted_energy", {"max_e_above_hull_ev_per_atom": 0.1}, heads=[]))
    with pytest.raises(ComponentError, match="max_e_above_hull_ev_per_atom"):
        check_components(config("predicted_energy", {}))
    with pytest.raises(ComponentError, match="heads or discriminators"):
        run([perovskite()], "synthesizability")


def test_segments_say_whether_they_wait_for_judges():
    assert [segment.needs_judges for segment in spec_of(config("synthesizability", {})).segments] == [True]
    assert [segment.needs_judges for segment in spec_of(config("wyckoff", {})).segments] == [False]
