"""The registry names components lazily, and every mistake in naming or options is one clear line."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
from pydantic import BaseModel, ConfigDict, Field

from models.data import Conditions
from models.errors import ModelsError, OptionsError, UnknownComponentError
from models.registry import GENERATORS, build, resolve


class Toy:
    class Config(BaseModel):
        model_config = ConfigDict(extra="forbid", frozen=True)
        size: int = Field(default=3, gt=0, description="Number of things.")

    def __init__(self, config: Toy.Config) -> None:
        self.config = config


REGISTRY = {"toy": f"{__name__}:Toy"}


def test_a_name_and_a_path_resolve_to_the_same_class() -> None:
    assert resolve("toy", REGISTRY, "generator").__qualname__ == "Toy"
    assert resolve(f"{__name__}:Toy", {}, "generator") is resolve("toy", REGISTRY, "generator")


def test_options_reach_the_config() -> None:
    assert build("toy", REGISTRY, "generator", {"size": 5}).config.size == 5


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tyo", ["unknown generator", "'tyo'", "toy"]),
        ("no.such.package:Thing", ["does not import", "no.such.package"]),
        (f"{__name__}:Missing", ["not a component"]),
        ("pathlib:Path", ["not a component"]),
    ],
)
def test_a_wrong_name_is_one_clear_line(kind: str, words: list[str]) -> None:
    with pytest.raises(UnknownComponentError) as caught:
        resolve(kind, REGISTRY, "generator")
    line = caught.value.one_line()
    assert "\n" not in line
    for word in words:
        assert word in line


@pytest.mark.parametrize("options", [{"sise": 4}, {"size": 0}, {"size": "many"}, {1: 2}])
def test_wrong_options_are_named(options: dict) -> None:
    with pytest.raises(OptionsError, match="toy"):
        build("toy", REGISTRY, "generator", options)


def test_a_misspelt_option_is_shown_with_the_allowed_ones() -> None:
    with pytest.raises(OptionsError) as caught:
        build("toy", REGISTRY, "generator", {"sise": 4})
    assert "sise" in caught.value.one_line()
    assert "allowed: size" in caught.value.one_line()


def test_errors_survive_a_process_border() -> None:
    error = UnknownComponentError("unknown generator", value="x", allowed=["a"], cure="choose a")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is UnknownComponentError
    assert copy.one_line() == error.one_line()


@pytest.mark.parametrize(
    "arguments",
    [
        ((), (1, 2), 10),
        (("Na", "Na"), (1, 2), 10),
        (("Na",), (2, 3), 10),
        (("Na", "Cl"), (2, 1), 10),
        (("Na", "Cl"), (0, 1), 10),
        (("Na", "Cl"), (1, 2), 0),
        (("Na", "Cl"), (2, 2), 10, "not a formula"),
        (("Na", "Cl"), (2, 2), 10, "NaCl0.5"),
        (("Na", "Cl"), (2, 2), 10, "KCl"),
        (("Na", "Cl"), (2, 2), 10, "Na"),
        (("Na", "Cl"), (2, 2), 3, "Na3Cl"),
        (("Na", "Cl"), (2, 2), 10, None, (0,)),
        (("Na", "Cl"), (2, 2), 10, None, (231,)),
    ],
)
def test_impossible_conditions_are_refused(arguments: tuple) -> None:
    with pytest.raises(ModelsError):
        Conditions(*arguments)


def test_conditions_survive_a_document() -> None:
    conditions = Conditions(("Ti", "Ca", "O"), (3, 3), 20, "TiCaO3", (62, 221))
    assert Conditions.of(json.loads(json.dumps(conditions.document()))) == conditions
    assert (conditions.formula, conditions.amounts()) == ("CaTiO3", {"Ca": 1, "Ti": 1, "O": 3})
    plain = {"elements": ["Ca", "O"], "n_elements": [1, 2], "max_atoms": 4}
    assert Conditions.of(plain) == Conditions(("Ca", "O"), (1, 2), 4)


def test_registry_and_data_are_light() -> None:
    code = (
        "import sys, models.registry, models.data; "
        "heavy = {'torch', 'pymatgen', 'numpy'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "substitution" in GENERATORS
