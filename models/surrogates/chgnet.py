"""CHGNet as surrogate: energies and batched relaxations on the Materials Project's corrected scale.

The weights (version 0.3.0, 412,525 parameters, BSD-3) are in the chgnet package: nothing is downloaded.
CHGNet was trained on energies that carry the MP2020 corrections, so its formation energies compare with the
Materials Project's hull as they are. Its phonons are unreliable: never prune on them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
from collections.abc import Sequence
from importlib import metadata, resources
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.errors import DeviceError, ModelsError
from models.relaxation import Evaluation, Geometry, Outcome, RelaxationSettings, relax
from models.surrogates.base import Relaxed
from models.symmetrise import spacegroup_number, symmetrised

if TYPE_CHECKING:
    import torch
    from pymatgen.core import Structure

    from models.surrogates.chgnet_graph import CrystalGraph

HEAVIEST = 94
"""CHGNet's embedding ends with plutonium."""

UNTRAINED = {84: "Po", 85: "At", 86: "Rn", 87: "Fr", 88: "Ra"}
"""Elements that have an embedding but do not occur in the training set: their energies mean nothing."""

ROWS_PER_BATCH_CPU = 8_000
"""Bonds and angles in one evaluation on a CPU: more than this falls out of the caches."""

ROWS_PER_BATCH_CUDA = 1_000_000
"""Bonds and angles in one evaluation on a GPU: about 20 GB."""


