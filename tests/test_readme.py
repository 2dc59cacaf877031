"""README.md: generated parts are up to date, examples are valid, and every command in it runs as written."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from command_line import Ran, campaign

from campaign.cli import app
from campaign.config import parse_config
from campaign.query import EXAMPLES
from campaign.site import load_site
from campaign.templates import template_text

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
GROUP: Any = typer.main.get_command(app)
SMALL = {"name": "small", "chemistry": {"elements": ["Ca", "Mg", "Si"]}}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)


def lines(language: str) -> list[list[str]]:
    """Return the command lines of the blocks of a language, split as a shell does."""
    found = []
    for block in blocks(language):
        for line in block.splitlines():
            command = line.removeprefix("$ ") if language == "console" else line
            if language == "bash" or line.startswith("$ "):
                found.append(shlex.split(command, comments=True))
    return [words for words in found if words]


COMMANDS = [words[1:] for words in lines("console")]


def test_the_generated_parts_are_up_to_date():
    ran = subprocess.run(
        [sys.executable, "deploy/write_readme.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr


def test_writing_it_again_changes_nothing(tmp_path: Path):
    """What the check compares with is stable: generated parts are found again between their marks."""
    sys.path.insert(0, str(ROOT / "deploy"))
    try:
        from write_readme import PARTS, written
    finally:
        sys.path.pop(0)
    assert written(TEXT) == TEXT
    for name in PARTS:
        emptied = re.sub(rf"<!-- {name} -->.*?<!-- /{name} -->", f"<!-- {name} -->", TEXT, flags=re.DOTALL)
        assert emptied != TEXT
        assert written(emptied) == TEXT


def test_the_yaml_blocks_are_valid(tmp_path: Path):
    checked = 0
    for block in blocks("yaml"):
        document = yaml.safe_load(block)
        if "pools" in document:
            (tmp_path / "site.yaml").write_text(block)
            assert load_site("site.yaml", tmp_path).name == document["name"]
        else:
            assert parse_config({**SMALL, **document}, "README").name
        checked += 1
    assert checked >= 3


@pytest.mark.parametrize("block", blocks("python"))
def test_the_python_blocks_print_what_they_say(block: str, tmp_path: Path):
    (tmp_path / "example.py").write_text(block)
    ran = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = [line.partition("#")[2].strip() for line in block.splitlines() if "print(" in line]
    assert (ran.stdout.splitlines(), ran.returncode) == (said, 0), ran.stderr


def test_yaml_in_the_running_text_is_valid():
    """Such as `site: local`: a key of campaign.yaml with a value."""
    top = "|".join(("site", "store", "screen", "generators", "reference", "labels", "stop"))
    for text in re.findall(rf"`((?:{top}): [^`\n]+)`", TEXT):
        parse_config({**SMALL, **yaml.safe_load(text)}, text)


def test_every_command_of_the_program_is_in_it():
    for name, command in GROUP.commands.items():
        assert f"`campaign {name}" in TEXT
        row = next(line for line in TEXT.splitlines() if line.startswith(f"| `campaign {name}"))
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "help":
                assert any(option in row for option in parameter.opts), (name, parameter.opts)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_line_parses(words: list[str]):
    name, *rest = words
    assert name in GROUP.commands
    GROUP.commands[name].make_context(
        name, [word for word in rest if word not in {">", "campaign.schema.json"}]
    )


def test_the_commands_in_the_running_text_parse():
    inline = [shlex.split(text) for text in re.findall(r"`campaign ([^`\n|]+)`", TEXT) if "[" not in text]
    assert len(inline) >= 5
    for name, *rest in inline:
        command = GROUP.commands[name]
        if rest == [] or any(word.isupper() for word in rest):  # only named, or as in the table
            continue
        command.make_context(name, rest[: rest.index(">")] if ">" in rest else rest)


def test_files_that_it_names_are_there():
    named = set(re.findall(r"`((?:deploy|examples|tests|campaign|models|flows)/[\w./-]*)`", TEXT))
    named |= {word for words in lines("bash") for word in words if word.startswith(("deploy/", "tests/"))}
    named |= set(re.findall(r"^(campaign|models|flows|deploy|tests)/ ", TEXT, re.MULTILINE))
    assert {
        "deploy/quickstart.sh",
        "deploy/test.sh",
        "examples/quickstart.yaml",
        "models/testing.py",
    } <= named
    for name in named | {"constraints.txt", "LICENSE"}:
        assert (ROOT / name).exists(), name


def test_the_shell_lines_are_those_of_the_scripts():
    scripts = [words for words in lines("bash") if words[0] == "bash"]
    assert scripts == [["bash", "deploy/quickstart.sh"], ["bash", "deploy/test.sh"]]
    for _, script in scripts:
        assert subprocess.run(["bash", "-n", ROOT / script], check=False).returncode == 0
    install = (ROOT / "deploy" / "install.sh").read_text()
    torch = next(word for words in lines("bash") for word in words if word.startswith("torch=="))
    assert torch in install
    assert torch in (ROOT / "constraints.txt").read_text().split()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for group in re.findall(r"\.\[([\w,]+)\]", "\n".join(blocks("bash"))):
        assert set(group.split(",")) <= set(extras)
    assert "`mp`" in TEXT
    assert "mp" in extras


def test_the_invariants_and_words_of_the_design_are_in_it():
    for heading in ("A first campaign", "Query", "campaign.yaml", "Commands", "How it is built", "Glossary"):
        assert f"## {heading}\n" in TEXT
    first = TEXT.split("\n\n")[1]
    assert len(first.splitlines()) == 5, "what it is, in five lines"


# The walk-through, executed in its order


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished campaign called quickstart: the small one stands in for an hour of DFT."""
    sys.path.insert(0, str(ROOT / "tests" / "campaign"))
    from test_driver import small_campaign

    folder = tmp_path_factory.mktemp("desk")
    file = small_campaign(folder)
    document = {**yaml.safe_load(file.read_text()), "name": "quickstart"}
    file.write_text(yaml.safe_dump(document))
    ran = campaign("launch", file, "--pools", "threads", "--quiet")
    assert ran.code == 0, ran.err
    (folder / "edited.yaml").write_text(yaml.safe_dump({**document, "stop": {"rounds": 2, "labels": 50}}))
    file.unlink()
    return folder


