"""Flows that use everything jobflow offers, each small: what `run_flow` is held against jobflow's own runner with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from flow_jobs import add, add_list, fail, replaced_by_flow, replaced_by_job, stops_children
from jobflow import CURRENT_JOB, Flow, Job, JobConfig, JobOrder, Maker, OnMissing, Response, flow, job
from pydantic import BaseModel
from pymatgen.core import Lattice, Structure


class Total(BaseModel):
    total: float
    parts: list[float] = []


@job
def split(a: float) -> dict[str, Any]:
    return {"half": a / 2, "nested": {"list": [a, a + 1]}, "none": None}


@job(output_schema=Total)
def total(parts: list[float]) -> dict[str, Any]:
    return {"total": sum(parts), "parts": parts}


@job(output_schema=Total)
def no_total() -> dict[str, Any]:
    return {"wrong": 1}


@job
def same(value: Any) -> Any:
    return value


@job
def kind_of(value: Any) -> str:
    return type(value).__name__


@job
def replaced_often(a: float, times: int) -> Any:
    return Response(replace=replaced_often(a + 1, times - 1)) if times else a


@job
def replaced_by_replaced(a: float) -> Response:
    inner = replaced_by_flow(a)
    return Response(replace=Flow([inner], output=inner.output))


@job
def replaced_by_many(a: float, shape: str) -> Any:
    jobs = [add(a, number) for number in range(3)]
    if shape == "dictionary":
        return dict(zip("abc", jobs, strict=True))
    if shape == "flow without output":
        return Response(output="my own", replace=Flow(jobs))
    return tuple(jobs) if shape == "tuple" else jobs


@job
def fan_of(n: int) -> Response:
    jobs = [add(number, 1) for number in range(n)]
    return Response(replace=Flow([*jobs, last := add_list([one.output for one in jobs])], output=last.output))


@job
def replaced_by_failing(a: float) -> Response:
    bad = fail("no")
    return Response(replace=Flow([good := add(a, 1), bad], output=[good.output, bad.output]))


@job(output_schema=Total)
def total_replaced(a: float) -> Response:
    return Response(replace=total([a, a]))


@job
def detour_of(a: float, detour: str) -> Response:
    made = {"add": lambda: add(a, 1), "fail": lambda: fail("no"), "deep": lambda: detour_of(a, "add")}
    return Response(output=a, detour=made[detour]())


@job
def everything_at_once(a: float) -> Response:
    return Response(
        output=a, replace=[add(a, 1)], detour=Flow([one := add(a, 2), add(one.output, 3)]), addition=add(a, 4)
    )


@job
def addition_of(a: float, n: int) -> Response:
    return Response(output=a, addition=addition_of(a + 1, n - 1) if n else None)


@job
def stops_flow(a: float) -> Response:
    return Response(output=a, stop_jobflow=True)


@job
def stores_data(a: float) -> Response:
    return Response(output=a, stored_data={"a": a})


@job(config=JobConfig(on_missing_references=OnMissing.NONE))
def or_nothing(value: Any, other: Any = None) -> list[Any]:
    return [value, other]


@job(config=JobConfig(on_missing_references=OnMissing.PASS))
def or_reference(value: Any) -> str:
    return type(value).__name__


@job(config=JobConfig(resolve_references=False))
def reference_of(value: Any) -> Any:
    return [type(value).__name__, value]


@job(config=JobConfig(resolve_references="both"))
def both_of(value: Any) -> Any:
    return [type(value).__name__, value.uuid, value.value]


@job(config=JobConfig(expose_store=True))
def asks_store(uuid: str, after: Any) -> Any:
    return CURRENT_JOB.store.get_output(uuid)


@job
def about_me() -> dict[str, Any]:
    me = CURRENT_JOB.job
    return {"uuid": me.uuid, "index": me.index, "name": me.name, "metadata": me.metadata, "hosts": me.hosts}


@job
def config_of_me(who: str) -> Any:
    return [who, CURRENT_JOB.job.config]


@job
def replaced_by_config() -> Response:
    one = config_of_me("replacement")
    return Response(replace=Flow([one], output=one.output), addition=config_of_me("addition"))


@job(data=["large"], graphs="graph")
def two_stores(n: int) -> dict[str, Any]:
    return {"n": n, "large": list(range(n)), "deep": {"graph": {"x": [n]}}, "graph": [n]}


@job(data=True)
def all_large(n: int) -> list[int]:
    return list(range(n))


@job(data=Structure)
def large_structure(edge: float) -> dict[str, Any]:
    return {"edge": edge, "structure": Structure(Lattice.cubic(edge), ["Po"], [[0, 0, 0]])}


@job(data="large")
def large_replaced(n: int) -> Response:
    return Response(replace=Flow([one := two_stores(n)], output={"large": one.output["large"]}))


@job
def many_kinds() -> dict[str, Any]:
    return {
        "date": datetime(2026, 1, 2, 3, 4, 5),
        "array": np.arange(3.0),
        "complex": [float("inf"), 1e-300, True, None, "Å"],
        "tuple": (1, 2),
        "keys": {1: "one"},
        "total": Total(total=3.0),
    }


@dataclass
class AddMaker(Maker):
    name: str = "maker"
    number: float = 10

    @job
    def make(self, a: float) -> float:
        return a + self.number


@dataclass
class ReplacingMaker(Maker):
    name: str = "replacing"
    inner: Maker | None = None

    @job
    def make(self, a: float) -> Response:
        return Response(replace=self.inner.make(a))


@flow
def decorated(a: float) -> Any:
    first = add(a, 1)
    return add(first.output, first.output).output


def sequence() -> Flow:
    return Flow([one := add(1, 2), add(one.output, 3)])


def branching() -> Flow:
    first, other = add(1, 2), split(8)
    ends = [add(first.output, other.output["half"]), add(other.output["nested"]["list"][1], 1)]
    return Flow([first, other, *ends, total([one.output for one in ends])])


def nested() -> Flow:
    inner = Flow([one := add(1, 2), two := add(one.output, 3)], output=two.output, name="inner")
    middle = Flow([inner, three := add(inner.output, 4)], output={"three": three.output}, name="middle")
    return Flow([middle, add(middle.output["three"], 5)], name="outer")


def linear() -> Flow:
    inner = Flow([fail("no"), add(1, 1)])
    return Flow([add(1, 2), inner, add(3, 4), or_nothing(5)], order=JobOrder.LINEAR)


def grown() -> Flow:
    made = Flow([one := add(1, 2)])
    made.add_jobs([two := add(one.output, 3)])
    return made + [add(two.output, 4)]  # noqa: RUF005 - a flow's own addition


def then(made: Any) -> Flow:
    """A job, and one that needs its output."""
    return Flow([made, same(made.output)])


def failing() -> Flow:
    bad = fail("no")
    child = add(bad.output, 1)
    return Flow([bad, add(1, 2), child, or_nothing(bad.output, child.output), or_reference(bad.output)])


def stopping() -> Flow:
    first = stops_children(1)
    child = or_nothing(first.output)
    return Flow([first, child, or_nothing(child.output), add(1, 2)])


def stopping_all() -> Flow:
    first = stops_flow(1)
    return Flow([first, second := add(first.output, 1), add(second.output, 1)], order=JobOrder.LINEAR)


def missing_parts() -> Flow:
    one = split(3)
    return Flow([one, same(one.output["nothing"]), same(one.output["none"]), kind_of(one.output["nested"])])


def named() -> Flow:
    made = Flow([Flow([replaced_by_flow(1), addition_of(1, 1), detour_of(1, "add")], name="inner")])
    made.append_name(" late", dynamic=True)
    made.append_name("early ", prepend=True, dynamic=False)
    return made


def with_metadata() -> Flow:
    made = Flow([about_me(), replaced_by_flow(1), replaced_by_job(1), detour_of(1, "deep"), about_me()])
    made.update_metadata({"who": "all"})
    made.update_metadata({"who": "adders", "by": [1]}, name_filter="add")
    made.update_metadata({"_set": {"deep->x": 1}}, function_filter=add, dict_mod=True)
    made.update_metadata({"static": True}, dynamic=False)
    return made


def with_config() -> Flow:
    made = Flow([replaced_by_config(), config_of_me("other")])
    made.update_config({"manager_config": {"where": "there"}}, name_filter="config_of", dynamic=True)
    made.update_config({"manager_config": {"where": "here"}}, name_filter="replaced", dynamic=False)
    return made


def manager_config(**config: Any) -> Flow:
    made = replaced_by_config()
    made.config = JobConfig(manager_config={"queue": "slow"}, **config)
    return Flow([made])


def with_makers() -> Flow:
    made = Flow([one := AddMaker().make(1), ReplacingMaker(inner=AddMaker()).make(one.output)])
    made.update_maker_kwargs({"number": 100}, class_filter=AddMaker)
    made.update_kwargs({"a": 5}, name_filter="none")
    return made


def with_kwargs() -> Flow:
    made = Flow([one := add(a=1, b=2), replaced_by_flow(a=one.output)])
    made.update_kwargs({"b": 20}, function_filter=add)
    made.update_kwargs({"b": 30}, name_filter="add")
    return made


def stores() -> Flow:
    first, second, third = two_stores(20), all_large(5), large_structure(3.4)
    return Flow(
        [
            first,
            second,
            third,
            add_list(first.output["large"]),
            same(first.output["deep"]["graph"]["x"][0]),
            add_list(second.output),
            kind_of(third.output["structure"]),
            replaced := large_replaced(4),
            add_list(replaced.output["large"]),
        ]
    )


def builtins() -> Flow:
    return Flow([one := Job(sum, function_args=([1, 2, 3],)), Job(max, function_args=(one.output, 5))])


EXAMPLES: dict[str, Callable[[], Flow]] = {
    "sequence": sequence,
    "branching": branching,
    "nested flows": nested,
    "linear order": linear,
    "a flow that grew": grown,
    "a decorated flow": lambda: decorated(1),
    "builtin functions": builtins,
    "replaced by a job": lambda: then(replaced_by_job(1)),
    "replaced by a flow": lambda: then(replaced_by_flow(1)),
    "replaced again and again": lambda: then(replaced_often(1, 3)),
    "replaced by what replaces itself": lambda: then(replaced_by_replaced(1)),
    "replaced by a list": lambda: then(replaced_by_many(1, "list")),
    "replaced by a tuple": lambda: then(replaced_by_many(1, "tuple")),
    "replaced by a dictionary": lambda: then(replaced_by_many(1, "dictionary")),
    "replaced by a flow without output": lambda: then(replaced_by_many(1, "flow without output")),
    "replaced by a fan": lambda: then(fan_of(6)),
    "replaced by what fails": lambda: then(replaced_by_failing(1)),
    "replaced with a schema": lambda: then(total_replaced(2)),
    "detour": lambda: then(detour_of(1, "add")),
    "detour of a detour": lambda: then(detour_of(1, "deep")),
    "detour that fails": lambda: then(detour_of(1, "fail")),
    "addition": lambda: then(addition_of(1, 3)),
    "replace, detour and addition at once": lambda: then(everything_at_once(1)),
    "stop children": stopping,
    "stop the flow": stopping_all,
    "stored data": lambda: then(stores_data(1)),
    "a failure and an independent branch": failing,
    "references to parts": missing_parts,
    "unresolved references": lambda: then(reference_of([1, 2])),
    "a reference that is not resolved": lambda: Flow([one := add(1, 2), reference_of(one.output)]),
    "a reference and its value": lambda: Flow([one := add(1, 2), both_of(one.output)]),
    "output schema": lambda: then(total([1.0, 2.0])),
    "output schema that is not met": lambda: then(no_total()),
    "names": named,
    "metadata": with_metadata,
    "configuration": with_config,
    "manager's configuration": manager_config,
    "manager's configuration not passed on": lambda: manager_config(pass_manager_config=False),
    "manager's configuration for new jobs": lambda: manager_config(response_manager_config={"queue": "fast"}),
    "makers": with_makers,
    "keyword arguments": with_kwargs,
    "large data in other stores": stores,
    "the current job": lambda: then(about_me()),
    "the store": lambda: Flow([one := add(1, 2), asks_store(one.uuid, after=one.output)]),
    "many kinds of values": lambda: then(many_kinds()),
}
"""Builders by name."""
