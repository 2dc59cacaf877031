"""CHGNet as surrogate: energies and batched relaxations on the Materials Project's corrected scale.

The weights (version 0.3.0, 412,525 parameters, BSD-3) are in the chgnet package: nothing is downloaded.
CHGNet was trained on energies that carry the MP2020 corrections, so its formation energies compare with the
Materials Project's hull as they are. Its phonons are unreliable: never prune on them.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from models.errors import ModelsError, TrainingDataError
from models.relaxation import Evaluation, Geometry
from models.surrogates.batched import BatchedSurrogate
from models.surrogates.frames import EnergyShift, Frame, fit_shift
from models.surrogates.tuning_config import TuningConfig

if TYPE_CHECKING:
    import torch

    from models.metrics import Metrics
    from models.surrogates.chgnet_graph import CrystalGraph
    from models.surrogates.chgnet_tuning import Example

KIND = "surrogate/chgnet"
"""Of its checkpoints."""

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
    tuning: TuningConfig = Field(default=TuningConfig(), description="How it learns from frames.")


class CHGNetSurrogate(BatchedSurrogate):
    """CHGNet 0.3.0 on many crystals at once.

    Building it loads nothing; the weights are read at first use. The number of CPU threads is the caller's.

    Raises:
        DeviceError: At first use, when the device asked for is not there.
    """

    Config = CHGNetConfig

    name = "CHGNet"

    def __init__(self, config: CHGNetConfig | None = None) -> None:
        self.config: CHGNetConfig = config or CHGNetConfig()
        self._tuned: dict[str, torch.Tensor] | None = None
        self._shift: EnergyShift | None = None

    @property
    def version(self) -> str:
        """Name, weights and package version; of a fine-tuned one the hash of its weights."""
        packaged = f"chgnet-{self.config.weights} (chgnet {metadata.version('chgnet')})"
        return packaged if self._tuned is None else f"{packaged} fine-tuned {digest(self._tuned)}"

    @functools.cached_property
    def _model(self) -> Any:
        model = load_quietly(self.config.weights)
        if self._tuned is not None:
            model.load_state_dict(self._tuned)
        return model.to(self.device)

    def element_energies(self) -> Mapping[str, float]:
        """Return the packaged weights' energies, which stay the zero of energy when the weights are fine-tuned."""
        return element_energies()

    def refusal(self, geometry: Geometry) -> str | None:
        """Say why CHGNet cannot treat a geometry; None where it can."""
        if geometry.numbers.max() > HEAVIEST:
            return f"CHGNet knows no element beyond Pu; got atomic number {geometry.numbers.max()}"
        unknown = sorted({UNTRAINED[number] for number in geometry.numbers.tolist() if number in UNTRAINED})
        return f"CHGNet was not trained on {', '.join(unknown)}" if unknown else None

    def fine_tune(self, frames: Sequence[Frame], replay: Sequence[Frame], seed: int) -> Metrics:
        """Learn frames, with replayed ones against forgetting; see `models.surrogates.base.TunableSurrogate`."""
        from models.surrogates.chgnet_tuning import tune

        foreign = [one for one in frames if not one.own_scale]
        if foreign:
            self._shift = fit_shift(foreign, self.energies([one.structure for one in foreign]))
        model = self._model
        figures = tune(model, self._examples(frames), self._examples(replay), self.config.tuning, seed)
        self._tuned = {name: one.detach().cpu().clone() for name, one in model.state_dict().items()}
        return figures

    def evaluate_frames(self, frames: Sequence[Frame]) -> Metrics:
        """Return mean absolute errors; see `models.surrogates.base.TunableSurrogate`."""
        from models.surrogates.chgnet_tuning import errors

        return errors(self._model, self._examples(frames))

    def _examples(self, frames: Sequence[Frame]) -> list[Example]:
        """Return frames as the network reads them, on CHGNet's scale; what it cannot treat is left out."""
        from models.surrogates.chgnet_tuning import examples_of

        if self._shift is not None:
            frames = self._shift.onto(frames)
        elif any(not one.own_scale and one.energy_per_atom is not None for one in frames):
            raise TrainingDataError(
                "energies of frames are not on CHGNet's scale, and no shift to it is known",
                cure="fine-tune on such frames first, or take the shift off with models.surrogates.frames.fit_shift",
            )
        pairs = [(one, self.geometry_of(one.structure)) for one in frames]
        return examples_of(self._model, [(one, found) for one, found in pairs if isinstance(found, Geometry)])

    def save(self, folder: Path) -> None:
        """Write a checkpoint: weights, options and the shift of energies."""
        from models.checkpoint import save_checkpoint

        state = {"shift": None if self._shift is None else self._shift.document(), "version": self.version}
        save_checkpoint(folder, KIND, self.config.model_dump(mode="json"), state, self._model.state_dict())

    @classmethod
    def load(cls, folder: Path, device: str | None = None) -> Self:
        """Read a checkpoint.

        Args:
            folder: Of the checkpoint.
            device: Where to evaluate; None: as it was saved.

        Raises:
            CheckpointError: There is none, it is damaged, or another model's.
        """
        from models.checkpoint import load_checkpoint

        found = load_checkpoint(folder, KIND)
        config = {**found.config, **({} if device is None else {"device": device})}
        surrogate = cls(CHGNetConfig.model_validate(config))
        surrogate._tuned, shift = dict(found.weights), found.state["shift"]
        surrogate._shift = None if shift is None else EnergyShift(**shift)
        return surrogate

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

        from models.surrogates.chgnet_graph import assemble, elements

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
            # elemental part of the energy [eV/atom]
            shift = self._model.composition_model(elements(batch.graph.atomic_numbers, batch.n_atoms))
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


def digest(weights: Mapping[str, torch.Tensor]) -> str:
    """Return a short hash of weights: the same numbers have the same one."""
    total = hashlib.sha256()
    for name in sorted(weights):
        total.update(name.encode() + weights[name].detach().cpu().numpy().tobytes())
    return total.hexdigest()[:12]
