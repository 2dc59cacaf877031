"""Stands in for the VASP executable in tests, and for nothing else: atomate2, custodian and emmet run for real.

    python stand_in.py [--fail HOW]

It refuses inputs that VASP could not run or that do not fit one another, computes energies, forces and stresses with
ASE's effective-medium theory, relaxes when NSW says so, and writes what pymatgen and emmet read in VASP's formats.
Effective-medium theory knows no electrons: electronic iterations, bands and densities of states are placeholders,
and nothing is tested on them but that they can be read.

`--fail` scf: no electronic cycle settles; truncate: vasprun.xml is cut; kill: killed by the machine; exit: an error of
its own; memory: says that memory ran out; die@N: killed after N ionic steps; stall@N: sleeps after N
ionic steps; wait@N: sleeps N seconds first.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from ase.units import GPa
from pymatgen.core import Structure
from pymatgen.io.vasp import Incar, Kpoints, Poscar

VERSION = "6.4.2"
EMT_ELEMENTS = {"Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au"}
KBAR = 0.1 * GPa
SHIFT_EV = -3.5
"""Added per atom: the theory's zero is the bulk element, and custodian takes positive energies for an error."""
SCF_STEPS = 4
KNOWN_TAGS = {
    "ALGO", "AMIN", "AMIX", "AMIX_MAG", "BMIX", "BMIX_MAG", "EDIFF", "EDIFFG", "ENAUG", "ENCUT", "GGA",
    "IALGO", "IBRION", "ICHARG", "ISEARCH", "ISIF", "ISMEAR", "ISPIN", "ISTART", "ISYM", "KPAR",
    "KSPACING", "LAECHG", "LASPH", "LCHARG", "LDAU", "LDAUJ", "LDAUL", "LDAUPRINT", "LDAUTYPE", "LDAUU",
    "LELF", "LMAXMIX", "LMIXTAU", "LORBIT", "LREAL", "LVTOT", "LWAVE", "MAGMOM", "NCORE", "NELM",
    "NELMDL", "NELMIN", "NSW", "POTIM", "PREC", "SIGMA", "SYMPREC", "TIME",
}  # fmt: skip


class RefusedError(Exception):
    """Inputs that VASP could not run."""


@dataclass
class Inputs:
    """What the working directory asks for."""

    incar: Incar
    poscar: Poscar
    titles: list[str]
    encut: float
    electrons: float
    divisions: list[int]
    steps: list[dict[str, Any]] = field(default_factory=list)


def read_inputs(folder: Path) -> Inputs:
    """Read and check the four input files.

    Raises:
        RefusedError: They are incomplete, unknown or do not fit one another.
    """
    for name in ("INCAR", "POSCAR", "POTCAR"):
        if not (folder / name).is_file():
            raise RefusedError(f"{name} is missing")
    incar = Incar.from_file(folder / "INCAR")
    poscar = Poscar.from_file(folder / "POSCAR", check_for_potcar=False)
    potcar = (folder / "POTCAR").read_text()
    titles = re.findall(r"TITEL\s*=\s*(.+)", potcar)
    elements = [title.split()[1].partition("_")[0] for title in titles]
    if elements != poscar.site_symbols:
        raise RefusedError(f"POTCAR has {elements}, POSCAR {poscar.site_symbols}")
    if set(elements) - EMT_ELEMENTS:
        raise RefusedError(f"effective-medium theory does not know {sorted(set(elements) - EMT_ELEMENTS)}")
    enmax = max(float(one) for one in re.findall(r"ENMAX\s*=\s*([\d.]+)", potcar))
    check_tags(incar, len(poscar.structure))
    encut = float(incar.get("ENCUT", enmax))
    if not 0.5 * enmax < encut < 2000:
        raise RefusedError(f"ENCUT {encut} does not suit POTCARs of ENMAX {enmax}")
    valences = [float(one) for one in re.findall(r"ZVAL\s*=\s*([\d.]+)", potcar)]
    electrons = float(np.dot(valences, poscar.natoms))
    return Inputs(incar, poscar, titles, encut, electrons, k_divisions(folder, incar, poscar.structure))


