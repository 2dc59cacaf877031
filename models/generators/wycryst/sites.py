"""What the network is told about letters and elements: tables, and the learned vector of each letter."""

from __future__ import annotations

import torch
from torch import nn

from models.generators.wycryst.contract import N_ELEMENTS
from models.symmetry import MAX_LETTERS, tables


class SiteTable(nn.Module):
    """A vector for every letter of every space group, and the facts about it.

    A letter's vector is the sum of what it shares with letters of the same site symmetry, of what the facts say
    (multiplicity, degrees of freedom, crystal system), and of a part of its own, so that rare letters are
    understood by their kin.

    Args:
        size: Length of a vector.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        known = tables()
        multiplicity = known.multiplicity  # (231, 27)
        self.register_buffer("multiplicity", multiplicity, persistent=False)
        self.register_buffer("legal", multiplicity > 0, persistent=False)
        self.register_buffer("free", known.dof > 0, persistent=False)
        self.register_buffer("rank", slot_rank(), persistent=False)
        self.multiplicity: torch.Tensor
        self.legal: torch.Tensor
        """(231, 27) whether the group has the letter."""
        self.free: torch.Tensor
        """(231, 27) whether the letter has a free coordinate, and may be occupied more than once."""
        self.rank: torch.Tensor
        """(104,) place of each atomic number in the order of slots."""
        symbols = sorted({symbol for group in known.site_symmetry for symbol in group})
        place = {symbol: number for number, symbol in enumerate(symbols, start=1)}
        kinds = torch.zeros(231, MAX_LETTERS, dtype=torch.long)
        for group, of_letters in enumerate(known.site_symmetry):
            for letter, symbol in enumerate(of_letters):
                kinds[group, letter] = place[symbol]
        systems = sorted(set(known.crystal_system))
        system = torch.tensor([systems.index(name) for name in known.crystal_system])
        facts = torch.cat(
            [
                torch.log1p(multiplicity.double() / known.centrings.clamp_min(1)[:, None]).float()[..., None],
                nn.functional.one_hot(known.dof.clamp_min(0), 4).float(),
                nn.functional.one_hot(system, len(systems)).float()[:, None].expand(-1, MAX_LETTERS, -1),
            ],
            dim=2,
        )
        self.register_buffer("kinds", kinds, persistent=False)
        self.register_buffer("facts", facts, persistent=False)
        self.kinds: torch.Tensor
        self.facts: torch.Tensor
        self.of_kind = nn.Embedding(len(symbols) + 1, size)
        self.of_facts = nn.Linear(facts.shape[2], size)
        self.own = nn.Parameter(torch.zeros(231, MAX_LETTERS, size))

    def forward(self, group: torch.Tensor, letter: torch.Tensor) -> torch.Tensor:
        """Return the vectors (m, size) of letters (m,) of groups (m,)."""
        shared = self.of_kind(self.kinds[group, letter]) + self.of_facts(self.facts[group, letter])
        vectors: torch.Tensor = shared + self.own[group, letter]
        return vectors


def element_features() -> torch.Tensor:
    """Return (104, n_features): row z describes element z, row 0 is zero."""
    from models.networks.elements import element_table

    return torch.from_numpy(element_table()[:N_ELEMENTS])


def slot_rank() -> torch.Tensor:
    """Return the place (104,) of each atomic number in the order of slots; the empty slot comes last."""
    from models.genes import slot_order

    return torch.from_numpy(slot_order()[:N_ELEMENTS].copy())
