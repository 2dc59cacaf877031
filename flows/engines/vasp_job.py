"""The jobflow maker around one of atomate2's VASP makers: its folder, its beginning, its command, its failures."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
from dataclasses import dataclass, field
from os.path import expandvars
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from ase.spacegroup.symmetrize import refine_symmetry
from atomate2 import SETTINGS
from atomate2.vasp.jobs.base import BaseVaspMaker, vasp_job
from atomate2.vasp.jobs.core import StaticMaker
from atomate2.vasp.run import DEFAULT_HANDLERS
from custodian.utils import tracked_lru_cache
from jobflow import Maker, Response
from pymatgen.core import Structure
from pymatgen.io.vasp import Poscar

from flows.causes import BadGeometryError
from flows.engines.ase_maker import refuse_impossible
from flows.engines.code_run import launched
from flows.engines.vasp_failures import EXIT_CODE, VaspSetupError, typed
from flows.engines.vasp_presets import NO_ENERGY, cured_tags
from flows.errors import JobFolderError
from flows.job_context import cures, job_folder, note_geometry
from flows.job_files import ORDER, RESULT

KEPT = frozenset({"lock", ORDER, RESULT})
"""Files of a job's folder that are not VASP's; so are the `failure-<n>.json`."""
TIME_TO_END_S = 10.0
"""What VASP and its launcher are given to end [s]."""
MOVED = 1e-6
"""What a cell vector [Å] or a fractional coordinate differs by in a geometry that is not where a try began."""
POLLING = {"polling_time_step": 1, "monitor_freq": 300}
"""How often custodian looks whether VASP has ended [s], its own 10 s being long for a small crystal; and every how
many such looks it asks the handlers that watch a running VASP, as often as by its own defaults."""


@dataclass
class VaspJobMaker(Maker):
    """Runs a VASP maker of atomate2 in a job's folder.

    It refuses what cannot be computed before VASP starts, lets a relaxation that is tried again go on from its last
    whole CONTCAR, ends VASP together with its worker, and gives failures their type.
    """

    name: str = "vasp"
    maker: BaseVaspMaker = field(default_factory=StaticMaker)
    relaxes: bool = False
    symprec_ang: float | None = None
    """Tolerance [Å] of the space group that the structure is brought onto; None leaves it as it is."""
    command: str = ""
    gamma_command: str = ""
    threads_per_rank: int = 1
    handlers: bool = True
    """Whether custodian corrects errors."""

    @vasp_job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> Response:
        """Compute a structure.

        Raises:
            BadGeometryError: No engine could compute this.
            JobFolderError: VASP would not write into the job's folder.
            VaspSetupError: The command or a POTCAR is missing.
            RuntimeError: VASP failed, as one of the classes that `flows.causes` knows.
        """
        folder = own_folder()
        refuse_impossible(structure)
        start = (last_geometry(folder, structure) if self.relaxes else None) or structure
        if self.symprec_ang is not None:
            start = on_its_space_group(start, self.symprec_ang)
        set_aside_earlier_tries(folder)
        maker = self.running_maker()
        # custodian keeps what it parsed by path, also when this process has tried this job before
        tracked_lru_cache.tracked_cache_clear()
        # the function that atomate2 has made a job of: this job is the one that runs it
        run = getattr(type(maker).make, "original", type(maker).make)
        try:
            response: Response = run(maker, start, prev_dir)
        except Exception as error:
            end_what_runs_in(folder)
            if self.relaxes and moved(folder, start):
                note_geometry()
            raise typed(error, folder) from error
        return response

    def running_maker(self) -> BaseVaspMaker:
        """Return the Maker with command, handlers and what it keeps of its outputs."""
        run = {
            "vasp_cmd": launch_line(self.command or SETTINGS.VASP_CMD, self.threads_per_rank),
            "vasp_gamma_cmd": launch_line(
                self.gamma_command or SETTINGS.VASP_GAMMA_CMD, self.threads_per_rank
            ),
            "custodian_kwargs": POLLING,
            **({} if self.handlers else {"handlers": ()}),
        }
        document = {"store_additional_json": False, "parse_dos": False, "parse_bandstructure": False}
        generator = self.maker.input_set_generator
        tags = {**machine_tags(SETTINGS.VASP_INCAR_UPDATES), **generator.user_incar_settings}
        tags |= cured_tags(tags, cures())
        return dataclasses.replace(
            self.maker,
            input_set_generator=dataclasses.replace(generator, user_incar_settings=tags),
            write_input_set_kwargs={**self.maker.write_input_set_kwargs, "apply_incar_updates": False},
            run_vasp_kwargs={"handlers": DEFAULT_HANDLERS, **run, **self.maker.run_vasp_kwargs},
            task_document_kwargs={**document, **self.maker.task_document_kwargs},
            # what did not converge is a failure, whatever the machine's own atomate2 settings say
            stop_children_kwargs={"handle_unsuccessful": "error"},
        )


def own_folder() -> Path:
    """Return the job's folder, which is the working directory as well.

    Raises:
        JobFolderError: It is not: the job runs in a thread.
    """
    folder = job_folder()
    if folder.resolve() != Path.cwd().resolve():
        raise JobFolderError(
            "VASP jobs write into the working directory, which a thread cannot have for itself",
            value=str(folder),
            cure="run labels in processes: any pool but threads",
        )
    return folder


def end_what_runs_in(folder: Path) -> None:
    """End the processes of this worker that were left in a folder, as where the job's time was over."""
    left = []
    for one in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if one.cwd() == str(folder.resolve()):
                one.terminate()
                left.append(one)
    for one in psutil.wait_procs(left, timeout=TIME_TO_END_S)[1]:
        with contextlib.suppress(psutil.Error):
            one.kill()


