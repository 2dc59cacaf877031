"""From an emmet TaskDoc of VASP to a calculation."""

from __future__ import annotations

from typing import Any

import numpy as np
from emmet.core.tasks import TaskDoc
from emmet.core.types.enums import TaskState

from flows.causes import OutputParseError
from flows.engines.ase_maker import plain_structure
from flows.engines.mp_correction import mp_correction
from flows.schemas import Calculation


def read_task(output: TaskDoc | dict[str, Any], *, materials_project: bool = False) -> Calculation:
    """Read a calculation from a TaskDoc.

    VASP's stress is in kbar, positive when compressed. The energy is the one extrapolated to zero smearing width.

    Args:
        output: What a VASP job gave.
        materials_project: Whether its settings are the Materials Project's, whose corrections are then told.

    Raises:
        OutputParseError: Energy or structure are missing or no numbers.
    """
    try:
        task = TaskDoc.model_validate(output) if isinstance(output, dict) else output
        final, energy = task.output, float(task.output.energy)
        forces = None if final.forces is None else np.asarray(final.forces, dtype=float)
        stress = None if final.stress is None else np.asarray(final.stress, dtype=float) / -10.0
        structure = plain_structure(task.structure)
    except (AttributeError, TypeError, ValueError) as error:
        raise OutputParseError(f"a VASP calculation's output cannot be read: {error}") from error
    if not np.isfinite(energy) or (forces is not None and not np.isfinite(forces).all()):
        raise OutputParseError(f"energy {energy} eV or forces are no numbers")
    overall = (task.run_stats or {}).get("overall")
    return Calculation(
        structure=structure.as_dict(),
        energy=energy,
        max_force=None if forces is None else float(np.linalg.norm(forces, axis=1).max()),
        stress_gpa=None if stress is None else stress.tolist(),
        converged=task.state == TaskState.SUCCESS,
        n_ionic_steps=sum(max(0, len(one.output.ionic_steps or []) - 1) for one in task.calcs_reversed or []),
        wall_seconds=0.0 if overall is None else float(overall.elapsed_time),
        code_version=f"vasp {task.vasp_version}" if task.vasp_version else "",
        corrections=corrections(task),
        mp_correction=mp_correction(task) if materials_project else None,
    )


def corrections(task: TaskDoc) -> tuple[str, ...]:
    """Return what custodian changed, one line per error that it met."""
    found = []
    for run in task.custodian or []:
        for one in run.corrections or []:
            changes = [
                f"{action.get('dict', action.get('file', ''))} {how}={what}"
                for action in one.get("actions") or []
                for how, what in action.get("action", {}).items()
            ]
            found.append(f"{', '.join(map(str, one.get('errors', [])))}: {'; '.join(changes)}")
    return tuple(found)
