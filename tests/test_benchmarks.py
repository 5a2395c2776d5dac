"""The benchmarks that compare CTs choose, weight and refuse as they say."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import calibration
import ct_noise
import realism
from calibration_anchors import ANCHORS
from calibration_measures import directions
from provenance import RESULTS

COLUMNS = "subject scan stage position phase peep_cmh2o tidal_volume_ml_kg ct".split()


def a_cohort(folder: Path) -> Path:
    """The table of eight pigs, two of each stage and position, each at PEEP 3 and 13."""
    with (folder / "scans.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for pig in range(8):
            stage, position = ("early", "stabilised")[pig % 2], ("supine", "prone")[pig // 2 % 2]
            for peep in (3, 13):
                for phase in ("expiration", "inspiration"):
                    scan = f"{peep}-{phase}"
                    table.writerow([f"pig{pig}", scan, stage, position, phase, peep, 8, scan])
    return folder


def test_the_compared_scans_alternate_between_the_least_and_the_most_inflated(tmp_path):
    chosen = [name for name, _ in realism.virtual_scans(a_cohort(tmp_path), 8)]
    assert len({name.split()[0] for name in chosen}) == 8
    assert [name.split()[1] for name in chosen] == ["3-expiration"] * 4 + ["13-inspiration"] * 4


def test_masks_are_never_taken_for_real_scans(tmp_path):
    (tmp_path / "lungmask.nii.gz").touch()
    with pytest.raises(SystemExit, match=r"error: --real is .*, which has none of"):
        realism.real_scans(tmp_path)


def test_the_mean_noise_frequency_of_white_noise_weighs_rings_by_area():
    white = np.full(len(realism.FREQUENCY_PER_MM) - 1, 1.0)
    limit = realism.FREQUENCY_PER_MM[-1]
    assert realism.mean_frequency(white) == pytest.approx(2 / 3 * limit, rel=0.01)


@pytest.mark.parametrize("real", [[], ["flat.nii.gz"]])
def test_the_noise_benchmark_without_a_square_to_measure_says_so(real, tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(ct_noise, "write_result", lambda *a: written.append(a))
    monkeypatch.setattr(ct_noise, "read", lambda path: (np.zeros((3, 40, 40)), np.ones(3)))
    monkeypatch.setattr(sys, "argv", ["ct_noise.py", *(str(tmp_path / name) for name in real)])
    with pytest.raises(SystemExit, match=r"error: .*(no CT|no flat square)"):
        ct_noise.main()
    assert not written


def test_a_change_with_position_in_the_wrong_direction_is_a_miss_though_both_ends_are_inside():
    result = json.loads((RESULTS / "calibration.json").read_text())
    means = {name: found["mean"] for name, found in result["figures"].items()}
    anchors = {a.figure: a for a in ANCHORS}
    for name, ratio in directions(means).items():
        found = calibration.verdict(anchors[name], {"mean": ratio, "sd": 0.0})
        assert found["missed_by"] != 0
        assert (anchors[name].low < 1) == (found["missed_by"] > 0)
