"""Bad input on the command line: one clear line, exit code 2, no traceback."""

import subprocess
import sys

import pytest

from tests.configurations import ROOT


def _run(*words):
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-m", "edm3d.train"], "flag --config is missing"),
        (["-m", "edm3d.train", "--config=configs/none.py"], "configs/none.py"),
        (
            ["-m", "edm3d.train", "--config=configs/quickstart.py", "--config.train.step=3"],
            "steps",
        ),
        (
            ["-m", "edm3d.train", "--config=configs/quickstart.py", "--config.records=nowhere"],
            "nowhere",
        ),
        (["-m", "edm3d.sample"], "flag --run is missing"),
        (["-m", "edm3d.sample", "--members=none"], "members"),
        (["-m", "edm3d.sample", "stray"], "argument 'stray' is not a flag"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(words, says):
    code, output = _run(*words)
    assert code == 2, output
    assert "Traceback" not in output
    lines = [line for line in output.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and says in lines[0], output
