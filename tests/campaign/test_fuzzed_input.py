"""Files and filters that nobody sane writes: one line each, a documented exit code, no code run, and in time.

    CAMPAIGN_EXAMPLES=5000 pytest tests/campaign/test_fuzzed_input.py

draws other examples than those that are always tried, and more of them.
"""

from __future__ import annotations

import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Ran, campaign
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mistakes import small_files
from strategies import HOSTILE, damaged, filters, mutated

from campaign.config import config_document, parse_config
from campaign.run_folder import RunFolder

MORE = os.environ.get("CAMPAIGN_EXAMPLES")
fuzzed = settings(
    max_examples=int(MORE or 80),
    derandomize=MORE is None,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
LONGEST_S = 20.0
"""Of the processor: other work on this machine does not count."""


def decent(*argv: object) -> Ran:
    """Run a command that must end as documented: 0; 2 with one line; in time."""
    begin = time.process_time()
    ran = campaign(*argv)
    assert time.process_time() - begin < LONGEST_S
    assert ran.code in (0, 2), (ran.code, ran.err[-3000:])
    if ran.code == 2:
        assert len(ran.error) < 3000
        assert ran.error.isprintable()
    ran.out.encode()
    return ran


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small campaign's reference."""
    folder = tmp_path_factory.mktemp("fuzzed")
    (folder / "reference.json").write_text(small_files()[1])
    return folder


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Whatever could start a program leaves a mark instead."""
    ran: list[object] = []
    for name in ("system", "popen", "execv", "posix_spawn"):
        monkeypatch.setattr(os, name, lambda *args, **_: ran.append(args))
    yield
    assert ran == []


# campaign.yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
TEXTS = [
    BOMB,
    "name: &a [*a]\n",
    "[" * 5000,
    "{a: " * 3000,
    "- " * 5000,
    "? " * 3000,
    "!!python/object/apply:os.system ['touch pwned']\n",
    "name: !!python/name:os.system\n",
    "name: !!python/object/new:os.system [echo]\n",
    "name: a\nname: b\n",
    "chemistry: {elements: [Ca], elements: [Mg]}\n",
    "seed: " + "9" * 5000,
    "name: 2001-99-99\n",
    "name: !!timestamp foo\n",
    "name: !!bool foo\n",
    "name: !!int foo\n",
    "name: !!float foo\n",
    "name: !!binary zzz\n",
    "? [a, b]\n: 1\n",
    '"\\ud800": 1\n',
    '"\\e[2Jname": x\n',
    "\x00\x01",
    "",
    "---\na: 1\n---\nb: 2\n",
    "x" * 2_000_000,
    "%YAML 9.9\n---\na: 1\n",
]


@pytest.mark.parametrize("number", range(len(TEXTS)))
@pytest.mark.parametrize("where", ["campaign", "site"])
def test_yaml_that_is_an_attack_or_an_accident(number: int, where: str, place: Path) -> None:
    file = place / "campaign.yaml"
    if where == "site":
        file.write_text(yaml.safe_dump({**small_files()[0], "site": "site.yaml"}))
    (place / f"{where}.yaml").write_bytes(TEXTS[number].encode("utf-8", "surrogatepass"))
    begin = time.process_time()
    assert decent("validate", file).code == 2
    assert time.process_time() - begin < 5
    assert not (place / "pwned").exists()


def test_a_key_that_stands_twice_is_told_with_its_line(place: Path) -> None:
    file = place / "campaign.yaml"
    file.write_text("name: a\nstop:\n  rounds: 1\n  rounds: 2\n")
    assert "the key 'rounds' stands twice in line 4" in campaign("validate", file).error


def test_aliases_and_merges_within_reason_are_fine(place: Path) -> None:
    text = yaml.safe_dump(small_files()[0])
    (place / "campaign.yaml").write_text(text)
    assert decent("validate", place / "campaign.yaml").code == 0
    text = text.replace("elements:\n  - Ca\n  - Mg\n  - Si\n", "elements: &all [Ca, Mg, Si]\n")
    document = small_files()[0] | {"name": "merged"}
    text = "defaults: &d {rounds: 1}\n"
    (place / "site.yaml").write_text(
        "pools:\n  cpu: &one {workers: 1}\n  dft: {<<: *one, cores_per_worker: 1}\n  gpu: *one\n"
    )
    (place / "campaign.yaml").write_text(yaml.safe_dump({**document, "site": "site.yaml"}))
    assert decent("validate", place / "campaign.yaml").code == 0


@fuzzed
@given(data=st.data())
def test_mutated_configurations(place: Path, data: st.DataObject) -> None:
    document = data.draw(mutated(small_files()[0]))
    file = place / "campaign.yaml"
    file.write_text(yaml.dump(document), encoding="utf-8", errors="surrogatepass")
    decent("validate", file)


@fuzzed
@given(data=st.data())
def test_damaged_configurations(place: Path, data: st.DataObject) -> None:
    file = place / "campaign.yaml"
    file.write_bytes(data.draw(damaged(yaml.safe_dump(small_files()[0]).encode())))
    decent("validate", file)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the place of every value that is no block itself."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))
    else:
        yield place


@pytest.mark.slow
@pytest.mark.parametrize("value", HOSTILE, ids=lambda value: repr(value)[:20])
def test_every_key_of_a_configuration_with_a_hostile_value(place: Path, value: object) -> None:
    whole = config_document(parse_config(small_files()[0], "small"))
    file = place / "campaign.yaml"
    for *way, last in leaves(whole):
        document = copy.deepcopy(whole)
        parent = document
        for key in way:
            parent = parent[key]
        parent[last] = value
        file.write_text(yaml.dump(document), encoding="utf-8", errors="surrogatepass")
        try:
            decent("validate", file)
        except BaseException as error:
            error.add_note(f"{'.'.join([*way, last])}: {value!r}")
            raise


SITE = {
    "name": "workstation",
    "provider": "local",
    "pools": {
        "gpu": {"workers": "auto", "accelerators": "auto"},
        "cpu": {"workers": 4, "cores_per_worker": 1},
        "dft": {"workers": 2, "cores_per_worker": 4, "memory_gb_per_worker": 16},
    },
    "worker_init": ["true"],
    "environment": {"GPAW_SETUP_PATH": "/opt/setups"},
}


@fuzzed
@given(data=st.data())
def test_mutated_sites(place: Path, data: st.DataObject) -> None:
    site = data.draw(mutated(SITE))
    (place / "site.yaml").write_text(yaml.dump(site), encoding="utf-8", errors="surrogatepass")
    file = place / "campaign.yaml"
    file.write_text(yaml.safe_dump({**small_files()[0], "site": "site.yaml"}))
    decent("validate", file)


# Filters


@fuzzed
@given(filter=filters(), fields=st.sampled_from(("", "a", "a,a.b", "jobs.0", "_id", "$a", "a\0", "é")))
@example(filter={"a": {"$in": [{"$where": "1"}]}}, fields="")
def test_filters_of_a_query(run: RunFolder, filter: object, fields: str) -> None:
    decent("query", run.path, "labels", json.dumps(filter), "--fields", fields, "--json")


@fuzzed
@given(text=st.data())
def test_damaged_filters(run: RunFolder, text: st.DataObject) -> None:
    whole = b'{"state": {"$in": ["done", "failed"]}, "$or": [{"rank": {"$lt": 3}}, {"formula": {"$regex": "^Ca"}}]}'
    decent("query", run.path, "labels", text.draw(damaged(whole)).decode("utf-8", "replace"), "--count")


@pytest.mark.parametrize(
    "filter",
    [
        '{"$where": "sleep(10000)"}',
        '{"a": {"$not": {"$where": "1"}}}',
        '{"$or": [{"$expr": {"$function": {"body": "function(){}", "args": [], "lang": "js"}}}]}',
        '{"$jsonSchema": {}}',
        '{"a": ' * 900 + "1" + "}" * 900,
        '{"$and": [' * 300 + "{}" + "]}" * 300,
        "[" * 100_000,
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1e999}',
        '{"a": {"$lt": 99999999999999999999}}',
        '{"a": "\\ud800"}',
        '{"\\ud800": 1}',
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"a": {"$regex": "(", "$options": "z"}}',
        "null",
        "'",
    ],
)
def test_filters_that_are_refused(run: RunFolder, filter: str) -> None:
    assert decent("query", run.path, "labels", filter).code == 2


@pytest.mark.parametrize(
    "options",
    [
        ["--limit", "99999999999999999999"],
        ["--limit", "9223372036854775808", "--sort", "-rank"],
        ["--sort", ",".join(f"a{n}" for n in range(3000))],
        ["--fields", ",".join(f"a{n}" for n in range(3000))],
        ["--fields", ".".join("a" * 5000)],
        ["--count-by", ".".join("a" * 5000)],
        ["--sort", "a" * 100_000],
        ["--count-by", "\udcff"],
        ["--fields", "\udcff"],
    ],
)
def test_odd_options_of_a_query(run: RunFolder, options: list[str]) -> None:
    decent("query", run.path, "labels", "{}", *options)


@pytest.mark.parametrize(
    "filter", ['{"text": {"$regex": "^(a+)+$"}}', '{"text": {"$not": {"$regex": "(x+x+)+y|(a|a)*$b"}}}']
)
def test_a_regular_expression_that_goes_wild_is_ended(
    filter: str, copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = copied()
    with run.store(read_only=False) as store:
        store.put("events", {"_id": "long", "text": "a" * 60 + "b"})
    monkeypatch.setattr("campaign.views.querying.LONGEST_S", 1.0)
    begin = time.process_time()
    for options in ([], ["--count"], ["--count-by", "kind"], ["--sort", "text"]):
        assert "took longer than 1 s" in campaign("query", run.path, "events", filter, *options).error
    assert time.process_time() - begin < 10
