"""campaign.yaml: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from campaign.config import changes, config_document, config_hash, json_schema, load_config, parse_config
from campaign.errors import ConfigError
from campaign.templates import TEMPLATES, template_text, write_template

SMALL = {"name": "small", "chemistry": {"elements": ["Ca", "Si"], "n_elements": 2}}


def test_every_template_is_valid_and_commented():
    for name in TEMPLATES:
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
    ],
)
def test_mistakes_are_told_in_one_line(change, words):
    with pytest.raises(ConfigError) as caught:
        parse_config({**SMALL, **change}, "campaign.yaml")
    line = caught.value.one_line()
    assert "\n" not in line
    for word in words:
        assert word in line


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
