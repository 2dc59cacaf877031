"""The wheel, as a user gets it: built, installed beside nothing of the checkout, and used from elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("campaign", "models", "flows")

pytestmark = pytest.mark.slow


def _run(*command: str | Path, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("source")  # a copy: a build leaves folders behind
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(source)]
    _run(sys.executable, "-m", "pip", "wheel", *options, ".", cwd=source)
    (built,) = source.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; what it depends on is lent from this one."""
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    python = folder / "bin" / "python"
    options = ["--no-deps", "--no-index", "--quiet"]
    _run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, cwd=folder)
    purelib = Path(
        _run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    # A path in a .pth file comes after the environment's own, and the .pth files in it (an editable
    # installation of the checkout, say) are not read.
    (purelib / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


def test_the_wheel_has_all_modules_and_data_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file()
        and not any(part.startswith((".", "__pycache__")) for part in path.relative_to(ROOT).parts)
    }
    assert wanted - names == set()
    assert {name.split("/")[0] for name in names} - set(PACKAGES) == {
        wheel.name.split("-py3")[0] + ".dist-info"
    }


def test_the_installed_command_works_from_elsewhere(environment: Path, tmp_path: Path) -> None:
    campaign = environment / "bin" / "campaign"
    assert "launch" in _run(campaign, "--help", cwd=tmp_path)
    _run(campaign, "init", "mine.yaml", cwd=tmp_path)
    assert _run(campaign, "validate", "mine.yaml", cwd=tmp_path)
    assert '"properties"' in _run(campaign, "schema", cwd=tmp_path)
    code = "import campaign, models, flows; print(campaign.__file__, models.__file__, flows.__file__)"
    for place in _run(environment / "bin" / "python", "-c", code, cwd=tmp_path).split():
        assert place.startswith(str(environment))


def test_workers_of_the_installed_wheel_run_the_wheel(environment: Path, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from campaign.parallel.pools import open_pools
from campaign.parallel.preflight import preflight
from campaign.site import Site
pools = open_pools(Site(), Path("pools"))
print(*{folder for result in preflight(pools) for folder in result.parents.values()})
pools.close(cancel=True)
"""
    (tmp_path / "models").mkdir()  # a user's own folder of that name is not in the way
    (tmp_path / "models" / "__init__.py").touch()
    (tmp_path / "start.py").write_text(code, encoding="utf-8")
    folders = _run(environment / "bin" / "python", "-P", "start.py", cwd=tmp_path).split()
    assert len(folders) == 1
    assert folders[0].startswith(str(environment))