def check_tags(incar: Incar, n_atoms: int) -> None:
    """Refuse tags that are unknown, missing or contradict one another."""
    unknown = sorted(set(incar) - KNOWN_TAGS)
    if unknown:
        raise RefusedError(f"unknown tags {unknown}")
    if incar.get("EDIFF", 1e-4) <= 0:
        raise RefusedError("EDIFF must be positive")
    if incar.get("NSW", 0) > 0 and incar.get("IBRION", 0) not in (1, 2, 3):
        raise RefusedError("a relaxation needs IBRION 1, 2 or 3")
    if incar.get("NSW", 0) > 0 and incar.get("ISIF", 2) not in (2, 3):
        raise RefusedError(f"ISIF {incar['ISIF']} is not stood in for")
    if incar.get("ISPIN", 1) == 2 and "MAGMOM" in incar and len(incar["MAGMOM"]) != n_atoms:
        raise RefusedError(f"{len(incar['MAGMOM'])} moments for {n_atoms} atoms")
    if incar.get("LDAU") and not incar.get("LDAUU"):
        raise RefusedError("LDAU without LDAUU")


def k_divisions(folder: Path, incar: Incar, structure: Structure) -> list[int]:
    """Return the k-point mesh of KPOINTS, or of KSPACING."""
    if (folder / "KPOINTS").is_file():
        kpoints = Kpoints.from_file(folder / "KPOINTS")
        return [int(one) for one in kpoints.kpts[0]]
    spacing = incar.get("KSPACING")
    if spacing is None or not 0.01 < spacing < 2:
        raise RefusedError(f"no KPOINTS, and KSPACING is {spacing}")
    lengths = np.array(structure.lattice.reciprocal_lattice.abc)
    return [int(one) for one in np.maximum(1, np.ceil(lengths / spacing))]


def compute(inputs: Inputs, folder: Path, fail: str) -> None:
    """Compute all geometries; CONTCAR and OSZICAR grow with each, as VASP's do."""
    atoms = inputs.poscar.structure.to_ase_atoms()
    atoms.calc = EMT()
    nsw, ediffg = int(inputs.incar.get("NSW", 0)), float(inputs.incar.get("EDIFFG", -0.01))
    dies_after = int(fail.partition("@")[2]) if fail.startswith("die@") else 0
    stalls_after = int(fail.partition("@")[2]) if fail.startswith("stall@") else 0
    (folder / "OSZICAR").write_text("")

    def note() -> None:
        inputs.steps.append(
            {
                "cell": atoms.cell.array.copy(),
                "coords": atoms.get_scaled_positions(wrap=False),
                "energy": float(atoms.get_potential_energy()) + SHIFT_EV * len(atoms),
                "forces": atoms.get_forces().copy(),
                "stress_kbar": -atoms.get_stress(voigt=False) / KBAR,
            }
        )
        write_contcar(folder, atoms, inputs.poscar)
        write_oszicar(folder, inputs, fail)
        if len(inputs.steps) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(inputs.steps) == stalls_after:
            time.sleep(120)

    if nsw <= 1:
        note()
        return
    moved = FrechetCellFilter(atoms) if inputs.incar.get("ISIF", 2) == 3 else atoms
    optimizer = BFGS(moved, logfile=None)
    # VASP counts the first geometry among NSW
    for _ in optimizer.irun(fmax=abs(ediffg), steps=nsw - 1):
        note()


def write_contcar(folder: Path, atoms: Atoms, poscar: Poscar) -> None:
    lattice, coords = atoms.cell.array, atoms.get_scaled_positions(wrap=False)
    Poscar(Structure(lattice, poscar.structure.species, coords)).write_file(folder / "CONTCAR")


def scf_energies(inputs: Inputs, energy: float, fail: str) -> list[float]:
    """Return made-up energies of electronic iterations that end in the one that was computed."""
    count = int(inputs.incar.get("NELM", 60)) if fail == "scf" else SCF_STEPS
    if fail == "scf":
        return [energy + 0.5 * (-1) ** step for step in range(count - 1)] + [energy]
    return [energy + 10.0 ** (-2 * step) for step in range(1, count)] + [energy]


