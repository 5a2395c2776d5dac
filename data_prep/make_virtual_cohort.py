"""Writes a virtual cohort of ventilated ARDS swine: CT, exact lung masks, scans.csv and truth.csv.

    python data_prep/make_virtual_cohort.py --out cohort --preset small
    python data_prep/make_virtual_cohort.py --out cohort --pigs 16 --spacing 5 --scans_per_pig 6

The same seed gives the same files on any number of workers. The folder appears when it is complete;
the same command goes on with a cohort whose making was stopped.
The animals are a model (see `virtual_pig`); nothing here is evidence about real pigs.
"""

import csv
import io
import multiprocessing
import os
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from absl import flags
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.cohort_folder import forget_unfinished, grown, is_complete
from data_prep.virtual_pig.cohort import PigJob, make_pig, pig_jobs
from data_prep.virtual_pig.contact_sheet import write_contact_sheet
from data_prep.virtual_pig.progress import Progress
from data_prep.virtual_pig.settings import PRESETS, CohortSettings, faults
from data_prep.whole_folder import resolved
from edm3d import command
from edm3d.errors import InputError

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def define_flags() -> None:
    own = CohortSettings()
    flags.DEFINE_string("out", None, "Folder to make; absent, empty, or this very cohort.")
    flags.DEFINE_enum(
        "preset",
        None,
        sorted(PRESETS),
        "paper: 50 pigs, 981 scans, 2 mm. small: 12 pigs, 144 scans, 4 mm. Other flags override.",
    )
    flags.DEFINE_integer("pigs", None, f"Number of animals, at least 3 (usual: {own.pigs}).")
    flags.DEFINE_float(
        "spacing",
        None,
        f"Nominal voxel size, mm; each pig's own grid is a little off it ({own.spacing_mm:g}).",
    )
    flags.DEFINE_integer("seed", None, f"Seed of the whole cohort, 0 or more ({own.seed}).")
    flags.DEFINE_integer(
        "scans_per_pig", None, f"Scans of each pig, at least 2 a PEEP ({own.scans_per_pig:g})."
    )
    flags.DEFINE_list("peep", None, "PEEP levels every pig is scanned at, cmH2O (3,8,13).")
    flags.DEFINE_enum("noise", None, ["on", "off"], "off: no noise, an exact calibration (on).")
    flags.DEFINE_float("dose", None, "Dose over the usual one; noise goes as 1/sqrt of it (1).")
    flags.DEFINE_bool("gas_maps", None, "Write SCAN-gas.nii.gz, each voxel's share of lung gas.")
    flags.DEFINE_integer("workers", None, "Processes; by default one per core.")
    flags.mark_flag_as_required("out")


def make_cohort(out: Path, settings: CohortSettings, *, workers: int) -> int:
    """Makes or finishes the cohort in `out` and returns its number of scans."""
    _check(settings, workers)
    out = resolved(out)
    jobs = pig_jobs(settings, Progress(out))
    scans = sum(job.scans for job in jobs)
    if is_complete(out, settings.as_json()):
        forget_unfinished(out)
        print(f"{out} is complete already")
        return scans
    with grown(out, settings.as_json(), settings.expected_bytes(scans)) as progress:
        jobs = pig_jobs(settings, progress)
        _say_what_is_made(jobs)
        _run(jobs, workers)
        _write_tables(jobs, progress)
    return scans


def _check(settings: CohortSettings, workers: int) -> None:
    """Raises `InputError` naming every number that cannot be used."""
    lines = faults(settings)
    if workers < 1:
        lines.append(f"--workers is {workers}; use 1 or more")
    if lines:
        raise InputError("\n".join(lines))


def _say_what_is_made(jobs: list[PigJob]) -> None:
    made = sum(note is not None for job in jobs for note in job.notes())
    if made:
        print(f"going on: {made} of {sum(job.scans for job in jobs)} scans are made", flush=True)


def _run(jobs: list[PigJob], workers: int) -> None:
    """All pigs. Always in fresh processes with one thread each: their sums then do not depend on
    how many threads the caller's BLAS uses."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    )
    try:
        with pool:
            for _ in tqdm(pool.map(make_pig, jobs), total=len(jobs), unit="pig", desc="pigs"):
                pass
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, even by SIGKILL."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _write_tables(jobs: list[PigJob], progress: Progress) -> None:
    """truth.csv, the contact sheet and, last, scans.csv."""
    notes = [note for job in jobs for note in job.notes()]
    scans = [note["scan"] for note in notes]
    progress.write_text("truth.csv", _table([note["truth"] for note in notes]))
    progress.write(
        "contact_sheet.png", lambda path: write_contact_sheet(path, progress.cohort, scans)
    )
    progress.write_text("scans.csv", _table(scans))


def _table(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def settings_from_flags() -> CohortSettings:
    """The preset's settings with those of the flags that were given."""
    f = flags.FLAGS
    base = PRESETS[f.preset] if f.preset else CohortSettings()
    return base.changed(
        pigs=f.pigs,
        spacing_mm=f.spacing,
        seed=f.seed,
        scans_per_pig=f.scans_per_pig,
        peep_cmh2o=None if f.peep is None else _whole_numbers("peep", f.peep),
        noise=None if f.noise is None else f.noise == "on",
        dose=f.dose,
        gas_maps=f.gas_maps,
    )


def _whole_numbers(name: str, texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(text) for text in texts)
    except ValueError as error:
        raise InputError(f"--{name} is {','.join(texts)}; use whole numbers") from error


def main(argv: list[str]) -> None:
    del argv
    f = flags.FLAGS
    start, out, settings = time.monotonic(), resolved(Path(f.out)), settings_from_flags()
    workers = len(os.sched_getaffinity(0)) if f.workers is None else f.workers
    scans = make_cohort(out, settings, workers=workers)
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6
    seconds = time.monotonic() - start
    print(f"{out}: {settings.pigs} pigs, {scans} scans, {size:.0f} MB, {seconds:.0f} s")


if __name__ == "__main__":
    define_flags()
    command.run(main)
