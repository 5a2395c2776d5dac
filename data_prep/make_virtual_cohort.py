"""Writes a virtual cohort of ventilated ARDS swine: CT, exact lung masks, scans.csv and truth.csv.

    python data_prep/make_virtual_cohort.py --out cohort --pigs 16 --spacing 5 --scans_per_pig 6

The same seed gives the same files on any number of workers. The folder appears when it is complete.
The animals are a model (see `virtual_pig`); nothing here is evidence about real pigs.
"""

import csv
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from absl import flags
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.virtual_pig.cohort import PigJob, make_pig
from data_prep.virtual_pig.design import CORE_SCANS, MOST_SCANS, split_of_pigs
from edm3d import command
from edm3d.errors import InputError

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def define_flags() -> None:
    flags.DEFINE_string("out", None, "Folder to make; must not exist, or be empty.", required=True)
    flags.DEFINE_integer("pigs", 12, "Number of animals, at least 3.")
    flags.DEFINE_float("spacing", 2.0, "In-plane voxel size, mm; slices are a little thinner.")
    flags.DEFINE_integer("seed", 0, "Seed of the whole cohort, 0 or more.")
    flags.DEFINE_integer("scans_per_pig", 20, f"Scans of each pig, {CORE_SCANS} to {MOST_SCANS}.")
    flags.DEFINE_integer("workers", None, "Processes; by default one per core.")


def make_cohort(
    out: Path, *, pigs: int, spacing_mm: float, seed: int, scans_per_pig: int, workers: int
) -> int:
    """Makes the cohort in `out` and returns its number of scans."""
    check_numbers(pigs, spacing_mm, seed, scans_per_pig, workers)
    with folder_made_whole(out) as folder:
        jobs = [
            PigJob(folder, seed, index, split, scans_per_pig, spacing_mm)
            for index, split in enumerate(split_of_pigs(seed, pigs))
        ]
        made = _run(jobs, workers)
        scans = [row for rows, _ in made for row in rows]
        _write_table(folder / "scans.csv", scans)
        _write_table(folder / "truth.csv", [row for _, rows in made for row in rows])
    return len(scans)


def check_numbers(
    pigs: int, spacing_mm: float, seed: int, scans_per_pig: int, workers: int
) -> None:
    """Raises `InputError` naming every number that cannot be used."""
    faults = []
    if pigs < 3:
        faults.append(f"--pigs is {pigs}; use at least 3 (train, val and test need one each)")
    if not 0.5 <= spacing_mm <= 10:
        faults.append(f"--spacing is {spacing_mm:g} mm; use 0.5 to 10")
    if seed < 0:
        faults.append(f"--seed is {seed}; use 0 or more")
    if not CORE_SCANS <= scans_per_pig <= MOST_SCANS:
        faults.append(f"--scans_per_pig is {scans_per_pig}; use {CORE_SCANS} to {MOST_SCANS}")
    if workers < 1:
        faults.append(f"--workers is {workers}; use 1 or more")
    if faults:
        raise InputError("\n".join(faults))


@contextmanager
def folder_made_whole(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that takes its name on success and vanishes on failure."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out is {out}, a file; name a folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out is {out}, which is not empty; name a new folder or empty it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise InputError(f"--out is {out}, which cannot be made ({error.strerror})") from error
    try:
        yield partial
        partial.chmod(0o755)
        os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _run(jobs: list[PigJob], workers: int) -> list[tuple[list[dict], list[dict]]]:
    """All pigs, in order. Always in fresh processes with one thread each: their sums then do not
    depend on how many threads the caller's BLAS uses."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context) as pool:
            return list(tqdm(pool.map(make_pig, jobs), total=len(jobs), unit="pig", desc="pigs"))
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _write_table(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    start, out = time.monotonic(), Path(f.out)
    scans = make_cohort(
        out,
        pigs=f.pigs,
        spacing_mm=f.spacing,
        seed=f.seed,
        scans_per_pig=f.scans_per_pig,
        workers=len(os.sched_getaffinity(0)) if f.workers is None else f.workers,
    )
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6
    seconds = time.monotonic() - start
    print(f"{out}: {f.pigs} pigs, {scans} scans, {size:.0f} MB, {seconds:.0f} s")


if __name__ == "__main__":
    define_flags()
    command.run(main)