class CHGNetConfig(BaseModel):
    """Options of the surrogate `chgnet`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Literal["0.3.0"] = Field(default="0.3.0", description="Version of the packaged weights.")
    device: str = Field(
        default="cpu",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="cpu, cuda, cuda:N, or auto for a GPU where there is one.",
    )
    rows_per_batch: int | None = Field(
        default=None,
        gt=0,
        description="Bonds and angles evaluated together; null chooses by device (8,000 on a CPU, 1,000,000 "
        "on a GPU). Lower it when memory is short: about 20 kB each.",
    )
    max_volume_change: float = Field(
        default=3.0,
        gt=1.0,
        description="A crystal whose volume changes by more than this factor has exploded and gets an error.",
    )


class CHGNetSurrogate:
    """CHGNet 0.3.0 on many crystals at once.

    Building it loads nothing; the weights are read at first use. The number of CPU threads is the caller's.

    Raises:
        DeviceError: At first use, when the device asked for is not there.
    """

    Config = CHGNetConfig

    def __init__(self, config: CHGNetConfig | None = None) -> None:
        self.config = config or CHGNetConfig()

    @property
    def version(self) -> str:
        """Name, weights and package version."""
        return f"chgnet-{self.config.weights} (chgnet {metadata.version('chgnet')})"

    @functools.cached_property
    def device(self) -> torch.device:
        """Where the potential is evaluated."""
        import torch

        wanted = self.config.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        if wanted.startswith("cuda") and not torch.cuda.is_available():
            raise DeviceError(
                "no CUDA device on this machine",
                value=wanted,
                allowed=["cpu", "auto"],
                cure="set device: auto",
            )
        return torch.device(wanted)

    @functools.cached_property
    def _model(self) -> Any:
        return load_quietly(self.config.weights).to(self.device)

    def energies(self, structures: Sequence[Structure]) -> np.ndarray:
        """Return energies (n_crystals,) [eV/atom] of crystals as they are; nan where CHGNet fails."""
        found = np.full(len(structures), np.nan)
        geometries: list[Geometry] = []
        places: list[int] = []
        for place, structure in enumerate(structures):
            geometry = geometry_of(structure)
            if isinstance(geometry, Geometry):
                geometries.append(geometry)
                places.append(place)
        answers = self.evaluate(geometries, derivatives=False)
        for place, geometry, answer in zip(places, geometries, answers, strict=True):
            if isinstance(answer, Evaluation):
                found[place] = answer.energy / len(geometry.numbers)
        return found

    def relax(
        self,
        structures: Sequence[Structure],
        *,
        fix_symmetry: bool,
        max_steps: int,
        fmax_ev_per_ang: float,
        relax_cell: bool = True,
        symprec: float = 0.1,
    ) -> list[Relaxed]:
        """Relax crystals together.

        Args:
            structures: Ordered crystals.
            fix_symmetry: Keep each crystal's own space group; it is first made exact, within `symprec`.
            max_steps: Most steps per crystal.
            fmax_ev_per_ang: Threshold for forces, see `RelaxationSettings.fmax`.
            relax_cell: Whether cells move too.
            symprec: Tolerance of all space groups here [Å].

        Returns:
            One outcome per crystal, in order; a crystal that fails has its `error` set.
        """
        settings = RelaxationSettings(
            max_steps, fmax_ev_per_ang, relax_cell, max_volume_change=self.config.max_volume_change
        )
        results: list[Relaxed | None] = []
        starts, projectors, before, places = [], [], [], []
        for place, structure in enumerate(structures):
            results.append(None)
            geometry = geometry_of(structure)
            if isinstance(geometry, str):
                results[place] = failed(structure, 0, 0, geometry)
                continue
            cell = (geometry.lattice, geometry.frac_coords, geometry.numbers)
            before.append(spacegroup_number(*cell, symprec))
            projector = None
            if fix_symmetry:
                lattice, frac_coords, projector = symmetrised(*cell, symprec)
                geometry = Geometry(geometry.numbers, frac_coords, lattice)
            starts.append(geometry)
            projectors.append(projector)
            places.append(place)
        outcomes = relax(starts, self.evaluate, settings, projectors) if starts else []
        for place, number, outcome in zip(places, before, outcomes, strict=True):
            results[place] = _relaxed(structures[place], number, outcome, symprec)
        return [result for result in results if result is not None]

    def element_energy(self, symbol: str) -> float:
        """Return CHGNet's energy [eV/atom] of the element's ground state.

        Raises:
            ModelsError: CHGNet has no reference for this element.
        """
        energies = element_energies()
        if symbol not in energies:
            raise ModelsError("CHGNet has no elemental reference", value=symbol, allowed=sorted(energies))
        return energies[symbol]

    def formation_energies(
        self, structures: Sequence[Structure], energies: Sequence[float] | np.ndarray | None = None
    ) -> np.ndarray:
        """Return formation energies (n_crystals,) [eV/atom]; nan where energy or a reference is missing.

        Args:
            structures: The crystals.
            energies: Their energies [eV/atom] on CHGNet's scale; computed where not given.
        """
        known = self.energies(structures) if energies is None else np.asarray(energies, dtype=float)
        references = element_energies()
        base = [
            sum(
                references.get(symbol, float("nan")) * share
                for symbol, share in structure.composition.fractional_composition.get_el_amt_dict().items()
            )
            for structure in structures
        ]
        return np.asarray(known - np.asarray(base, dtype=float))

    def evaluate(self, geometries: Sequence[Geometry], *, derivatives: bool = True) -> list[Evaluation | str]:
        """Return energy, forces and stress of each crystal, or why there are none.

        Args:
            geometries: The crystals.
            derivatives: Whether forces and stress are wanted; without them they are zero.
        """
        from models.surrogates.chgnet_graph import GraphError, crystal_graph

        answers: list[Evaluation | str] = [""] * len(geometries)
        graphs: dict[int, CrystalGraph] = {}
        converter = self._model.graph_converter
        for place, geometry in enumerate(geometries):
            try:
                graphs[place] = crystal_graph(
                    geometry, converter.atom_graph_cutoff, converter.bond_graph_cutoff
                )
            except GraphError as error:
                answers[place] = str(error)
            except Exception as error:  # one odd crystal must not end the others
                answers[place] = f"no crystal graph: {type(error).__name__}: {error}"
        for places in self._batches(graphs):
            found = self._evaluate_batch([graphs[place] for place in places], derivatives)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        return answers

    def _batches(self, graphs: dict[int, CrystalGraph]) -> list[list[int]]:
        """Split crystals into batches of at most `rows_per_batch` bonds and angles."""
        limit = self.config.rows_per_batch or (
            ROWS_PER_BATCH_CUDA if self.device.type == "cuda" else ROWS_PER_BATCH_CPU
        )
        batches: list[list[int]] = []
        room = 0
        for place, graph in graphs.items():
            rows = len(graph.bonds) + len(graph.angles)
            if rows > room or not batches:
                batches.append([])
                room = limit
            batches[-1].append(place)
            room -= rows
        return batches

    def _evaluate_batch(self, graphs: Sequence[CrystalGraph], derivatives: bool) -> list[Evaluation | str]:
        """Evaluate one batch; where that fails, halve it until the crystal at fault stands alone."""
        try:
            return self._forward(graphs, derivatives)
        except (RuntimeError, IndexError, ValueError) as error:  # out of memory is a RuntimeError
            if len(graphs) == 1:
                return [f"CHGNet failed: {type(error).__name__}: {str(error).splitlines()[0]}"]
            half = len(graphs) // 2
            return self._evaluate_batch(graphs[:half], derivatives) + self._evaluate_batch(
                graphs[half:], derivatives
            )

    def _forward(self, graphs: Sequence[CrystalGraph], derivatives: bool) -> list[Evaluation | str]:
        import torch

        from models.surrogates.chgnet_graph import assemble

        with torch.set_grad_enabled(derivatives):
            batch = assemble(self._model, graphs, self.device)
            # The public forward differentiates once for forces and again for stress, and keeps a graph for
            # training; the same energies with one plain backward pass take half the time.
            per_atom = self._model._compute(batch.graph)["e"]  # (n_crystals,) [eV/atom]
            counts = torch.as_tensor(batch.n_atoms, device=self.device)
            if derivatives:
                by_coords, by_strain = torch.autograd.grad(
                    (per_atom * counts).sum(), [batch.cart_coords, batch.strain]
                )
                forces = -by_coords.cpu().double().numpy()  # (n_atoms, 3)
                stress = (by_strain / batch.volumes[:, None, None]).cpu().double().numpy()
            else:
                forces = np.zeros((sum(batch.n_atoms), 3))
                stress = np.zeros((len(graphs), 3, 3))
            numbers = [
                SimpleNamespace(atomic_number=part)
                for part in torch.split(batch.graph.atomic_numbers, batch.n_atoms)
            ]
            shift = self._model.composition_model(numbers)  # elemental part of the energy [eV/atom]
        energies = ((per_atom + shift).detach().double() * counts).cpu().numpy()
        answers: list[Evaluation | str] = []
        parts = np.split(forces, np.cumsum(batch.n_atoms)[:-1])
        for energy, force, tensor in zip(energies, parts, stress, strict=True):
            finite = np.isfinite(energy) and np.isfinite(force).all() and np.isfinite(tensor).all()
            answers.append(
                Evaluation(float(energy), force, (tensor + tensor.T) / 2)
                if finite
                else "CHGNet gives no finite energy or forces"
            )
        return answers


def load_quietly(weights: str) -> Any:
    """Read the packaged weights without chgnet's greetings on stdout, and without unpickling classes.

    Raises:
        ModelsError: The package does not hold these weights.
    """
    import chgnet
    import torch
    from chgnet.model import CHGNet

    folder = Path(chgnet.__file__).parent / "pretrained" / weights
    files = sorted(folder.glob("*.pth.tar"))
    if not files:
        raise ModelsError("chgnet's weights are missing", value=str(folder), cure="reinstall chgnet")
    state = torch.load(files[0], map_location="cpu", weights_only=True)["model"]
    # Building the network draws first weights, which are then overwritten: no need to move the global generator.
    with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
        # mlp_out_bias=False, as chgnet itself loads 0.3.0
        model = CHGNet.from_dict(state, mlp_out_bias=False, version=weights)
    model.requires_grad_(False)
    return model.eval()


@functools.cache
def element_energies() -> dict[str, float]:
    """Return CHGNet's energy [eV/atom] of every element's ground state (deploy/make_element_energies.py)."""
    text = resources.files("models").joinpath("resources/chgnet_element_energies.json").read_text("utf-8")
    return {symbol: float(entry["energy_per_atom"]) for symbol, entry in json.loads(text)["elements"].items()}


def geometry_of(structure: Structure) -> Geometry | str:
    """Read a structure, or say why CHGNet cannot treat it."""
    try:
        numbers = np.asarray([site.specie.Z for site in structure], dtype=np.int64)
        geometry = Geometry(
            numbers, np.array(structure.frac_coords, dtype=float), np.array(structure.lattice.matrix)
        )
    except (AttributeError, TypeError, ValueError):
        return "a site is partly or not occupied by an element"
    return _complaint(geometry) or geometry


def _complaint(geometry: Geometry) -> str | None:
    """Say why CHGNet cannot treat a geometry; None where it can."""
    if not len(geometry.numbers):
        return "no atoms"
    if geometry.numbers.max() > HEAVIEST:
        return f"CHGNet knows no element beyond Pu; got atomic number {geometry.numbers.max()}"
    unknown = sorted({UNTRAINED[number] for number in geometry.numbers.tolist() if number in UNTRAINED})
    if unknown:
        return f"CHGNet was not trained on {', '.join(unknown)}"
    if not (np.isfinite(geometry.lattice).all() and np.isfinite(geometry.frac_coords).all()):
        return "coordinates or lattice are not finite"
    return "the lattice is flat" if geometry.volume < 1e-6 else None


def failed(structure: Structure, spacegroup: int, n_steps: int, error: str) -> Relaxed:
    """Return the outcome of a crystal that could not be relaxed."""
    nan = float("nan")
    return Relaxed(structure, nan, nan, False, n_steps, spacegroup, spacegroup, error)


def _relaxed(structure: Structure, spacegroup_before: int, outcome: Outcome, symprec: float) -> Relaxed:
    if outcome.error is not None:
        return failed(structure, spacegroup_before, outcome.n_steps, outcome.error)
    from pymatgen.core import Lattice
    from pymatgen.core import Structure as Crystal

    geometry = outcome.geometry
    final = Crystal(
        Lattice(geometry.lattice),
        structure.species,
        geometry.frac_coords,
        to_unit_cell=True,
        properties=dict(structure.properties),
    )
    after = spacegroup_number(geometry.lattice, geometry.frac_coords, geometry.numbers, symprec)
    return Relaxed(
        structure=final,
        energy_per_atom=outcome.energy / len(geometry.numbers),
        max_force=outcome.max_force,
        converged=outcome.converged,
        n_steps=outcome.n_steps,
        spacegroup_before=spacegroup_before,
        spacegroup_after=after,
    )