def write_oszicar(folder: Path, inputs: Inputs, fail: str) -> None:
    number, energy = len(inputs.steps), inputs.steps[-1]["energy"]
    lines = ["       N       E                     dE             d eps       ncg     rms          rms(c)"]
    before = 0.0
    for n, one in enumerate(scf_energies(inputs, energy, fail), 1):
        lines.append(
            f"DAV: {n:3d}   {one:.12E}   {one - before:.5E}  {one - before:.5E}   100   0.1E+00    0.1E+00"
        )
        before = one
    lines.append(f"{number:4d} F= {energy:.8E} E0= {energy:.8E}  d E ={0.0:.6E}")
    with (folder / "OSZICAR").open("a") as handle:
        handle.write("\n".join(lines) + "\n")


def write_outcar(folder: Path, inputs: Inputs, seconds: float) -> None:
    energy = inputs.steps[-1]["energy"]
    (folder / "OUTCAR").write_text(
        f"""
 vasp.{VERSION} stand-in by effective-medium theory
 running on    1 total cores
   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      8
   total plane-waves  NPLWV =      1000
   ISPIN  =      {inputs.incar.get("ISPIN", 1)}    spin polarized calculation?
   IBRION = {inputs.incar.get("IBRION", -1):6d}    ionic relax
 E-fermi :   0.0000     XC(G=0):  0.0000     alpha+bet : 0.0000
  EENTRO =         0.00000000
  total drift:                               0.000000      0.000000      0.000000
  free  energy   TOTEN  =      {energy:.8f} eV
  energy  without entropy=      {energy:.8f}  energy(sigma->0) =      {energy:.8f}
 number of electron       8.0000000 magnetization       0.0000000
 General timing and accounting informations for this job:
                  Total CPU time used (sec):     {seconds:.3f}
                            User time (sec):     {seconds:.3f}
                          System time (sec):     0.000
                         Elapsed time (sec):     {seconds:.3f}
                   Maximum memory used (kb):     1000.
                   Average memory used (kb):          N/A
"""
    )


def rows(array: Any, tag: str = "v") -> str:
    return "\n".join(
        f"<{tag}>{' '.join(f'{one:.10f}' for one in row)}</{tag}>" for row in np.atleast_2d(array)
    )


def structure_xml(step: dict[str, Any], name: str = "") -> str:
    volume = abs(np.linalg.det(step["cell"]))
    reciprocal = np.linalg.inv(step["cell"]).T
    return f"""<structure{f' name="{name}"' if name else ""}>
<crystal><varray name="basis">{rows(step["cell"])}</varray><i name="volume">{volume:.8f}</i>
<varray name="rec_basis">{rows(reciprocal)}</varray></crystal>
<varray name="positions">{rows(step["coords"])}</varray></structure>"""


def energy_xml(energy: float) -> str:
    names = ("e_fr_energy", "e_wo_entrp", "e_0_energy")
    return "<energy>" + "".join(f'<i name="{name}">{energy:.8f}</i>' for name in names) + "</energy>"


def tags_xml(tags: dict[str, Any]) -> str:
    lines = []
    for name, value in tags.items():
        many = isinstance(value, list | tuple)
        kinds = {bool: "logical", int: "int", str: "string"}
        kind = kinds.get(type(value[0] if many else value), "")
        written = [
            ("T" if one else "F") if isinstance(one, bool) else str(one)
            for one in (value if many else [value])
        ]
        about = f' type="{kind}"' if kind else ""
        lines.append(
            f'<{"v" if many else "i"}{about} name="{name}">{" ".join(written)}</{"v" if many else "i"}>'
        )
    return "\n".join(lines)


def atoms_xml(inputs: Inputs) -> str:
    species = [site.specie.symbol for site in inputs.poscar.structure]
    counts = inputs.poscar.natoms
    atom_rows = "".join(f"<rc><c>{one}</c><c>1</c></rc>" for one in species)
    type_rows = "".join(
        f"<rc><c>{count}</c><c>{symbol}</c><c>1.0</c><c>11.0</c><c>{title}</c></rc>"
        for count, symbol, title in zip(counts, inputs.poscar.site_symbols, inputs.titles, strict=True)
    )
    return (
        f"<atominfo><atoms>{len(species)}</atoms><types>{len(counts)}</types>"
        f'<array name="atoms"><set>{atom_rows}</set></array>'
        f'<array name="atomtypes"><set>{type_rows}</set></array></atominfo>'
    )


