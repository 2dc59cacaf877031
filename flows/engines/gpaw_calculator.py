"""GPAW as an ASE calculator whose stress belongs to a fixed cut-off.

GPAW's stress is the derivative of the energy at a fixed number of plane waves. At a fixed cut-off the number of
waves grows with the volume, which lowers the energy further; at the cut-offs of screening the difference is several
GPa for metals with semicore states, and cells relaxed without it come out too small. With E(V, E_cut) and the number
of plane waves proportional to V·E_cut^(3/2), the stress at fixed cut-off is

    σ_αβ(E_cut) = σ_αβ(N_pw) + δ_αβ · (2/3) · (E_cut / V) · dE/dE_cut

(G. P. Francis and M. C. Payne, J. Phys.: Condens. Matter 2, 4395 (1990)). The derivative comes from two more
self-consistent calculations, at 5 % less and more. It hardly depends on the k-points, so few are used, nor on the
geometry, so it is computed once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes, kpts2sizeandoffsets

from flows.cures import Cure, iterations
from flows.job_context import cores_held, cures

SHIFT = 0.05
"""Relative change of the cut-off for the derivative."""
FEW_KPTS = 1.2
"""k-point density [points per Å⁻¹] of the calculations for the derivative: within 10 % of that at 3.5."""
SYMMETRIES: tuple[dict[str, bool], ...] = (
    {"symmorphic": False},
    {"symmorphic": True},
    {"point_group": False},
)
"""How GPAW uses symmetry, the most of it first. With glide planes and screw axes it wants positions that are
symmetric to 1e-10, which strained cells are not always; then the next is taken. The energy does not depend on it."""
SYMMETRY_ERRORS = frozenset({"SymmetryAnalysisBug", "SymmetryBrokenError"})
"""GPAW's exceptions for crystals whose symmetry it finds and cannot use."""
SLOW_MIXER = {"name": "pulay", "beta": 0.02, "nmaxold": 8, "weight": 100.0}
"""Pulay's mixing with little of the new density, for those that slosh, instead of GPAW's own choice, MSR1."""
OTHER_EIGENSOLVER = {"name": "davidson", "niter": 4}
"""Instead of GPAW's own choice, projected conjugate gradients; each density gets twice the steps of its default."""
MOMENT = 1.0
"""Initial moment of every atom in a spin-polarised calculation whose structure has none [µB]."""


def _about_symmetry(error: Exception) -> bool:
    """Tell whether GPAW could not use a symmetry; for grids that do not fit it has no exception of its own."""
    grid = isinstance(error, AssertionError) and "symmetries" in str(error)
    return grid or type(error).__name__ in SYMMETRY_ERRORS


