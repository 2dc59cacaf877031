"""The house rules that a machine can check: directions of imports, start-up time, sizes of files, style, types."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import grimp
import networkx
import pytest
from command_line import children_seconds

ROOT = Path(__file__).parent.parent
PACKAGES = ("campaign", "models", "flows")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def _run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=500, check=False)


def _python(code: str) -> str:
    done = _run(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_import_contracts_hold() -> None:
    done = _run(
        sys.executable, "-c", "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"
    )
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout


def test_no_import_circles() -> None:
    """No module waits, while it is being imported, for one that waits for it."""
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True, cache_dir=None)
    circles: networkx.DiGraph[str] = networkx.DiGraph()
    for path in SOURCES:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        at_once = {node.lineno for node in ast.parse(path.read_text(encoding="utf-8")).body}
        for imported in graph.find_modules_directly_imported_by(module):
            details = graph.get_import_details(importer=module, imported=imported)
            if any(detail["line_number"] in at_once for detail in details):
                circles.add_edge(module, imported)
    assert [sorted(part) for part in networkx.strongly_connected_components(circles) if len(part) > 1] == []


def test_campaign_imports_models_and_flows_only_when_a_function_needs_them() -> None:
    found = []
    for path in SOURCES:
        if path.is_relative_to(ROOT / "campaign"):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found += [
                    f"{path.name}: {name}" for name in names if name.partition(".")[0] in ("models", "flows")
                ]
    # These are pure and light: what may run next, why a job failed and what cures it is said in one place.
    light = ("flows.graph", "flows.cures", "flows.schemas")
    assert [line for line in found if not line.startswith("tasks.py:") and not line.endswith(light)] == []


def test_the_command_line_imports_nothing_heavy() -> None:
    heavy = ("torch", "atomate2", "pymatgen", "jobflow", "parsl", "maggma", "numpy", "ase", "fireworks")
    loaded = _python(f"import campaign.cli, sys; print(*[m for m in {heavy} if m in sys.modules])")
    assert loaded == ""


def test_help_answers_within_half_a_second() -> None:
    """Of CPU time: on a busy machine the clock would tell how busy it is."""

    def once() -> float:
        before = children_seconds()
        done = _run(sys.executable, "-c", "from campaign.cli import main; main()", "--help")
        assert "launch" in done.stdout
        return children_seconds() - before

    assert min(once() for _ in range(3)) < 0.5


def test_the_three_packages_come_from_one_folder() -> None:
    code = (
        "import campaign, models, flows, pathlib; print(*{pathlib.Path(m.__file__).resolve().parent.parent "
    )
    assert _python(code + "for m in (campaign, models, flows)})") == str(ROOT)


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_can_be_read_in_one_go(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    assert path.name not in ("utils.py", "util.py", "helpers.py", "misc.py", "common.py")
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


def test_source_files_are_of_readable_size() -> None:
    lengths = sorted(
        path.read_text(encoding="utf-8").count("\n") for path in SOURCES if path.name != "__init__.py"
    )
    assert lengths[len(lengths) // 2] <= 250


def test_nothing_loads_a_pickle_or_evaluates_text() -> None:
    forbidden = re.compile(
        r"\bpickle\.loads?\(|\beval\(|(?<!\.)\bexec\(|yaml\.(load|unsafe_load|full_load)\(|weights_only=False"
    )
    found = {
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in SOURCES
        for line in path.read_text(encoding="utf-8").splitlines()
        if (match := forbidden.search(line)) and ".eval()" not in line[match.start() - 1 :]
    }
    assert found == set()


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in TESTS if path.name not in ("conftest.py", "__init__.py")]
    assert sorted(names) == sorted(set(names))


def test_every_command_is_documented() -> None:
    from typer.main import get_command

    from campaign.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert "launch" in commands
    assert [name for name in commands if f"campaign {name}" not in readme] == []
    assert [name for name, command in commands.items() if not command.help] == []


def test_style() -> None:
    done = _run(
        sys.executable, "-m", "ruff", "check", "--output-format", "concise", *PACKAGES, "tests", "deploy"
    )
    assert done.returncode == 0, done.stdout
    done = _run(sys.executable, "-m", "ruff", "format", "--check", *PACKAGES, "tests", "deploy")
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_types() -> None:
    done = _run(sys.executable, "-m", "mypy")
    assert done.returncode == 0, done.stdout


def test_tracked_files_name_no_folder_of_the_machine_they_were_written_on() -> None:
    listed = _run("git", "ls-files", "-z")
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = [f"{ROOT}/", f"{sys.prefix}/"]
    tracked = [ROOT / name for name in listed.stdout.split("\0") if name]
    texts = {path: path.read_bytes() for path in tracked if path.is_file()}
    assert [path for path, text in texts.items() if any(place.encode() in text for place in places)] == []
