"""The door of this package: build a label's flow, run its jobs one at a time, or run a whole flow.

`build_label`, `settings_of` and `settings_hash` are for whoever plans; `run_job_once` is what a worker executes;
`run_flow` is a stand-alone runner on the same functions.
"""

from __future__ import annotations

from flows.building import build_label, settings_hash, settings_of
from flows.flow_run import FlowOutcome, run_flow
from flows.job_run import run_job_once

__all__ = ["FlowOutcome", "build_label", "run_flow", "run_job_once", "settings_hash", "settings_of"]