class FixedCutoffGpaw(Calculator):
    """GPAW with plane waves; k-points are chosen for the first geometry and kept while it relaxes.

    Args:
        settings: What `GpawEngine.settings` gives.
        max_scf: Most electronic iterations at one geometry.
        folder: Absolute folder of the logs, `gpaw.txt` and `gpaw-cutoff.txt`.
    """

    # shortened for an instance without spins, so no ClassVar
    implemented_properties: list[str] = ["energy", "free_energy", "forces", "stress", "magmoms"]  # noqa: RUF012

    def __init__(self, settings: Mapping[str, Any], max_scf: int, folder: Path) -> None:
        super().__init__()
        self._settings = dict(settings)
        self._max_scf = max_scf
        self._folder = folder
        self._gpaw: Any = None
        self._symmetries = list(SYMMETRIES)
        self._derivative: float | None = None
        if not self._settings["spinpol"]:
            self.implemented_properties = [one for one in self.implemented_properties if one != "magmoms"]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Compute the energy [eV] (extrapolated to zero width) and what else is asked for.

        Raises:
            gpaw.KohnShamConvergenceError: The electronic cycle did not settle.
        """
        super().calculate(atoms, properties, system_changes)
        bare = self._bare(self.atoms)
        with threads_held():
            self._settle(bare)
            found: dict[str, Any] = {
                "energy": float(self._gpaw.get_potential_energy(bare)),
                "free_energy": float(self._gpaw.get_potential_energy(bare, force_consistent=True)),
            }
            wanted = properties or ["energy"]
            if "forces" in wanted:
                found["forces"] = np.array(self._gpaw.get_forces(bare))
            if "stress" in wanted:
                found["stress"] = np.array(self._gpaw.get_stress(bare)) + self._pulay(bare)
            if "magmoms" in wanted:
                found["magmoms"] = np.array(self._gpaw.get_magnetic_moments(bare))
        self.results.update(found)

    @property
    def gpaw(self) -> Any:
        """GPAW itself, self-consistent after `calculate`, for what ASE's interface does not offer."""
        return self._gpaw

    def _settle(self, atoms: Atoms) -> None:
        """Bring GPAW to self-consistency, with less symmetry if it cannot use all that it finds."""
        while True:
            if self._gpaw is None:
                density = self._settings["kpts_per_inverse_ang"]
                self._gpaw = self._new(atoms, self._settings["ecut_ev"], density, "gpaw.txt")
            try:
                self._gpaw.get_potential_energy(atoms)
            except Exception as error:
                if not _about_symmetry(error) or len(self._symmetries) == 1:
                    raise
                self._gpaw = None
                self._symmetries.pop(0)
            else:
                return

    def _pulay(self, atoms: Atoms) -> np.ndarray:
        """Return the correction of the stress (6,) [eV/Å³], Voigt order."""
        ecut = self._settings["ecut_ev"]
        if self._derivative is None:
            low, high = (
                float(
                    self._new(atoms, ecut * factor, FEW_KPTS, "gpaw-cutoff.txt").get_potential_energy(atoms)
                )
                for factor in (1 - SHIFT, 1 + SHIFT)
            )
            self._derivative = (high - low) / (2 * SHIFT * ecut)
        diagonal = 2 / 3 * ecut * self._derivative / atoms.get_volume()
        return diagonal * np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])

    def _new(self, atoms: Atoms, ecut_ev: float, density: float, log: str) -> Any:
        """Return a GPAW calculator with k-points for this cell."""
        from gpaw import GPAW

        settings = self._settings
        size, _ = kpts2sizeandoffsets(density=density, gamma=True, atoms=atoms)
        return GPAW(
            mode={"name": "pw", "ecut": ecut_ev},
            xc=settings["xc"],
            kpts={"size": tuple(int(number) for number in size), "gamma": True},
            occupations={"name": "fermi-dirac", "width": settings["smearing_ev"]},
            convergence={
                "energy": settings["converge_energy_ev"],
                "density": settings["converge_density"],
                "eigenstates": settings["converge_eigenstates_ev2"],
            },
            spinpol=settings["spinpol"],
            symmetry=self._symmetries[0],
            txt=str(self._folder / log),
            **_cycle(self._max_scf, cures()),
        )

    def _bare(self, atoms: Atoms) -> Atoms:
        """Return the atoms without constraints, which GPAW need not know; with moments if spins count."""
        bare = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)
        if self._settings["spinpol"]:
            moments = atoms.get_initial_magnetic_moments()
            bare.set_initial_magnetic_moments(moments if moments.any() else np.full(len(atoms), MOMENT))
        return bare


def _cycle(max_scf: int, cured: AbstractSet[Cure]) -> dict[str, Any]:
    """Return how the electronic cycle is run, which changes what it takes and not what it gives."""
    options: dict[str, Any] = {"maxiter": iterations(max_scf, cured)}
    if Cure.SLOW_MIXING in cured:
        options["mixer"] = dict(SLOW_MIXER)
    if Cure.OTHER_ALGORITHM in cured:
        options["eigensolver"] = dict(OTHER_EIGENSOLVER)
    return options


@contextlib.contextmanager
def threads_held() -> Iterator[None]:
    """Keep BLAS and OpenMP to this worker's cores where the environment came too late to say so."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(cores_held()):
        yield
