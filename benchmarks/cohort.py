"""Seconds a scan of the virtual cohort on one core, and peak memory, at 2 and 4 mm.

    python benchmarks/cohort.py

Prints a table and writes benchmarks/results/cohort.json. Each row makes one pig's scans from first
to last (atlas, mechanics, map, CT, files) in a process of its own with one thread; `whole` rows
make a cohort by the command with one worker, and differ only in their number of pigs.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from provenance import origin, write_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.virtual_pig.cohort import PigJob, make_pig
from data_prep.virtual_pig.ct import acquire
from data_prep.virtual_pig.lattice import lattice_over
from data_prep.virtual_pig.progress import Progress
from data_prep.virtual_pig.settings import CohortSettings

ROOT = Path(__file__).resolve().parents[1]
SPACINGS_MM = (2.0, 4.0)
TARGET_S, TARGET_GB = 6.0, 1.5  # at 2 mm
WHOLE_SPACING_MM = 8.0
WHOLE_PIGS = (3, 12)


def one_pig(spacing_mm: float, index: int, scans: int) -> dict:
    """Makes a pig in this process and measures it."""
    settings = CohortSettings(spacing_mm=spacing_mm, scans_per_pig=scans)
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress(Path(folder))
        progress.begin()
        wall, cpu = time.perf_counter(), time.process_time()
        make_pig(PigJob(settings, index, "train", scans, progress))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        size = sum(p.stat().st_size for p in progress.cohort.rglob("*.nii.gz"))
    return {
        "spacing_mm": spacing_mm,
        "scans": scans,
        "wall_s_per_scan": round(wall / scans, 2),
        "cpu_s_per_scan": round(cpu / scans, 2),
        "scanner_s_per_scan": round(scanner_seconds(spacing_mm), 2),
        "mb_per_scan": round(size / scans / 1e6, 2),
        "peak_gb": round(peak_gb(resource.RUSAGE_SELF), 2),
    }


def scanner_seconds(spacing_mm: float) -> float:
    """CPU seconds of point spread and noise alone, for a field of view of 260 mm."""
    lattice = lattice_over((0, -130, -130), (240, 130, 130), spacing_mm)
    _, y, x = lattice.open_mesh()
    body = np.broadcast_to(np.where(np.hypot(y / 100, x / 80) < 1, 40, -1000), lattice.shape_zyx)
    start = time.process_time()
    acquire(body.astype(np.float32), lattice, np.random.default_rng(0))
    return time.process_time() - start


def peak_gb(who: int) -> float:
    """Peak resident memory, of this process or of the largest of its finished children."""
    return resource.getrusage(who).ru_maxrss / 1024**2


def whole(pigs: int) -> dict:
    """The command for `pigs` pigs; its peak is the largest of its own and its worker's."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(ROOT / "data_prep/make_virtual_cohort.py")]
        command += [f"--out={folder}/cohort", f"--pigs={pigs}", "--workers=1"]
        command += [f"--spacing={WHOLE_SPACING_MM}", "--scans_per_pig=6"]
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - start
    return {"pigs": pigs, "scans": 6 * pigs, "seconds": round(seconds, 1)}


def apart(*arguments: str) -> dict:
    """A measurement of this file in a fresh process with one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    run = subprocess.run(
        [sys.executable, __file__, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | threads,
    )
    return json.loads(run.stdout)


def show(row: dict) -> None:
    print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scans", type=int, default=12, help="scans of each pig")
    parser.add_argument("--pigs", type=int, default=2, help="pigs at each spacing")
    parser.add_argument("--pig", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--whole", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.pig:
        spacing, index = chosen.pig
        print(json.dumps(one_pig(float(spacing), int(index), chosen.scans)))
        return
    if chosen.whole:
        made = whole(chosen.whole)
        print(json.dumps(made | {"peak_gb": round(peak_gb(resource.RUSAGE_CHILDREN), 3)}))
        return
    about = origin(("numpy", "scipy", "nibabel", "matplotlib"))
    rows, cohorts = [], []
    for spacing in SPACINGS_MM:
        for index in range(chosen.pigs):
            rows.append(apart("--pig", str(spacing), str(index), "--scans", str(chosen.scans)))
            show(rows[-1])
    for pigs in WHOLE_PIGS:
        cohorts.append(apart("--whole", str(pigs)))
        show(cohorts[-1])
    fine = [row for row in rows if row["spacing_mm"] == 2.0]
    met = all(r["cpu_s_per_scan"] < TARGET_S and r["peak_gb"] < TARGET_GB for r in fine)
    print(f"under {TARGET_S:g} s and {TARGET_GB:g} GB at 2 mm: {'yes' if met else 'NO'}")
    targets = {"target_s_at_2mm": TARGET_S, "target_gb_at_2mm": TARGET_GB, "targets_met": met}
    write_result("cohort", {**about, **targets, "rows": rows, "whole_at_8mm": cohorts})


if __name__ == "__main__":
    main()
