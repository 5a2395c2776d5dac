"""Who may import whom, and what a training host need not have installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "edm3d"
COMMANDS = {"edm3d.train", "edm3d.sample", "edm3d.evaluate", "edm3d.plan"}
NUMERIC = {"numpy", "scipy", "math", "dataclasses", "collections", "typing", "functools"}


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _files(folder: str) -> list[Path]:
    return sorted((PACKAGE / folder).glob("*.py"))


@pytest.mark.parametrize("folder", ["diffusion", "metrics"])
def test_the_mathematics_knows_nothing_of_edm3d(folder):
    for path in _files(folder):
        foreign = {n for n in _imports(path) if n.startswith("edm3d.")}
        assert {n for n in foreign if not n.startswith(f"edm3d.{folder}")} == set(), path


def test_metrics_need_numpy_and_scipy_only():
    for path in _files("metrics"):
        others = {n.split(".")[0] for n in _imports(path)} - NUMERIC - {"edm3d"}
        assert others == set(), path


@pytest.mark.parametrize("folder", ["data", "training", "report", "diffusion", "metrics"])
def test_libraries_read_no_flags_and_no_configs(folder):
    for path in _files(folder):
        names = _imports(path)
        if path.name == "pipeline.py":
            names -= {"absl.flags"}  # only marked as parsed, for Grain's worker processes
        assert not {n for n in names if n.startswith(("absl", "ml_collections"))}, path


def test_nobody_imports_a_command_or_data_prep():
    for path in PACKAGE.rglob("*.py"):
        for name in _imports(path):
            assert not name.startswith("data_prep"), path
            assert not any(name == c or name.startswith(c + ".") for c in COMMANDS), path


def test_training_and_sampling_import_without_simpleitk_lungmask_or_torch():
    code = (
        "import sys\n"
        "for name in ('SimpleITK', 'lungmask', 'torch'): sys.modules[name] = None\n"
        "import edm3d.train, edm3d.sample\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