def machine_tags(updates: dict[str, Any]) -> dict[str, Any]:
    """Return the INCAR tags of the machine's own atomate2 settings.

    Raises:
        VaspSetupError: Some decide energies, and no label would say so.
    """
    deciding = sorted(name for name in updates if name.upper() not in NO_ENERGY)
    if deciding:
        raise VaspSetupError(
            f"VASP_INCAR_UPDATES of atomate2's settings changes {', '.join(deciding)}, which labels do not record; "
            "cure: move these into engine_options: {incar: ...}"
        )
    return dict(updates)


def launch_line(command: str, threads: int) -> str:
    """Return a command that gives VASP its threads, notes its exit code and, on Linux, ends with its worker.

    custodian starts VASP in a session of its own, where it would outlive a killed worker and go on writing into a
    folder in which the job is already tried again; and where outputs are torn it does not tell the exit code, which
    says why. Where the pool gives a task several ranks, its launcher stands before a line without one. The last word
    stays the program, which custodian looks for.
    """
    bound = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    # no variable but $1, for atomate2 expands those of the environment in this line
    note = f'"$@"; set -- $?; echo $1 > {EXIT_CODE}; exit $1'
    limits = [f"{name}={threads}" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    words = launched(shlex.split(expandvars(command)))
    return shlex.join([*bound, "sh", "-c", note, "vasp", *bound, "env", *limits, *words])


def last_geometry(folder: Path, given: Structure, *, earlier: bool = True) -> Structure | None:
    """Return the last whole CONTCAR of this job, with the site properties of what was given.

    Args:
        folder: The job's.
        given: What the job begins with if there is none.
        earlier: Whether files of tries that were set aside count.
    """
    wanted = given.get_sorted_structure()
    tries = sorted(folder.glob("try-[0-9]*"), key=lambda one: int(one.name.partition("-")[2]), reverse=True)
    for place in (folder, *(tries if earlier else ())):
        for path in (place / "CONTCAR", place / "CONTCAR.gz"):
            try:
                found = Poscar.from_file(path, check_for_potcar=False).structure
                same = found.species == wanted.species
                if same:
                    refuse_impossible(found)
            except (OSError, ValueError, IndexError, KeyError, EOFError, BadGeometryError):
                continue  # absent, torn, or no crystal
            if same:
                properties = wanted.site_properties
                return Structure(found.lattice, found.species, found.frac_coords, site_properties=properties)
    return None


def moved(folder: Path, start: Structure) -> bool:
    """Return whether this try has left a whole CONTCAR that is not where it began."""
    left = last_geometry(folder, start, earlier=False)
    if left is None:
        return False
    began = start.get_sorted_structure()
    # a POSCAR has sixteen digits, a CONTCAR no less than eight
    near = left.lattice.matrix - began.lattice.matrix, left.frac_coords - began.frac_coords
    return bool(np.abs(near[0]).max() > MOVED or np.abs(near[1] - np.round(near[1])).max() > MOVED)


def set_aside_earlier_tries(folder: Path) -> None:
    """Move what an earlier try left into `try-<n>`, so that none of it is taken for this one's."""
    left = [
        path
        for path in folder.iterdir()
        if path.is_file() and path.name not in KEPT and not path.name.startswith(("failure-", "."))
    ]
    if not left:
        return
    numbers = [int(path.name.partition("-")[2]) for path in folder.glob("try-[0-9]*")]
    place = folder / f"try-{max(numbers, default=0) + 1}"
    place.mkdir()
    for path in left:
        path.replace(place / path.name)


def on_its_space_group(structure: Structure, symprec_ang: float) -> Structure:
    """Return the structure with cell and atoms exactly where the space group that it has within a tolerance puts them.

    Raises:
        BadGeometryError: No symmetry is found.
    """
    plain = Structure(structure.lattice, structure.species, structure.frac_coords)
    atoms = plain.to_ase_atoms()
    try:
        refine_symmetry(atoms, symprec_ang)
    except Exception as error:  # spglib's own kinds of failure
        raise BadGeometryError(f"no symmetry is found in the structure ({error})") from error
    return Structure(
        atoms.cell.array,
        structure.species,
        atoms.get_scaled_positions(wrap=False),
        site_properties=structure.site_properties,
    )
