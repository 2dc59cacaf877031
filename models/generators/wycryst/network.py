"""Our autoencoder of Wyckoff genes: categories instead of regressions, legal by construction.

What differs from the network as printed, and why (measured in `docs/results/wycryst_tables.md`):

- space group, elements and the number of orbits on each letter are categories with a cross-entropy loss;
- a letter that the space group does not have, or a zero-freedom letter that an earlier slot has taken, gets no
  probability, in training and in decoding alike; the decoder writes slot after slot and knows what it has written;
- genes are canonical, so that one crystal has one answer;
- the formula loss is the relative error of the expected number of atoms of each element, which has a gradient;
- the KL term warms up, and free bits keep it from silencing dimensions;
- what the latent space looks like for given elements and properties is learned by a mixture density network
  (Bishop, Neural Computing Research Group report NCRG/94/004, 1994) on the finished latent vectors: sampling is
  conditional without the decoder leaning on the conditions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn
from torch.nn import functional

from models.generators.wycryst.conditional_prior import ConditionalPrior
from models.generators.wycryst.contract import N_ELEMENTS, Allowed, DecodedGenes, GeneBatch, Losses
from models.generators.wycryst.sites import SiteTable, element_features
from models.symmetry import MAX_LETTERS

N_GROUPS = 231
"""Space groups are classes by their number; class 0 is never used."""

IMPOSSIBLE = -1e9
"""Logit of what cannot be; finite, so that a row of them does not give NaN."""


class NetworkOptions(BaseModel):
    """Size and loss of our autoencoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent_size: int = Field(default=128, ge=2, le=1024, description="Length of a latent vector.")
    hidden: int = Field(default=256, ge=8, le=4096, description="Width of encoder and decoder.")
    site_size: int = Field(
        default=64, ge=4, le=512, description="Length of an element's or a letter's vector."
    )
    max_count: int = Field(
        default=20,
        ge=1,
        le=30,
        description="Most orbits of one element on one letter; genes beyond are left out.",
    )
    kl_weight: float = Field(default=0.003, ge=0.0, description="Weight of the KL term after its warm-up.")
    kl_warm_up: float = Field(default=0.3, gt=0.0, le=1.0, description="Share of the training that it takes.")
    free_bits: float = Field(
        default=0.02, ge=0.0, description="KL [nats] per latent dimension that costs nothing."
    )
    element_weight: float = Field(
        default=2.0,
        ge=0.0,
        description="Weight of the elements' cross-entropy; a wrong element is the worst error.",
    )
    formula_weight: float = Field(
        default=0.3, ge=0.0, description="Weight of the relative error of the expected number of atoms."
    )
    property_weight: float = Field(default=10.0, ge=0.0, description="Weight of the property branch.")
    latent_noise: float = Field(
        default=1.0, ge=0.0, description="Scale of the latent noise in training; 1 is the variational bound."
    )


@dataclass(frozen=True)
class _Answers:
    """What the decoder says about a batch whose slots it was told (teacher forcing)."""

    spacegroup: torch.Tensor
    """(n, 231) logits."""
    elements: torch.Tensor
    """(n, n_slots, 104) logits."""
    counts: torch.Tensor
    """(n, n_slots, 27, max_count + 1) logits."""


