"""What each preset and option writes for VASP, and what settings say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from crystals_vasp import ordered_cuau, rutile
from pymatgen.io.vasp import VaspInput

from flows.building import settings_hash, settings_of
from flows.cures import Cure
from flows.engines.vasp import VaspConfig, VaspEngine
from flows.engines.vasp_presets import PRESETS
from flows.errors import EngineOptionsError
from flows.job_context import inside
from flows.registry import ENGINES, build


def inputs(kind: str, structure: Any = None, **options: Any) -> VaspInput:
    """Return the four files of a relaxation or a static."""
    engine = VaspEngine(VaspConfig(**options))
    if kind == "relax":
        maker = engine.relax_maker(fix_symmetry=True, relax_cell=True, symprec_ang=0.01)
    else:
        maker = engine.static_maker(stress=True)
    generator = maker.running_maker().input_set_generator
    return generator.get_input_set(structure or ordered_cuau(), potcar_spec=structure is not None)


def hash_of(**options: Any) -> str:
    return settings_hash(settings_of("relax_static", "vasp", options, {}))


@pytest.mark.parametrize(
    ("preset", "tags"),
    [
        ("fast", {"ENCUT": 400, "KSPACING": 0.5, "EDIFF": 1e-5, "EDIFFG": -0.05, "ISMEAR": 0, "GGA": "Pe"}),
        ("normal", {"ENCUT": 520, "KSPACING": 0.3, "EDIFF": 1e-6, "EDIFFG": -0.02, "ISPIN": 2, "GGA": "Pe"}),
        ("precise", {"ENCUT": 600, "KSPACING": 0.2, "EDIFF": 1e-8, "EDIFFG": -0.001, "PREC": "Accurate"}),
        # The Materials Project's public settings of MPRelaxSet
        ("mp", {"ENCUT": 520, "ISPIN": 2, "PREC": "Accurate", "ALGO": "Fast", "LASPH": True, "ISMEAR": -5}),
        # Zhu et al. (2024), Supplementary Information
        ("wycryst_normal", {"KSPACING": 0.2, "EDIFF": 1e-6, "EDIFFG": -1e-3, "ISMEAR": -5, "ISYM": 2}),
        (
            "wycryst_precise",
            {"ENCUT": 520, "KSPACING": 0.15, "EDIFF": 1e-8, "EDIFFG": -1e-4, "SYMPREC": 1e-5},
        ),
    ],
)
def test_a_preset_writes_its_tags(preset: str, tags: dict[str, Any]) -> None:
    written = inputs("relax", preset=preset)
    assert {name: written["INCAR"].get(name) for name in tags} == tags
    assert (written["INCAR"]["NSW"], written["INCAR"]["ISIF"]) == (99, 3)
    assert (written["KPOINTS"] is None) == ("KSPACING" in tags)
    assert written["POTCAR"].symbols == ["Cu_pv", "Au"] if preset == "mp" else ["Cu", "Au"]
    static = inputs("static", preset=preset)["INCAR"]
    assert static.get("NSW", 0) == 0
    assert static.get("ENCUT") == tags.get("ENCUT")


def test_every_preset_is_an_option_and_none_else() -> None:
    assert sorted(PRESETS) == sorted(VaspConfig.model_json_schema()["properties"]["preset"]["enum"])


def test_the_default_cut_off_is_left_to_the_potcars() -> None:
    written = inputs("relax", preset="wycryst_normal")["INCAR"]
    assert "ENCUT" not in written
    assert "ENAUG" not in written


def test_plain_pbe_has_no_u_where_the_materials_project_has() -> None:
    plain = inputs("relax", rutile("Mn"), preset="normal")["INCAR"]
    assert plain["LDAU"] is False
    assert "LDAUU" not in plain
    assert inputs("relax", rutile("Mn"), preset="mp")["INCAR"]["LDAUU"] == [3.9, 0]


def test_tags_and_k_points_of_the_user_come_last() -> None:
    written = inputs("relax", incar={"encut": 450, "SIGMA": None, "ncore": 4}, kspacing=0.4, max_steps=7)
    tags = written["INCAR"]
    assert [tags.get(name) for name in ("ENCUT", "SIGMA", "NCORE", "KSPACING", "NSW")] == [
        450,
        None,
        4,
        0.4,
        7,
    ]


def test_settings_know_what_decides_an_energy_and_nothing_else() -> None:
    plain = hash_of()
    for harmless in (
        {"command": "srun -n 9 vasp_std"},
        {"gamma_command": "vasp_gam"},
        {"max_steps": 5},
        {"max_scf": 50},
        {"handlers": False},
        {"threads_per_rank": 4},
        {"incar": {"NCORE": 8, "ALGO": "All", "LWAVE": True}},
    ):
        assert hash_of(**harmless) == plain, harmless
    for deciding in (
        {"preset": "fast"},
        {"preset": "mp"},
        {"incar": {"ENCUT": 521}},
        {"kspacing": 0.25},
        {"potcar_functional": "PBE_64"},
        {"static_maker": "atomate2.vasp.jobs.core:HSEStaticMaker"},
    ):
        assert hash_of(**deciding) != plain, deciding
    assert len({hash_of(preset=name) for name in PRESETS}) == len(PRESETS)


def test_a_preset_is_resolved_in_settings() -> None:
    assert hash_of(preset="normal", incar={"ENCUT": 520, "EDIFF": "1e-6"}, kspacing=0.3) == hash_of()
    assert hash_of(incar={"EDIFF": "1e-7"}) == hash_of(incar={"EDIFF": 1e-7}) != hash_of()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"incar": {"NSW": 3}}, "NSW is said by the option max_steps"),
        ({"incar": {"isif": 4}}, "ISIF is said by the flow's option relax_cell"),
        ({"preset": "best"}, "wycryst_precise"),
        ({"kspacing": 0}, "greater than 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineOptionsError, match=words):
        build("vasp", ENGINES, "engine", options)


def test_symmetry_cannot_be_kept_and_switched_off() -> None:
    engine = VaspEngine(VaspConfig(incar={"ISYM": 0}))
    with pytest.raises(EngineOptionsError, match="ISYM switches off"):
        engine.relax_maker(fix_symmetry=True, relax_cell=True, symprec_ang=0.01)
    assert engine.relax_maker(fix_symmetry=False, relax_cell=True, symprec_ang=0.01).symprec_ang is None


def test_a_makers_path_is_taken_with_its_options() -> None:
    options = {
        "relax_maker": "atomate2.vasp.flows.core:DoubleRelaxMaker",
        "static_maker": "atomate2.vasp.jobs.core:HSEStaticMaker",
        "static_maker_options": {"name": "hybrid"},
        "kspacing": 0.45,
    }
    engine = VaspEngine(VaspConfig(**options))
    double = engine.relax_maker(fix_symmetry=True, relax_cell=False, symprec_ang=0.01)
    for one in (double.relax_maker1, double.relax_maker2):
        tags = one.maker.input_set_generator.user_incar_settings
        assert (tags["KSPACING"], tags["ISIF"]) == (0.45, 2)
        assert "ENCUT" not in tags
    assert engine.static_maker(stress=True).name == "hybrid"
    assert inputs("static", **options)["INCAR"]["LHFCALC"] is True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"static_maker": "no.such:Thing"}, "does not import"),
        ({"static_maker": "pathlib:Path"}, "no jobflow Maker"),
        (
            {"static_maker": "atomate2.vasp.jobs.core:StaticMaker", "static_maker_options": {"x": 1}},
            "does not take",
        ),
        (
            {"static_maker": "atomate2.forcefields.jobs:ForceFieldStaticMaker", "kspacing": 0.2},
            "holds no VASP",
        ),
    ],
)
def test_a_maker_that_does_not_fit_is_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(EngineOptionsError, match=words):
        VaspEngine(VaspConfig(**options)).static_maker(stress=True)


def test_missing_potcars_are_named_before_anything_runs(potcars: Path) -> None:
    engine = VaspEngine(VaspConfig())
    assert engine.unsupported(["Cu", "Au", "W", "Pu"]) == ("W", "Pu")
    (potcars / "POT_PAW_PBE_64").mkdir(exist_ok=True)
    assert VaspEngine(VaspConfig(potcar_functional="PBE_64")).unsupported(["Cu"]) == ("Cu",)


def test_without_a_library_nothing_is_known(potcar_library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pymatgen.core import SETTINGS

    monkeypatch.delitem(SETTINGS, "PMG_VASP_PSP_DIR")
    assert VaspEngine(VaspConfig()).unsupported(["Pu"]) == ()
    answer = VaspEngine(VaspConfig(command="true")).check()
    assert not answer.ok
    assert "PMG_VASP_PSP_DIR" in answer.what
    assert "pmg config" in answer.cure


@pytest.mark.parametrize(
    ("command", "absent"),
    [("no_vasp_here", "no_vasp_here"), ("env no_vasp_here", "no_vasp_here"), ("srun_no -n 4 x", "srun_no")],
)
def test_a_command_that_is_not_there_is_told_with_a_cure(command: str, absent: str) -> None:
    answer = VaspEngine(VaspConfig(command=command)).check()
    assert not answer.ok
    assert answer.what.startswith(f"{absent} of the command")
    assert "worker_init" in answer.cure


def test_a_machine_with_command_and_library_is_fine(potcars: Path) -> None:
    answer = VaspEngine(VaspConfig(command="env true")).check()
    assert answer.ok
    assert answer.what == f"env true, POTCARs in {potcars / 'POT_GGA_PAW_PBE_54'}"
    assert VaspEngine(VaspConfig(command="true", potcar_functional="LDA_54")).check().ok is False


def test_a_cured_try_writes_other_tags_and_means_the_same(tmp_path: Path) -> None:
    plain = inputs("relax", max_steps=50, max_scf=100)["INCAR"]
    with inside(tmp_path, [Cure.SLOW_MIXING, Cure.MORE_STEPS]):
        slow = inputs("relax", max_steps=50, max_scf=100)["INCAR"]
    with inside(tmp_path, [Cure.SLOW_MIXING, Cure.OTHER_ALGORITHM]):
        other = inputs("relax", max_steps=50, max_scf=100)["INCAR"]
    assert (slow["NELM"], slow["NSW"], slow["AMIX"]) == (200, 100, 0.1)
    assert (other["NELM"], other["NSW"], other["ALGO"]) == (400, 50, "All")
    changed = {name for name in {*plain, *slow, *other} if plain.get(name) != other.get(name, slow.get(name))}
    assert changed <= {"NELM", "NSW", "AMIX", "BMIX", "ALGO"}
