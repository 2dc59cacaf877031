"""Components that run into real trouble: they eat memory, kill their process, leave torn output or take for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from abc import abstractmethod
from typing import Any

import numpy as np
from ase.calculators.lj import LennardJones
from components import BinaryGenerator
from pymatgen.core import Structure

from flows.causes import CodeCrashedError
from flows.job_context import job_folder
from models.data import Conditions


class _Troubled(LennardJones):
    """Lennard-Jones that is in trouble while it computes compounds; elements are well."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(sigma=2.5, epsilon=0.3, rc=6.0, smooth=True, **kwargs)

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        if len(set(self.atoms.get_chemical_symbols())) > 1:
            self.trouble()

    @abstractmethod
    def trouble(self) -> None:
        """Run into it."""

    def times(self, what: str) -> int:
        """Return how often this was asked in the job's folder, over all its tries and processes."""
        with (job_folder() / what).open("a+", encoding="ascii") as marks:
            marks.write(".")
            return marks.tell()


class Hungry(_Troubled):
    """Needs 1.2 GB for a compound."""

    def trouble(self) -> None:
        np.full(150_000_000, 1.0)


class Deadly(_Troubled):
    """Takes its worker down, the first three times."""

    def trouble(self) -> None:
        if self.times("deaths") <= 3:
            os.kill(os.getpid(), signal.SIGKILL)


class Crashing(_Troubled):
    """Runs a code as a process of its own, which somebody kills the first time."""

    def trouble(self) -> None:
        seconds = 60 if self.times("crashes") == 1 else 0
        code = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
        if seconds:
            code.kill()
        if code.wait() != 0:
            raise CodeCrashedError(f"the code ended with {code.returncode}")


class Torn(_Troubled):
    """Leaves half of an output behind."""

    def trouble(self) -> None:
        output = job_folder() / "output.json"
        output.write_text(json.dumps({"energy": -1.0})[:10])
        json.loads(output.read_text())


class Slow(_Troubled):
    """Takes more than half a second for each geometry of a compound."""

    seconds = 0.6

    def trouble(self) -> None:
        self.times("geometries")
        time.sleep(self.seconds)


class Slower(Slow):
    """Takes several seconds for each geometry of a compound."""

    seconds = 4.0


class Unequipped(_Troubled):
    """Asks GPAW to compute a compound where GPAW finds none of its datasets."""

    def trouble(self) -> None:
        import gpaw

        gpaw.setup_paths.clear()
        copy = self.atoms.copy()
        copy.calc = gpaw.GPAW(mode={"name": "pw", "ecut": 200}, txt=str(job_folder() / "gpaw.txt"))
        copy.get_potential_energy()


class Collapsing(BinaryGenerator):
    """Proposes crystals whose atoms lie nearly on top of one another."""

    def sample(self, n: int, conditions: Conditions, seed: int) -> list[Structure]:
        return [
            Structure(one.lattice, one.species, [[0, 0, 0], [0.05, 0.05, 0.05]])
            for one in super().sample(n, conditions, seed)
        ]


class Unruly(_Troubled):
    """Fails as nobody has foreseen."""

    def trouble(self) -> None:
        raise RuntimeError("the moon is full")
