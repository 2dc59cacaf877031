"""SevenNet as surrogate: a second universal potential, where the package `sevenn` is installed.

`sevenn` carries its weights, so nothing is downloaded; it is no dependency: `pip install 'crystal-campaign[sevennet]'`.
SevenNet-0 was trained on the same relaxations as CHGNet, MPtrj, but on energies without the MP2020 corrections, which
are added here; so both speak of one scale. Source: Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from importlib import metadata, resources, util
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.errors import MissingPackageError
from models.relaxation import Evaluation, Geometry
from models.surrogates.batched import BatchedSurrogate

BONDS_PER_BATCH = 60_000
"""Bonds in one evaluation."""

VOIGT = ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0))
"""Order of SevenNet's stress."""


class SevenNetConfig(BaseModel):
    """Options of the surrogate `sevennet`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: Literal["7net-0"] = Field(default="7net-0", description="Weights that the package carries.")
    device: str = Field(
        default="cpu",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="cpu, cuda, cuda:N, or auto for a GPU where there is one.",
    )
    max_volume_change: float = Field(
        default=3.0,
        gt=1.0,
        description="A crystal whose volume changes by more than this factor has exploded and gets an error.",
    )


class SevenNetSurrogate(BatchedSurrogate):
    """SevenNet-0 with the corrections of the Materials Project.

    Building it loads nothing; the weights are read at first use. It cannot be fine-tuned here.

    Raises:
        MissingPackageError: At first use, when `sevenn` is not installed.
        DeviceError: At first use, when the device asked for is not there.
    """

    Config = SevenNetConfig
    name = "SevenNet"

    def __init__(self, config: SevenNetConfig | None = None) -> None:
        self.config: SevenNetConfig = config or SevenNetConfig()

    @property
    def version(self) -> str:
        """Name, weights and package version."""
        self.check()
        return f"sevennet-{self.config.weights} (sevenn {metadata.version('sevenn')}, MP2020 corrections)"

    @staticmethod
    def check() -> None:
        """Raise where the package is missing.

        Raises:
            MissingPackageError: It is.
        """
        if util.find_spec("sevenn") is None:
            raise MissingPackageError(
                "the surrogate sevennet needs the package sevenn, which is not installed",
                cure="pip install 'crystal-campaign[sevennet]', or pip install sevenn",
            )

    @functools.cached_property
    def _model(self) -> Any:
        """The network, for batches; its file is the installed package's own."""
        self.check()
        import torch
        from sevenn import util as sevenn

        with torch.random.fork_rng(devices=[]):  # building it draws first weights, which are overwritten
            model = sevenn.load_checkpoint(self.config.weights).build_model()
        model.set_is_batch_data(True)
        return model.to(self.device).eval()

    def element_energies(self) -> Mapping[str, float]:
        """Return SevenNet's energy [eV/atom] of every element's ground state."""
        return element_energies()

    def refusal(self, geometry: Geometry) -> str | None:
        """Say why SevenNet cannot treat a geometry; None where it can."""
        unknown = sorted(set(geometry.numbers.tolist()) - set(self._model.type_map))
        return f"SevenNet was not trained on the atomic numbers {unknown}" if unknown else None

    def evaluate(self, geometries: Sequence[Geometry], *, derivatives: bool = True) -> list[Evaluation | str]:  # noqa: ARG002
        """Return energy with corrections, forces and stress of each crystal, or why there are none.

        Args:
            geometries: The crystals.
            derivatives: Taken for forces and stress, which SevenNet always gives.
        """
        from sevenn.train.dataload import unlabeled_atoms_to_graph

        answers: list[Evaluation | str] = ["SevenNet failed"] * len(geometries)
        waiting: list[tuple[int, dict[str, Any]]] = []
        bonds = 0
        for place, geometry in enumerate(geometries):
            try:
                graph = unlabeled_atoms_to_graph(_atoms(geometry), float(self._model.cutoff))
            except Exception as error:  # one odd crystal must not end the others
                answers[place] = f"no crystal graph: {type(error).__name__}: {error}"
                continue
            found = graph["edge_index"].shape[1]
            if waiting and bonds + found > BONDS_PER_BATCH:
                self._evaluate_batch(waiting, geometries, answers)
                waiting, bonds = [], 0
            waiting.append((place, graph))
            bonds += found
        self._evaluate_batch(waiting, geometries, answers)
        return answers

    def _evaluate_batch(
        self,
        waiting: Sequence[tuple[int, dict[str, Any]]],
        geometries: Sequence[Geometry],
        answers: list[Evaluation | str],
    ) -> None:
        """Evaluate a batch into `answers`; where that fails, its crystals one by one."""
        if not waiting:
            return
        places = [place for place, _ in waiting]
        try:
            found = self._forward([graph for _, graph in waiting], [geometries[place] for place in places])
        except (RuntimeError, IndexError, ValueError) as error:  # out of memory is a RuntimeError
            if len(waiting) == 1:
                answers[places[0]] = f"SevenNet failed: {type(error).__name__}: {str(error).splitlines()[0]}"
                return
            for one in waiting:
                self._evaluate_batch([one], geometries, answers)
            return
        for place, answer in zip(places, found, strict=True):
            answers[place] = answer

    def _forward(
        self, graphs: Sequence[dict[str, Any]], geometries: Sequence[Geometry]
    ) -> list[Evaluation | str]:
        from sevenn import _keys
        from sevenn.atom_graph_data import AtomGraphData
        from torch_geometric.data import Batch

        batch = Batch.from_data_list([AtomGraphData.from_numpy_dict(dict(graph)) for graph in graphs])
        output = self._model(batch.to(self.device))
        energies = output[_keys.PRED_TOTAL_ENERGY].detach().cpu().double().numpy().reshape(-1)
        forces = output[_keys.PRED_FORCE].detach().cpu().double().numpy()
        stresses = -output[_keys.PRED_STRESS].detach().cpu().double().numpy().reshape(-1, 6)
        sizes = [len(one.numbers) for one in geometries]
        parts = np.split(forces, np.cumsum(sizes)[:-1])
        answers: list[Evaluation | str] = []
        for geometry, energy, force, voigt in zip(geometries, energies, parts, stresses, strict=True):
            total = float(energy) + self._correction(geometry) * len(geometry.numbers)
            tensor = np.zeros((3, 3))
            for value, (row, column) in zip(voigt, VOIGT, strict=True):
                tensor[row, column] = tensor[column, row] = value
            finite = np.isfinite(total) and np.isfinite(force).all() and np.isfinite(tensor).all()
            answers.append(
                Evaluation(total, force, tensor) if finite else "SevenNet gives no finite energy or forces"
            )
        return answers

    @staticmethod
    def _correction(geometry: Geometry) -> float:
        """Return the correction [eV/atom], which changes with the distances of anions alone."""
        from pymatgen.core import Lattice, Structure

        from models.surrogates.mp2020 import corrections

        structure = Structure(Lattice(geometry.lattice), geometry.numbers, geometry.frac_coords)
        return float(corrections([structure])[0])


@functools.cache
def element_energies() -> dict[str, float]:
    """Return SevenNet-0's energy [eV/atom] of elements' ground states (deploy/make_element_energies.py).

    Of elements whose ground state is not among those crystals, halogens above all, it is CHGNet's, which foretells
    energies of the same DFT: where both are known they differ by 19 meV/atom in the mean.
    """
    from models.surrogates.chgnet import element_energies as chgnet_energies

    text = resources.files("models").joinpath("resources/sevennet_element_energies.json").read_text("utf-8")
    own = {symbol: float(entry["energy_per_atom"]) for symbol, entry in json.loads(text)["elements"].items()}
    return {**chgnet_energies(), **own}


def _atoms(geometry: Geometry) -> Any:
    from ase import Atoms

    return Atoms(
        numbers=geometry.numbers, scaled_positions=geometry.frac_coords, cell=geometry.lattice, pbc=True
    )
