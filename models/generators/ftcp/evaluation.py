"""How well the FTCP autoencoder gives crystals back and predicts their properties: Zhu et al., Matter 7, 3469 (2024).

Their table 2 compares FTCP's reconstructions, their table 1 its property branch; figures here are computed as the
public code of Ren et al. computes them, on the latent mean instead of a draw around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from models.data import STABLE
from models.generators.ftcp.representation import SMALL_BELOW, Cells, Layout, decode, decode_elements
from models.metrics import Metrics, classification_metrics, mae

Array = npt.NDArray[np.float64]


def reconstruction_metrics(truth: Cells, decoded: torch.Tensor, layout: Layout) -> Metrics:
    """Compare decoded arrays with the crystals that were encoded.

    Args:
        truth: The crystals.
        decoded: (n_crystals, n_rows, n_real or more) no longer scaled.
        layout: Of the arrays.

    Returns:
        `n`, and with entries below 0.1 set to zero first, as the public code does:

        - `element_accuracy`: share of right elements among the columns that a crystal uses (the paper's mean over
          three columns, where all crystals are ternary);
        - `lattice_mape`, `angle_mape`: mean absolute error of a, b, c and of the three angles relative to the true
          value [%];
        - `coordinate_mae`: mean absolute error of fractional coordinates over the sites that a crystal has, without
          the shorter way through the cell's face;
        - `site_accuracy`: share of sites, empty ones included, with the right column or rightly empty (not in the
          paper);
        - `exact_composition`: share of crystals with all elements and all sites right (not in the paper).
    """
    found: Metrics = {"n": float(len(truth))}
    if len(truth) == 0:
        return found
    sites = (decode(decoded, layout).columns == truth.columns).double()  # (n, max_sites)
    decoded = torch.where(decoded < SMALL_BELOW, 0.0, decoded)
    present = truth.elements > 0  # (n, max_elements)
    right = decode_elements(decoded, layout) == truth.elements
    occupied = truth.columns >= 0
    lengths, angles = decoded[:, layout.lengths, :3], decoded[:, layout.lengths + 1, :3]
    off = (decoded[:, layout.coords, :3] - truth.frac_coords).abs()  # (n, max_sites, 3)
    found["element_accuracy"] = float(right[present].double().mean())
    found["lattice_mape"] = 100.0 * float(((lengths - truth.lengths) / truth.lengths).abs().double().mean())
    found["angle_mape"] = 100.0 * float(((angles - truth.angles) / truth.angles).abs().double().mean())
    found["coordinate_mae"] = float(off[occupied].double().mean())
    found["site_accuracy"] = float(sites.mean())
    whole = (right | ~present).all(dim=1) & (sites == 1.0).all(dim=1)
    found["exact_composition"] = float(whole.double().mean())
    return found


def property_metrics(names: Sequence[str], truth: Array, predicted: Array) -> Metrics:
    """Judge predictions (n_crystals, n_properties); NaN stands for not known or not predicted.

    Returns:
        `<name>:mae` and `<name>:n` for each property of which something is known, and for `stable` the
        figures of `models.metrics.classification_metrics` at a threshold of one half, among them `stable:recall`
        and `stable:precision`.
    """
    found: Metrics = {}
    for column, name in enumerate(names):
        both = np.isfinite(truth[:, column]) & np.isfinite(predicted[:, column])
        if not both.any():
            continue
        known, guess = truth[both, column], predicted[both, column]
        found[f"{name}:n"] = float(both.sum())
        found[f"{name}:mae"] = mae(known, guess)
        if name == STABLE:
            judged = classification_metrics(known, np.clip(guess, 0.0, 1.0), 0.5)
            found |= {f"{name}:{key}": value for key, value in judged.items()}
    return found
