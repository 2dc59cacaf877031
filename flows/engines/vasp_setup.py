"""Whether VASP can run here: its command, and the POTCARs that it needs."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from os.path import expandvars
from pathlib import Path
from typing import Any

from flows.engines.base import EngineCheck

CHANGED_BY_LAUNCHERS = ("srun", "mpirun", "mpiexec", "jsrun", "aprun", "ibrun", "env", "setpriv", "orterun")
"""Programs that start another one."""


def check_setup(command: str, functional: str | None) -> EngineCheck:
    """Find VASP's command and its POTCAR library, and run neither."""
    if not command:
        from atomate2 import SETTINGS

        command = SETTINGS.VASP_CMD
    absent = [program for program in programs(command) if shutil.which(program) is None]
    if absent:
        cure = (
            "set engine_options: {command: ...} to the line that starts VASP; where modules load it, load them in "
            "the site's worker_init"
        )
        return EngineCheck(False, f"{', '.join(absent)} of the command {command!r} is not found", cure)
    library = potcar_library(functional or "PBE")
    if library is None:
        cure = "pmg config -p EXTRACTED_VASP_POTCARS MY_LIBRARY; pmg config --add PMG_VASP_PSP_DIR MY_LIBRARY"
        return EngineCheck(False, "no POTCAR library is set up (PMG_VASP_PSP_DIR)", cure)
    if not library.is_dir():
        cure = "point PMG_VASP_PSP_DIR to a library that has it, or choose another potcar_functional"
        return EngineCheck(False, f"the POTCAR library has no folder {library}", cure)
    return EngineCheck(True, f"{command}, POTCARs in {library}")


def programs(command: str) -> list[str]:
    """Return the programs of a launch line that must be found: its first word, and its last if that starts VASP."""
    words = shlex.split(expandvars(command))
    if not words:
        return [command]
    starts_another = Path(words[0]).name in CHANGED_BY_LAUNCHERS
    return [words[0], words[-1]] if starts_another and len(words) > 1 else words[:1]


def potcar_library(functional: str) -> Path | None:
    """Return the folder of a functional's POTCARs, whether it exists or not; None if no library is set up."""
    from pymatgen.core import SETTINGS
    from pymatgen.io.vasp.inputs import PotcarSingle

    root = SETTINGS.get("PMG_VASP_PSP_DIR")
    if not root:
        return None
    named = SETTINGS.get("PMG_VASP_PSP_SUB_DIRS") or {}
    return Path(root).expanduser() / named.get(
        functional, PotcarSingle.functional_dir.get(functional, functional)
    )


def missing_potcars(maker: Any, elements: Sequence[str]) -> tuple[str, ...]:
    """Return the elements whose POTCAR is not in the library; none if there is no library, or no VASP input set.

    Args:
        maker: A `flows.engines.vasp_job.VaspJobMaker`, or a Maker of the user's.
        elements: Symbols.
    """
    from flows.engines.vasp_job import VaspJobMaker

    if not isinstance(maker, VaspJobMaker):
        return ()
    generator = maker.maker.input_set_generator
    library = potcar_library(generator.potcar_functional)
    if library is None or not library.is_dir():
        return ()
    return tuple(one for one in elements if not _has_potcar(library, potcar_symbol(generator, one)))


def potcar_symbol(generator: Any, element: str) -> str:
    """Return the POTCAR that an input set takes for an element, such as Ca_sv."""
    from pymatgen.core import Lattice, Structure

    generator.structure = Structure(Lattice.cubic(5.0), [element], [[0, 0, 0]])
    return str(generator.potcar_symbols[0])


def _has_potcar(library: Path, symbol: str) -> bool:
    stems = (library / f"POTCAR.{symbol}", library / symbol / "POTCAR")
    endings = ("", ".gz", ".bz2", ".Z", ".z", ".xz", ".lzma")
    return any(Path(f"{stem}{ending}").is_file() for stem in stems for ending in endings)
