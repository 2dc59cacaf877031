"""Failures are typed by their exception, not by luck."""

from __future__ import annotations

import json
import pickle
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest

from flows.causes import BadGeometryError, IonicNotConvergedError, OutputParseError, classify, failure_of
from flows.cures import Cure, iterations
from flows.errors import FlowsError, JobFolderError
from flows.schemas import FailureCause


def gpaw_errors() -> list[tuple[BaseException, FailureCause]]:
    gpaw = pytest.importorskip("gpaw")
    from gpaw.utilities import AtomsTooClose

    return [
        (gpaw.KohnShamConvergenceError(), FailureCause.SCF_NOT_CONVERGED),
        (gpaw.PoissonConvergenceError("no"), FailureCause.SCF_NOT_CONVERGED),
        (AtomsTooClose("Atoms are too close, e.g. 0.1 Å"), FailureCause.BAD_GEOMETRY),
    ]


def numpy_out_of_memory() -> BaseException:
    try:
        np.zeros((2**40, 2**10))
    except MemoryError as error:
        return error
    raise AssertionError("that much memory?")


def broken_json() -> BaseException:
    try:
        json.loads('{"energy": ')
    except ValueError as error:
        return error
    raise AssertionError


def test_every_kind_of_failure_has_its_cause() -> None:
    expected = [
        *gpaw_errors(),
        (numpy_out_of_memory(), FailureCause.OUT_OF_MEMORY),
        (RuntimeError("[Errno 12] Cannot allocate memory"), FailureCause.OUT_OF_MEMORY),
        (broken_json(), FailureCause.PARSE_ERROR),
        (OutputParseError("no energy"), FailureCause.PARSE_ERROR),
        (BadGeometryError("flat"), FailureCause.BAD_GEOMETRY),
        (IonicNotConvergedError("60 steps"), FailureCause.IONIC_NOT_CONVERGED),
        (BrokenProcessPool("a process died"), FailureCause.NODE_LOST),
        (ValueError("sparse overlap matrix described"), FailureCause.UNKNOWN),
        (KeyError("scf"), FailureCause.UNKNOWN),
    ]
    for error, cause in expected:
        assert classify(error) == cause, error


def test_the_exception_behind_an_exception_counts() -> None:
    try:
        try:
            raise MemoryError("no")
        except MemoryError as error:
            raise RuntimeError("relaxation failed") from error
    except RuntimeError as error:
        info = failure_of(error)
    assert info.cause == FailureCause.OUT_OF_MEMORY
    assert info.message == "RuntimeError: relaxation failed"
    assert "MemoryError: no" in info.detail


def test_an_error_without_words_still_says_its_name() -> None:
    assert failure_of(KeyboardInterrupt()).message == "KeyboardInterrupt"


def test_errors_keep_their_parts_across_processes() -> None:
    error = JobFolderError("no", value=3, allowed=["a", "b"], cure="do this")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, FlowsError)
    assert copy.one_line() == "no; got 3; allowed: a, b; cure: do this" == error.one_line()


def test_cures_allow_more_iterations_and_a_first_try_none() -> None:
    assert iterations(50, frozenset()) == 50
    assert iterations(50, frozenset({Cure.SLOW_MIXING})) == 100
    assert iterations(50, frozenset({Cure.SLOW_MIXING, Cure.OTHER_ALGORITHM})) == 200
    assert iterations(50, frozenset({Cure.MORE_STEPS})) == 50