def bands_xml(spins: int) -> str:
    """Return placeholders: one half-filled band of a metal and a flat density of states."""
    bands = "".join(
        f'<set comment="spin {s}"><set comment="kpoint 1"><r>-1.0 1.0</r><r>0.0 0.5</r><r>1.0 0.0</r></set></set>'
        for s in range(1, spins + 1)
    )
    states = "".join(
        f'<set comment="spin {s}"><r>-2.0 1.0 0.0</r><r>0.0 1.0 2.0</r><r>2.0 1.0 4.0</r></set>'
        for s in range(1, spins + 1)
    )
    return (
        f"<eigenvalues><array><set>{bands}</set></array></eigenvalues>"
        f'<dos><i name="efermi">0.0</i><total><array><set>{states}</set></array></total></dos>'
    )


def write_vasprun(folder: Path, inputs: Inputs, fail: str) -> None:
    defaults = {
        "GGA": "--",
        "NELM": 60,
        "NSW": 0,
        "IBRION": -1,
        "ISIF": 2,
        "ISPIN": 1,
        "LORBIT": 0,
        "EDIFFG": -0.01,
    }
    parameters = {**defaults, **inputs.incar, "ENMAX": inputs.encut, "NELECT": inputs.electrons, "LORBIT": 0}
    calculations = []
    for number, step in enumerate(inputs.steps, 1):
        scf = "".join(
            f"<scstep>{energy_xml(one)}</scstep>" for one in scf_energies(inputs, step["energy"], fail)
        )
        last = bands_xml(int(inputs.incar.get("ISPIN", 1))) if number == len(inputs.steps) else ""
        calculations.append(
            f'<calculation>{scf}{structure_xml(step)}<varray name="forces">{rows(step["forces"])}</varray>'
            f'<varray name="stress">{rows(step["stress_kbar"])}</varray>{energy_xml(step["energy"])}{last}'
            "</calculation>"
        )
    mesh = " ".join(map(str, inputs.divisions))
    text = f"""<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
<generator><i name="program" type="string">vasp</i><i name="version" type="string">{VERSION}</i></generator>
<incar>{tags_xml(dict(inputs.incar))}</incar>
<kpoints><generation param="Gamma"><v type="int" name="divisions">{mesh}</v>
<v name="usershift">0.0 0.0 0.0</v></generation>
<varray name="kpointlist"><v>0.0 0.0 0.0</v></varray><varray name="weights"><v>1.0</v></varray></kpoints>
<parameters>{tags_xml(parameters)}</parameters>
{atoms_xml(inputs)}
{structure_xml(inputs.steps[0], "initialpos")}
{"".join(calculations)}
{structure_xml(inputs.steps[-1], "finalpos")}
</modeling>
"""
    (folder / "vasprun.xml").write_text(text[: len(text) // 2] if fail == "truncate" else text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fail", default="")
    fail = parser.parse_args().fail
    folder, began = Path.cwd(), time.monotonic()
    try:
        inputs = read_inputs(folder)
    except RefusedError as error:
        sys.stderr.write(f"stand-in refuses: {error}\n")
        return 3
    sys.stdout.write(f" running on    1 total cores, vasp.{VERSION} stand-in, k-points {inputs.divisions}\n")
    if fail == "memory":
        sys.stderr.write("slurmstepd: error: Detected 1 oom-kill event, some processes ran out of memory\n")
        return 1
    if fail == "exit":
        sys.stderr.write("internal error in a subroutine\n")
        return 2
    if fail.startswith("wait@"):
        time.sleep(float(fail.partition("@")[2]))
    if fail == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    compute(inputs, folder, fail)
    write_outcar(folder, inputs, time.monotonic() - began)
    write_vasprun(folder, inputs, fail)
    return 0


if __name__ == "__main__":
    sys.exit(main())
