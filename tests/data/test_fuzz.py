"""Hundreds of damaged files: each is refused in clear lines or read right, within bounds."""

import json
import os
import subprocess
import sys

import pytest

from tests.configurations import ROOT
from tests.data.fuzzing import MARK, MOST_BYTES, MOST_SECONDS

KINDS = ("nii", "nii.gz", "series", "enhanced", "compressed", "plain.mha", "packed.mha")
KINDS += ("plain.nrrd", "packed.nrrd", "csv")
KINDS += ("film.dcm", "film.coded.dcm", "film.png", "film.nii", "film.nii.gz")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("fuzz")
    command = [sys.executable, "-W", "error", "-m", "tests.data.fuzzing", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stderr == ""  # no library warns or prints beside the refusals
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_three_hundred_damaged_files_and_more_were_tried(outcomes):
    assert len(outcomes) > 700
    for kind in KINDS:
        assert sum(one["name"].startswith(f"{kind}-") for one in outcomes) >= 40, kind


def test_every_file_is_refused_or_read_right(outcomes):
    wrong = [one for one in outcomes if one["outcome"] == "wrong"]
    assert wrong == []


def test_both_outcomes_occur_for_every_kind(outcomes):
    """A reader that refused all, or read all, would pass the other tests."""
    for kind in KINDS:
        found = {o["outcome"] for o in outcomes if o["name"].startswith(f"{kind}-")}
        assert found == {"refused", "read"}, kind


def test_a_refusal_is_one_line_a_fault_and_names_no_person(outcomes):
    for one in (one for one in outcomes if one["outcome"] == "refused"):
        lines = one["why"].split("\n")
        assert len(lines) == 1 or one["name"].startswith("csv-"), one
        assert all(line and line.isprintable() and len(line) < 1500 for line in lines), one
        assert MARK not in one["why"], one


def test_time_and_memory_stay_in_bounds(outcomes):
    assert max(one["seconds"] for one in outcomes) < MOST_SECONDS
    (peak,) = (int(one["why"]) for one in outcomes if one["outcome"] == "peak")
    assert peak < MOST_BYTES
