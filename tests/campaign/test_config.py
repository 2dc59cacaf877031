"""campaign.yaml: what is refused, and in which words."""

from __future__ import annotations

from math import gcd
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from pydantic import ValidationError
from pymatgen.core import Composition
from strategies import compositions

from campaign.chemistry import parse_formula
from campaign.config import changes, config_document, config_hash, json_schema, load_config, parse_config
from campaign.errors import ConfigError
from campaign.templates import TEMPLATES, template_text, write_template
from models.data import Conditions

SMALL = {"name": "small", "chemistry": {"elements": ["Ca", "Si"], "n_elements": 2}}


def test_every_template_is_valid_and_commented():
    for name in set(TEMPLATES) - {"benchmark"}:  # which is no campaign, see test_benchmarking
        text = template_text(name)
        assert parse_config(yaml.safe_load(text), name).name
        assert text.count("#") >= 3


def test_example_is_the_shipped_template():
    example = Path(__file__).parents[2] / "examples" / "quickstart.yaml"
    assert example.read_text() == template_text("quickstart")


def test_init_does_not_overwrite(tmp_path):
    file = tmp_path / "campaign.yaml"
    write_template(file, "quickstart", force=False)
    with pytest.raises(ConfigError, match="exists"):
        write_template(file, "quickstart", force=False)
    with pytest.raises(ConfigError, match="allowed: quickstart"):
        write_template(file, "quickstat", force=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chemistri": {}}, ["unknown key chemistri", "did you mean 'chemistry'"]),
        ({"chemistry": {"elements": ["Ca", "Sj"]}}, ["'Sj' is not a chemical element", "did you mean"]),
        ({"chemistry": {"elements": ["Ca", "Ca"]}}, ["named twice"]),
        (
            {"chemistry": {"elements": ["Ca"], "n_elements": [2, 3]}},
            ["n_elements [2, 3]", "1 elements named"],
        ),
        ({"acquisition": {"polcy": "ucb"}}, ["acquisition.polcy", "did you mean 'policy'", "allowed:"]),
        ({"acquisition": {"policy": "ucbb"}}, ["acquisition.policy", "'ucbb'", "'greedy'"]),
        ({"stop": {"rounds": 0}}, ["stop.rounds", "got 0"]),
        ({"generators": [{"knd": "x"}]}, ["generators.0"]),
        ({"store": {"kind": "mongomock"}}, ["mongomock", "lost", "embedded"]),
        ({"name": "a b"}, ["name", "'a b'"]),
        ({"chemistry": {}}, ["chemistry", "elements is missing", "or a formula"]),
        ({"chemistry": {"formula": "CaTiQ3"}}, ["chemistry", "'Q' is not a chemical element"]),
        ({"chemistry": {"formula": "CaTi(O3"}}, ["'CaTi(O3' is no chemical formula", "CaTiO3"]),
        ({"chemistry": {"formula": "CaTiO3", "elements": ["Ca", "O"]}}, ["say something else", "CaTiO3"]),
        ({"chemistry": {"formula": "CaTiO3", "n_elements": 2}}, ["say something else", "leave them out"]),
        ({"chemistry": {"formula": "CaTiO3", "max_atoms": 4}}, ["5 atoms", "raise max_atoms"]),
        ({"chemistry": {"formula": "CaTiO3", "spacegroups": [0]}}, ["spacegroups.0", "got 0"]),
        ({"chemistry": {"formula": "CaTiO3", "spacegroups": [62, 62]}}, ["a space group is named twice"]),
        ({"reference": {"exclude": ["CaTjO3"]}}, ["reference.exclude", "'Tj' is not a chemical element"]),
    ],
)
def test_mistakes_are_told_in_one_line(change, words):
    with pytest.raises(ConfigError) as caught:
        parse_config({**SMALL, **change}, "campaign.yaml")
    line = caught.value.one_line()
    assert "\n" not in line
    for word in words:
        assert word in line


def test_a_formula_names_its_elements_and_becomes_conditions():
    chemistry = parse_config(
        {"name": "a", "chemistry": {"formula": "Ca2Ti2O6", "spacegroups": [62]}}, "x"
    ).chemistry
    assert (chemistry.elements, chemistry.n_elements) == (("Ca", "Ti", "O"), (3, 3))
    conditions = Conditions.of(chemistry.conditions())
    assert (conditions.formula, conditions.spacegroups, conditions.max_atoms) == ("CaTiO3", (62,), 12)
    plain = parse_config(SMALL, "x").chemistry
    assert Conditions.of(plain.conditions()).formula is None


@given(compositions())
def test_formulas_are_read_as_pymatgen_reads_them(composition):
    text = composition.formula.replace(" ", "")
    amounts = parse_formula(text)
    assert Composition(amounts) == composition / gcd(*map(int, composition.values()))
    assert parse_formula(f"({text})2") == amounts


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [unclosed")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(broken)
    broken.write_text("- a list")
    with pytest.raises(ConfigError, match="no mapping"):
        load_config(broken)
    broken.write_text("name: !!python/object/apply:os.system ['true']")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(broken)


def test_configuration_is_frozen():
    config = parse_config(SMALL, "x")
    with pytest.raises(ValidationError):
        config.seed = 3


def test_only_harmless_changes_pass_on_resume():
    old = config_document(parse_config(SMALL, "x"))
    harmless = config_document(
        parse_config({**SMALL, "stop": {"rounds": 9}, "labels": {"max_attempts": 5}}, "x")
    )
    assert changes(old, harmless) == {}
    harmful = config_document(
        parse_config({**SMALL, "labels": {"engine_options": {"preset": "precise"}}}, "x")
    )
    assert "labels.engine_options.preset" in changes(old, harmful)
    assert config_hash(parse_config(SMALL, "x")) != config_hash(parse_config({**SMALL, "seed": 4}, "x"))


def test_schema_knows_every_key_and_describes_it():
    schema = json_schema()
    assert set(schema["properties"]) == set(config_document(parse_config(SMALL, "x")))
    blocks = [schema, *schema["$defs"].values()]
    named = [
        (block.get("title"), key, value)
        for block in blocks
        for key, value in block.get("properties", {}).items()
    ]
    missing = [
        (title, key) for title, key, value in named if "description" not in value and "$ref" not in str(value)
    ]
    assert missing in ([], [("ComponentConfig", "kind")], [("HeadConfig", "kind")])
