from __future__ import annotations

import json
import subprocess
import sys

import pytest
from pydantic import Field
from pymatgen.core import Lattice, Structure

from campaign.errors import ComponentError
from campaign.screens.contract import Screen, ScreenContext, ScreenItem, ScreenOptions, Verdict, one_by_one
from campaign.screens.funnel import (
    documented,
    is_campaign_scope,
    pool_of,
    read_options,
    resolve_screen,
    run_segment,
    segments,
)
from campaign.screens.registry import DEFAULT_SCREEN, SCREENS


def cube(a: float, symbol: str = "Ca") -> Structure:
    return Structure(Lattice.cubic(a), [symbol], [[0, 0, 0]])


def items(*structures: Structure) -> list[ScreenItem]:
    return [ScreenItem(f"c{number}", structure) for number, structure in enumerate(structures)]


class LimitOptions(ScreenOptions):
    limit_ang: float = Field(5.0, gt=0)


def _short(item, options, _context):
    a = item.structure.lattice.a
    return Verdict(a < options.limit_ang, f"{a} too long", {"a_ang": a, "seen": item.values.get("a_ang")})


def _fails_on_magnesium_together(items, options, context):
    if any("Mg" in item.structure.formula for item in items):
        raise ZeroDivisionError("no magnesium")
    return [Verdict(True, values={"together": len(items)}) for _ in items]


def _fails_alone(item, options, context):
    if "Mg" in item.structure.formula:
        raise RuntimeError("bad\n  magnesium")
    return Verdict(True)


def _double(items, options, context):
    return [Verdict(True, structure=Structure(item.structure.lattice, ["Mg"], [[0, 0, 0]])) for item in items]


SHORT = Screen("short", "candidate", LimitOptions, one_by_one(_short), "Short cells only.")
FRAGILE = Screen("fragile", "candidate", ScreenOptions, _fails_on_magnesium_together, "")
FRAGILE_ALONE = Screen("fragile_alone", "candidate", ScreenOptions, one_by_one(_fails_alone), "")
MISCOUNTS = Screen("miscounts", "candidate", ScreenOptions, lambda items, options, context: [], "")
DOUBLE = Screen("double", "candidate", ScreenOptions, _double, "")
NO_SCREEN = "just a string"
HERE = __name__


def test_segments_are_cut_where_candidates_meet():
    kinds = [[kind for kind, _ in run] for run in segments(DEFAULT_SCREEN)]
    assert kinds[0][0] == "composition"
    assert ["duplicates"] in kinds
    assert ["best_trial"] in kinds
    assert [kind for run in kinds for kind in run] == [kind for kind, _ in DEFAULT_SCREEN]
    for run in segments(DEFAULT_SCREEN):
        assert is_campaign_scope(run) == (run in ([("duplicates", {})], [("best_trial", {})]))
        assert pool_of(run) == ("gpu" if {"relax", "e_above_hull"} & {kind for kind, _ in run} else "cpu")


def test_two_campaign_screens_in_a_row_stand_alone():
    named = [("duplicates", {}), ("duplicates", {}), ("volume", {})]
    assert segments(named) == [[named[0]], [named[1]], [named[2]]]
    assert segments([]) == []


def test_only_survivors_reach_the_next_screen():
    screens = [(f"{HERE}:SHORT", {}), (f"{HERE}:SHORT", {"limit_ang": 4.5})]
    first, second, third = run_segment(items(cube(6), cube(4), cube(4.8)), screens, ScreenContext())
    assert (first.passed, first.rejected_by, first.reason) == (False, "short", "6.0 too long")
    assert first.values == {
        "a_ang": 6.0,
        "seen": None,
    }  # the second screen, which would have seen 6.0, did not run
    assert (second.passed, second.rejected_by, second.reason) == (True, None, None)
    assert second.values == {"a_ang": 4.0, "seen": 4.0}
    assert (third.passed, third.reason) == (False, "4.8 too long")
    assert second.seconds["short"] > first.seconds["short"] >= 0


def test_the_items_given_are_left_as_they_were():
    given = items(cube(4))
    run_segment(given, [(f"{HERE}:SHORT", {}), (f"{HERE}:DOUBLE", {})], ScreenContext())
    assert given[0].values == {}
    assert given[0].structure == cube(4)