def execute(words: list[str], desk: Path) -> Ran:
    from campaign.run_folder import RunFolder

    with RunFolder(desk / "quickstart").store() as store:
        (candidate,) = store.query("candidates", {"state": "labelled"}, fields=["chemsys"], limit=1)
    names = {
        "RUN": "quickstart",
        '"CHEMSYS"': f'"{candidate["chemsys"]}"',
        '"CANDIDATE"': f'"{candidate["_id"]}"',
    }
    filled = []
    for word in words:
        for name, value in names.items():
            word = value if word == name else word.replace(name, value) if name.startswith('"') else word  # noqa: PLW2901
        filled.append(word)
    extra = ["--pools", "threads"] if words[0] == "resume" else []
    return campaign(*filled, *extra)


@pytest.mark.parametrize(
    "words", [words for words in COMMANDS if words[0] not in {"launch", "benchmark"}], ids=" ".join
)
def test_every_command_line_runs(words: list[str], desk: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(desk)
    ran = execute(words, desk)
    assert ran.code == 0, ran.err
    if words[0] == "init":
        assert (desk / "campaign.yaml").read_text() == template_text("quickstart")
    if words[0] == "export":
        assert "wrote 6 candidates" in ran.out


def test_the_documented_queries_are_all_there():
    texts = [words for words in COMMANDS if words[:2] == ["query", "RUN"]]
    assert len(texts) == len(EXAMPLES) >= 5