class CategoricalAutoencoder(nn.Module):
    """See the module docstring; `models.generators.wycryst.contract.GeneAutoencoder` says what it offers.

    Args:
        options: Size and loss.
        n_slots: Most different elements of a gene.
        n_properties: Columns of the targets.
        seed: Of the first weights; no global random state is read or changed.
    """

    def __init__(self, options: NetworkOptions, n_slots: int, n_properties: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._make_layers(options, n_slots, n_properties)

    def _make_layers(self, options: NetworkOptions, n_slots: int, n_properties: int) -> None:
        self.options, self.n_slots, self.latent_size = options, n_slots, options.latent_size
        size, hidden = options.site_size, options.hidden
        self.sites = SiteTable(size)
        self.register_buffer("element_features", element_features(), persistent=False)  # (104, n_features)
        self.element_features: torch.Tensor
        self.element_free = nn.Embedding(N_ELEMENTS, size)
        nn.init.zeros_(self.element_free.weight)  # an element that was never seen is known by its features
        self.element_known = nn.Linear(self.element_features.shape[1], size)
        self.group_vector = nn.Embedding(N_GROUPS, size)
        self.count_vector = nn.Embedding(options.max_count + 1, size, padding_idx=0)
        self.slot = nn.Sequential(nn.Linear(2 * size + 1, 2 * size), nn.GELU(), nn.Linear(2 * size, size))
        self.messages = nn.ModuleList(_SlotMessages(size) for _ in range(2))
        self.encoder = _mlp((n_slots + 3) * size, hidden, 2)
        self.mean = nn.Linear(hidden, self.latent_size)
        self.log_variance = nn.Linear(hidden, self.latent_size)
        self.trunk = _mlp(self.latent_size, hidden, 2)
        self.to_group = nn.Linear(hidden, N_GROUPS)
        self.slot_position = nn.Embedding(n_slots, size)
        self.to_state = nn.Linear(hidden + 3 * size, hidden)
        self.to_element = nn.Sequential(nn.GELU(), nn.Linear(hidden, N_ELEMENTS))
        self.count_state = nn.Linear(hidden + size, 2 * size)
        self.count_site = nn.Linear(size, 2 * size)
        self.to_count = nn.Sequential(nn.GELU(), nn.Linear(2 * size, options.max_count + 1))
        self.property_branch = nn.Sequential(
            nn.Linear(self.latent_size, hidden),
            nn.GELU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, n_properties),
        )
        self.prior = ConditionalPrior(self.latent_size, n_properties)

    def encode(self, batch: GeneBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log-variance (n_genes, latent_size)."""
        slots = self._slot_vectors(batch.spacegroup, batch.elements, batch.counts)  # (n, n_slots, size)
        group = self.group_vector(batch.spacegroup)  # (n, size)
        atoms = (batch.counts * self.sites.multiplicity[batch.spacegroup][:, None]).sum(dim=2)  # (n, n_slots)
        share = (atoms / atoms.sum(dim=1, keepdim=True).clamp_min(1))[:, :, None].to(slots)
        tokens = slots + group[:, None]
        for layer in self.messages:
            tokens = layer(tokens, share)
        average = (tokens * share).sum(dim=1)  # (n, size)
        spread = ((tokens - average[:, None]).square() * share).sum(dim=1).add(1e-6).sqrt()
        hidden = self.encoder(torch.cat([slots.flatten(1), group, average, spread], dim=1))
        return self.mean(hidden), self.log_variance(hidden).clamp(-8.0, 4.0)

    def losses(self, batch: GeneBatch, generator: torch.Generator, progress: float) -> Losses:
        """Return the loss of a batch; see `GeneAutoencoder.losses`."""
        options = self.options
        mean, log_variance = self.encode(batch)
        noise = torch.randn(mean.shape, generator=generator).to(mean) * options.latent_noise
        latent = mean + noise * torch.exp(0.5 * log_variance)
        answers = self._answers(latent, batch)
        reconstruction = self._cross_entropies(answers, batch)  # name -> (n,)
        each = 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance)  # (n, latent_size)
        kl = each.mean(dim=0).clamp_min(options.free_bits).sum()
        warm = min(1.0, progress / options.kl_warm_up)
        share = batch.weights / batch.weights.mean().clamp_min(1e-6)  # (n,)
        parts = {name: (value * share).mean() for name, value in reconstruction.items()}
        parts["formula"] = options.formula_weight * self._formula_error(answers, batch)
        parts["kl"] = options.kl_weight * warm * kl
        # Of the noisy vectors: the branch must hold in the surroundings of a gene, where sampling looks.
        parts["property"] = options.property_weight * self._property_error(latent, batch)
        parts["prior"] = self._prior_loss(latent, batch, generator)
        total = torch.stack(list(parts.values())).sum()
        return Losses(total, {name: float(value.detach()) for name, value in parts.items()})

    def properties(self, latent: torch.Tensor) -> torch.Tensor:
        """Return predicted, standardised properties (n_genes, n_properties) of latent means."""
        predicted: torch.Tensor = self.property_branch(latent)
        return predicted

    @torch.no_grad()
    def decode(
        self, latent: torch.Tensor, allowed: Allowed, generator: torch.Generator | None, temperature: float
    ) -> DecodedGenes:
        """Return genes for latent vectors; see `GeneAutoencoder.decode`.

        Elements are distinct and in order, within `allowed`; letters are legal; zero-freedom letters come once.
        """
        n, device = len(latent), latent.device
        trunk = self.trunk(latent)
        logits = self.to_group(trunk).masked_fill(~allowed.spacegroups.to(device), IMPOSSIBLE)
        logits[:, 0] = IMPOSSIBLE
        group = _draw(logits, generator, temperature)  # (n,)
        elements = torch.zeros(n, self.n_slots, dtype=torch.long, device=device)
        counts = torch.zeros(n, self.n_slots, MAX_LETTERS, dtype=torch.long, device=device)
        written = torch.zeros(n, self.options.site_size, device=device)
        for place in range(self.n_slots):
            state = self._state(trunk, group, place, written)
            open_elements = self._open_elements(elements, place, allowed)
            chosen = _draw(
                self.to_element(state).masked_fill(~open_elements, IMPOSSIBLE), generator, temperature
            )
            elements[:, place] = chosen
            logits = self._open_counts(state, group, chosen, counts)
            counts[:, place] = _at_least_one(_draw(logits, generator, temperature), logits, chosen)
            vectors = self._slot_vectors(group, elements[:, place, None], counts[:, place, None])
            written = written + vectors[:, 0]
        return DecodedGenes(group, elements, counts)

    def _open_counts(
        self, state: torch.Tensor, group: torch.Tensor, element: torch.Tensor, before: torch.Tensor
    ) -> torch.Tensor:
        """Return logits (n, 27, max_count + 1) of one slot's counts, given the slots written before it."""
        vector = self._element_vector(element)[:, None]
        taken = before.sum(dim=1, keepdim=True) > 0  # (n, 1, 27)
        logits = self._count_logits(state[:, None], vector, group)
        return logits.masked_fill(~self._possible(group, taken), IMPOSSIBLE)[:, 0]

    def _open_elements(self, elements: torch.Tensor, place: int, allowed: Allowed) -> torch.Tensor:
        """Return what slot `place` may hold (n, 104): in order, distinct, and enough left for the others."""
        rank = self.sites.rank  # (104,) by electronegativity
        may = allowed.elements.to(rank.device).clone()
        may[0] = False
        low, high = allowed.n_elements
        last = elements[:, place - 1] if place else None  # (n,)
        after = rank[None, :] > (rank[last][:, None] if last is not None else -1)
        open_elements = may[None, :] & after.expand(len(elements), -1)
        # An element after which too few remain to reach the least number of elements is closed.
        behind = (may[None, :] & (rank[None, :] > rank[:, None])).sum(dim=1)  # (104,)
        open_elements = open_elements & (behind[None, :] + place + 1 >= low)
        ended = (last == 0)[:, None] if last is not None else torch.zeros_like(open_elements[:, :1])
        open_elements = open_elements & ~ended & (place < high)
        empty = ended[:, 0] | (place >= low) | ~open_elements.any(dim=1)
        open_elements[:, 0] = empty
        return open_elements

    def _answers(self, latent: torch.Tensor, batch: GeneBatch) -> _Answers:
        """Return the decoder's logits, told the true space group and slots before each slot."""
        trunk = self.trunk(latent)
        slots = self._slot_vectors(batch.spacegroup, batch.elements, batch.counts)  # (n, n_slots, size)
        before = slots.cumsum(dim=1) - slots  # what was written before each slot
        states = torch.stack(
            [self._state(trunk, batch.spacegroup, k, before[:, k]) for k in range(self.n_slots)], dim=1
        )
        logits = self._count_logits(states, self._element_vector(batch.elements), batch.spacegroup)
        taken = (batch.counts.cumsum(dim=1) - batch.counts) > 0  # (n, n_slots, 27)
        logits = logits.masked_fill(~self._possible(batch.spacegroup, taken), IMPOSSIBLE)
        return _Answers(self.to_group(trunk), self.to_element(states), logits)

    def _state(
        self, trunk: torch.Tensor, group: torch.Tensor, place: int, written: torch.Tensor
    ) -> torch.Tensor:
        """Return what the decoder knows before slot `place` (n, hidden)."""
        position = self.slot_position.weight[place].expand(len(trunk), -1)
        known = torch.cat([trunk, self.group_vector(group), position, written], dim=1)
        state: torch.Tensor = trunk + self.to_state(known)
        return state

    def _count_logits(
        self, states: torch.Tensor, elements: torch.Tensor, group: torch.Tensor
    ) -> torch.Tensor:
        """Return logits (n, k, 27, max_count + 1) of the number of orbits on each letter, for k slots.

        Args:
            states: (n, k, hidden).
            elements: (n, k, size) vectors of the slots' elements.
            group: (n,). Letters that it does not have are left out of the sums, which saves two thirds of them.
        """
        of_slot = self.count_state(torch.cat([functional.gelu(states), elements], dim=2))  # (n, k, 2 size)
        gene, letter = self.sites.legal[group].nonzero(as_tuple=True)  # (m,)
        of_site = self.count_site(self.sites(group[gene], letter))  # (m, 2 size)
        said = self.to_count(of_slot[gene] + of_site[:, None])  # (m, k, max_count + 1)
        shape = (len(group), MAX_LETTERS, states.shape[1], self.options.max_count + 1)
        none = said.new_full(shape, IMPOSSIBLE)
        none[..., 0] = 0.0  # a letter that the group does not have is not occupied
        logits = none.index_put((gene, letter), said)
        return logits.transpose(1, 2)

    def _possible(self, group: torch.Tensor, taken: torch.Tensor) -> torch.Tensor:
        """Return which counts (n, k, 27, max_count + 1) a letter can have, given the letters taken (n, k, 27)."""
        legal, free = self.sites.legal[group][:, None], self.sites.free[group][:, None]  # (n, 1, 27) bool
        most = torch.where(free, self.options.max_count, (~taken).long()) * legal  # (n, k, 27)
        return torch.arange(self.options.max_count + 1, device=group.device) <= most[..., None]

    def _element_vector(self, elements: torch.Tensor) -> torch.Tensor:
        """Return (..., size) for atomic numbers (...)."""
        known = self.element_known(self.element_features)  # (104, size)
        vector: torch.Tensor = self.element_free(elements) + known[elements]
        return vector

    def _slot_vectors(
        self, group: torch.Tensor, elements: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        """Return (n, n_slots, size); an empty slot is a vector of zeros."""
        n, n_slots = elements.shape
        gene, slot, letter = counts.nonzero(as_tuple=True)  # (m,) occupied letters
        sites = self.sites(group[gene], letter) * self.count_vector(counts[gene, slot, letter])  # (m, size)
        occupied = sites.new_zeros(n * n_slots, sites.shape[1]).index_add(0, gene * n_slots + slot, sites)
        atoms = (counts * self.sites.multiplicity[group][:, None]).sum(dim=2, keepdim=True)
        known = [self._element_vector(elements), occupied.view(n, n_slots, -1), torch.log1p(atoms.float())]
        vectors: torch.Tensor = self.slot(torch.cat(known, dim=2)) * (elements > 0)[:, :, None]
        return vectors

    def _cross_entropies(self, answers: _Answers, batch: GeneBatch) -> dict[str, torch.Tensor]:
        """Return the reconstruction's cross-entropies (n,) [nats] of space group, elements and letters."""
        group = functional.cross_entropy(answers.spacegroup, batch.spacegroup, reduction="none")
        element = functional.cross_entropy(
            answers.elements.transpose(1, 2), batch.elements, reduction="none"
        )  # (n, n_slots)
        # One slot after the first empty one says that the gene has ended; those behind it say nothing.
        spoken = functional.pad(batch.elements[:, :-1] > 0, (1, 0), value=True)
        count = functional.cross_entropy(answers.counts.movedim(3, 1), batch.counts, reduction="none")
        return {
            "group": group,
            "element": self.options.element_weight * (element * spoken).sum(dim=1),
            "letters": (count.sum(dim=2) * (batch.elements > 0)).sum(dim=1),
        }

    def _formula_error(self, answers: _Answers, batch: GeneBatch) -> torch.Tensor:
        """Return the mean relative error of the expected number of atoms of each element."""
        probability = answers.counts.softmax(dim=3)  # (n, n_slots, 27, n_counts)
        numbers = torch.arange(self.options.max_count + 1, device=probability.device, dtype=probability.dtype)
        expected = (probability @ numbers) * self.sites.multiplicity[batch.spacegroup][:, None]
        truth = (batch.counts * self.sites.multiplicity[batch.spacegroup][:, None]).sum(dim=2)
        error = (expected.sum(dim=2) - truth).abs() / truth.clamp_min(1)  # (n, n_slots)
        return (error * (batch.elements > 0)).sum(dim=1).mean()

    def _property_error(self, latent: torch.Tensor, batch: GeneBatch) -> torch.Tensor:
        """Return Huber's loss over the known targets."""
        known = torch.isfinite(batch.targets)
        error = functional.smooth_l1_loss(
            self.property_branch(latent), torch.nan_to_num(batch.targets), beta=0.3, reduction="none"
        )
        # Never below 1: what is far above the hull has a small weight as a gene, and is news as an energy.
        weight = known * batch.weights[:, None].clamp(1.0, 4.0)
        return (error * weight).sum() / known.sum().clamp_min(1)

    def _prior_loss(self, latent: torch.Tensor, batch: GeneBatch, generator: torch.Generator) -> torch.Tensor:
        """Return the negative log-likelihood per dimension of finished latents under the conditional prior."""
        present = torch.zeros(len(batch), N_ELEMENTS, device=latent.device)
        present.scatter_(1, batch.elements, 1.0)
        hidden = torch.rand(len(batch), 2, generator=generator).to(latent.device) < 0.3
        present = present * ~hidden[:, :1]
        targets = torch.where(hidden[:, 1:], torch.nan, batch.targets)
        return -self.prior.log_probability(latent.detach(), present, targets).mean() / self.latent_size


class _SlotMessages(nn.Module):
    """Messages between the slots of a gene, weighted by the senders' share of the atoms.

    The form is that of `models.networks.wyckoff.TokenConvolution`, on slots instead of orbits: sums weighted by
    composition are what energies of formation depend on, and a network that is given them need not learn them.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.from_centre = nn.Linear(size, 2 * size)
        self.from_neighbour = nn.Linear(size, 2 * size, bias=False)
        self.norm = nn.LayerNorm(size)

    def forward(self, tokens: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        """Return new tokens (n, n_slots, size), given the share of the atoms of each slot (n, n_slots, 1)."""
        z = self.from_centre(tokens)[:, :, None] + self.from_neighbour(tokens)[:, None]
        gate, message = z.chunk(2, dim=-1)  # (n, centre, neighbour, size)
        received = (torch.sigmoid(gate) * functional.silu(message) * share[:, None]).sum(dim=2)
        new: torch.Tensor = functional.silu(tokens + self.norm(received))
        return new


def _mlp(n_in: int, hidden: int, layers: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts += [nn.Linear(n_in if layer == 0 else hidden, hidden), nn.LayerNorm(hidden), nn.GELU()]
    return nn.Sequential(*parts)


def _draw(logits: torch.Tensor, generator: torch.Generator | None, temperature: float) -> torch.Tensor:
    """Return a class for each row of logits (..., n_classes): the likeliest, or a draw (Gumbel's trick)."""
    if generator is None:
        return logits.argmax(dim=-1)
    uniform = torch.rand(logits.shape, generator=generator).to(logits).clamp_(1e-10, 1.0 - 1e-7)
    return (logits / max(temperature, 1e-6) - torch.log(-torch.log(uniform))).argmax(dim=-1)


def _at_least_one(drawn: torch.Tensor, logits: torch.Tensor, element: torch.Tensor) -> torch.Tensor:
    """Return counts (n, 27) of which a slot with an element holds at least one orbit, an empty slot none.

    Where nothing was drawn, the letter with the best odds gets one orbit, if there is a letter left.
    """
    odds = logits[:, :, 1:].max(dim=2).values - logits[:, :, 0]  # (n, 27)
    odds = odds.masked_fill(logits[:, :, 1] <= IMPOSSIBLE / 2, IMPOSSIBLE)
    best = odds.argmax(dim=1)  # (n,)
    empty = (drawn.sum(dim=1) == 0) & (odds.max(dim=1).values > IMPOSSIBLE / 2)
    drawn[empty, best[empty]] = 1
    return drawn * (element > 0).long()[:, None]