def test_a_replaced_structure_goes_on_to_the_next_screen():
    (outcome,) = run_segment(
        items(cube(4)), [(f"{HERE}:DOUBLE", {}), (f"{HERE}:FRAGILE", {})], ScreenContext()
    )
    assert outcome.structure.formula == "Mg1"
    assert outcome.reason == "error: ZeroDivisionError: no magnesium"


@pytest.mark.parametrize("kind", ["FRAGILE", "FRAGILE_ALONE"])
def test_one_structure_that_makes_a_screen_raise_is_rejected_alone(kind):
    structures = (cube(4), cube(4, "Mg"), cube(4.1))
    outcomes = run_segment(items(*structures), [(f"{HERE}:{kind}", {})], ScreenContext())
    assert [outcome.passed for outcome in outcomes] == [True, False, True]
    assert outcomes[1].reason.startswith("error: ")
    assert "\n" not in outcomes[1].reason


def test_a_screen_that_miscounts_rejects_with_an_error():
    (outcome,) = run_segment(items(cube(4)), [(f"{HERE}:MISCOUNTS", {})], ScreenContext())
    assert outcome.reason == "error: ValueError: 0 verdicts for 1 candidates"


def test_no_candidates_no_outcomes():
    assert run_segment([], DEFAULT_SCREEN[:3], ScreenContext()) == []


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("min_distanc", "unknown screen.*min_distance"),
        ("no_such_module_here:SCREEN", "does not import"),
        (f"{HERE}:NO_SCREEN", "no campaign.screens.contract.Screen"),
        (f"{HERE}:ABSENT", "no campaign.screens.contract.Screen"),
    ],
)
def test_unknown_screens_are_refused(kind, message):
    with pytest.raises(ComponentError, match=message):
        resolve_screen(kind)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("relax", {"max_step": 5}, r"max_step.*got 5.*allowed.*max_steps"),
        ("min_distance", {"fraction_of_radii": 2}, "fraction_of_radii"),
        ("charge_neutrality", {"oxidation_states": "mine"}, "icsd24"),
        ("e_above_hull", {"max_ev_per_atom": -2}, "below max_ev_per_atom"),
        ("composition", {"n_elements": [3, 2]}, "no range"),
        ("duplicates", {3: 4}, "duplicates"),
    ],
)
def test_wrong_options_are_told_in_one_line(kind, options, message):
    with pytest.raises(ComponentError, match=message) as caught:
        read_options(SCREENS[kind], options)
    assert "\n" not in caught.value.one_line()


@pytest.mark.parametrize("kind", ["relax", "e_above_hull", "novelty"])
def test_a_screen_without_what_it_needs_is_a_mistake_of_the_campaign(kind):
    assert SCREENS[kind].needs_surrogate or SCREENS[kind].needs_reference
    with pytest.raises(ComponentError, match="needs"):
        run_segment(items(cube(4), cube(5)), [(kind, {})], ScreenContext())


def test_outcomes_are_plain_documents():
    (outcome,) = run_segment(
        items(cube(4)), [(f"{HERE}:DOUBLE", {}), ("space_group", {}), ("volume", {})], ScreenContext()
    )
    document = json.loads(json.dumps(outcome.document()))
    assert set(document) == {
        "candidate_id",
        "passed",
        "rejected_by",
        "reason",
        "values",
        "structure",
        "seconds",
    }
    assert Structure.from_dict(document["structure"]).formula == "Mg1"
    assert not any("." in name for name in document["values"])


def test_every_screen_documents_itself():
    for screen, told in zip(SCREENS.values(), documented(SCREENS.values()), strict=True):
        assert told["summary"].endswith(".")
        assert screen.options.__doc__
        for name, field in screen.options.model_fields.items():
            assert field.description, f"{screen.kind}.{name}"
    for kind, options in DEFAULT_SCREEN:
        read_options(SCREENS[kind], options)


def test_importing_screens_is_light():
    heavy = ("torch", "atomate2", "jobflow", "pymatgen", "models", "flows", "chgnet")
    code = (
        "import sys, campaign.screens.registry, campaign.references.entries, campaign.references.hull; "
        "import campaign.references.fingerprint; "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
