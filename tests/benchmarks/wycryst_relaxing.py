"""CHGNet relaxations spread over processes of one thread each, for the WyCryst benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pymatgen.core import Structure

    from models.surrogates.base import Relaxed

ATOMS_AT_ONCE = 160
"""Atoms of the crystals that one task relaxes together: enough to fill a batch, and many tasks to share out."""

FMAX_EV_PER_ANG = 0.03
"""Converged below this force."""


@contextmanager
def processes(workers: int) -> Iterator[Executor]:
    """Yield a pool whose processes use one thread each."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield pool


def relax_all(
    structures: Sequence[Structure],
    pool: Executor,
    *,
    fix_symmetry: bool,
    max_steps: int,
    symprec: float = 0.1,
) -> list[Relaxed]:
    """Return the outcome of each crystal, in order."""
    order = sorted(range(len(structures)), key=lambda place: len(structures[place]), reverse=True)
    tasks: list[list[int]] = []
    atoms = ATOMS_AT_ONCE
    for place in order:
        if atoms + len(structures[place]) > ATOMS_AT_ONCE:
            tasks.append([])
            atoms = 0
        tasks[-1].append(place)
        atoms += len(structures[place])
    options = {"fix_symmetry": fix_symmetry, "max_steps": max_steps, "symprec": symprec}
    jobs = [pool.submit(_relax, [structures[place] for place in task], options) for task in tasks]
    found: dict[int, Relaxed] = {}
    for task, job in zip(tasks, jobs, strict=True):
        found |= dict(zip(task, job.result(), strict=True))
    return [found[place] for place in range(len(structures))]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@lru_cache(maxsize=1)
def _surrogate() -> Any:
    from models.surrogates.chgnet import CHGNetSurrogate

    return CHGNetSurrogate()


def _relax(structures: list[Structure], options: dict[str, Any]) -> list[Relaxed]:
    found: list[Relaxed] = _surrogate().relax(structures, fmax_ev_per_ang=FMAX_EV_PER_ANG, **options)
    return found
