r"""How far classical lung masks are from the exact ones of a virtual cohort, by stage and position.

    python data_prep/make_virtual_cohort.py --out FOLDER --pigs 3 --spacing 3 --seed 5 \
        --scans_per_pig 12
    python benchmarks/masks.py --cohort FOLDER --spacing 4 8

Prints a table and writes
benchmarks/results/masks.json.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from provenance import origin, write_result

from edm3d.data.cases import ScalarRanges
from edm3d.data.manifest import Scan, read_manifest
from edm3d.data.shards import RecordSettings, read_on_grid
from edm3d.data.volumes import read_grid, working_grid
from edm3d.segmentation import classical_lungs


def compare(scan: Scan, spacing_mm: float) -> tuple[float, float, float]:
    """Exact lung volume and the classical one's error, both in ml, and Dice of one scan."""
    ranges = ScalarRanges((0.0, 50.0), (0.0, 50.0))
    settings = RecordSettings(spacing_mm, (-1024.0, 1024.0), 160, True, 0.0206, ranges)
    grid = working_grid(read_grid(scan.ct, series=scan.series), spacing_mm)
    placed = read_on_grid(scan, grid, settings)
    assert placed.lung_mask is not None
    exact, found = placed.lung_mask > 0, classical_lungs(placed.hu, spacing_mm) > 0
    ml = spacing_mm**3 / 1000
    dice = 2 * np.count_nonzero(exact & found) / (exact.sum() + found.sum())
    return exact.sum() * ml, (float(found.sum()) - float(exact.sum())) * ml, float(dice)


def summary(name: str, spacing_mm: float, rows: list[tuple[float, float, float]]) -> dict:
    """Mean and SD over scans."""
    exact, error, dice = np.array(rows).T
    return {
        "group": name,
        "spacing_mm": spacing_mm,
        "scans": len(rows),
        "lung_ml": round(exact.mean()),
        "error_ml": round(error.mean(), 1),
        "error_sd_ml": round(error.std(ddof=1), 1) if len(rows) > 1 else None,
        "error_percent": round(100 * (error / exact).mean(), 1),
        "dice": round(dice.mean(), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True, help="folder with scans.csv")
    parser.add_argument("--spacing", type=float, nargs="+", default=[4.0, 8.0], help="mm")
    arguments = parser.parse_args()
    scans = read_manifest(arguments.cohort / "scans.csv")
    rows = []
    for spacing in arguments.spacing:
        found = [(f"{s.stage} {s.position}", compare(s, spacing)) for s in scans]
        rows.append(summary("all", spacing, [values for _, values in found]))
        for name, group in itertools.groupby(sorted(found), key=lambda pair: pair[0]):
            rows.append(summary(name, spacing, [values for _, values in group]))
    print(" ".join(f"{name:>18}" for name in rows[0]))
    for row in rows:
        print(" ".join(f"{value!s:>18}" for value in row.values()))
    about = origin(("numpy", "scipy", "edm3d"))
    pigs = len({scan.subject for scan in scans})
    print(f"written to {write_result('masks', {**about, 'pigs': pigs, 'rows': rows})}")


if __name__ == "__main__":
    main()
