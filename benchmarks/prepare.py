r"""How fast scans become records, in how much memory, and how both grow with their number.

    OMP_NUM_THREADS=1 python benchmarks/prepare.py

Full size: 512 x 512 x 600 voxels of 0.7 x 0.7 x 1 mm to 2 mm, as NIfTI of int16 and of float64 and
as a DICOM series; a session of two scans gives two pairs. Growth: sessions of four scans of
20 x 26 x 30 voxels of 4 mm (one file linked many times), so that what is counted is the work beside
voxels. Every figure is of a fresh process with one thread, whose peak memory is its own; seconds
are those of its core (CPU time), which other load disturbs little. Prints a table and writes
benchmarks/results/prepare.json.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from provenance import origin, write_result

from edm3d.data.cases import ScalarRanges, Ventilation
from edm3d.data.manifest import Scan, read_manifest
from edm3d.data.records import check_scans, checked_groups, write_records
from edm3d.data.shards import Group, RecordSettings, read_on_grid, write_group
from edm3d.data.volumes import Grid, read_ct, read_grid, working_grid, write_nifti
from edm3d.data.xray_geometry import Bedside, Cone

FULL_ZYX, FULL_MM = (600, 512, 512), (1.0, 0.7, 0.7)
SMALL_ZYX, SMALL_MM = (20, 26, 30), (4.0, 4.0, 4.0)
RANGES = ScalarRanges((3.0, 15.0), (6.0, 12.0))
COLUMNS = "subject,scan,stage,position,phase,peep_cmh2o,tidal_volume_ml_kg,ct,split"
SESSION = 4  # small scans


def settings(spacing_mm: float, antialias: bool = False, bedside: bool = False) -> RecordSettings:
    xray = (Cone(), Bedside(seed=0)) if bedside else (None, None)
    return RecordSettings(spacing_mm, (-1024.0, 1024.0), 160, antialias, 0.0206, RANGES, *xray)


def chest(shape_zyx: tuple[int, int, int], seed: int) -> np.ndarray:
    """int16 `[z, y, x]`: a body with two lungs in air, noise of 18 HU."""
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape_zyx)
    plane = np.random.default_rng(seed).normal(0, 18, shape_zyx[1:]).astype(np.float32)
    body = x**2 / 0.8 + y[:, None] ** 2 / 0.6 < 1
    across = (np.abs(x) - 0.42) ** 2 / 0.07 + y[:, None] ** 2 / 0.25
    hu = np.empty(shape_zyx, np.int16)
    for index, level in enumerate(z):
        tissue = np.where(body, 40.0, -1000.0)
        values = np.where(across + level**2 < 0.85, -700.0 - 20 * seed, tissue)
        hu[index] = np.rint(values + np.roll(plane, 7 * index, axis=0)).clip(-1024, 3000)
    return hu


def grid_of(shape_zyx: tuple[int, int, int], spacing_zyx_mm: tuple[float, ...]) -> Grid:
    return Grid(shape_zyx, np.diag([*spacing_zyx_mm[::-1], 1.0]))


def write_float64(path: Path, hu: np.ndarray, grid: Grid) -> None:
    """The volume as a packed NIfTI of the widest type, as numerical software writes it."""
    import nibabel

    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine_lps
    image = nibabel.Nifti1Image(hu.T.astype(np.float64), affine)
    image.set_sform(affine, code="scanner")
    nibabel.save(image, path)


def write_series(folder: Path, hu: np.ndarray, spacing_zyx_mm: tuple[float, ...]) -> None:
    """The volume as an axial DICOM series, uncompressed."""
    import SimpleITK as sitk

    folder.mkdir()
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, plane in enumerate(hu):
        image = sitk.GetImageFromArray(plane)
        image.SetSpacing([spacing_zyx_mm[2], spacing_zyx_mm[1]])
        tags = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0060": "CT",
            "0018|5100": "HFS",
            "0020|000e": "1.2.826.0.1.3680043.8.2",
            "0020|0032": f"0\\0\\{index * spacing_zyx_mm[0]:g}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "0",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{index:04d}.dcm"))
        writer.Execute(image)


def peak_mb() -> float:
    """The most memory that this process held at once; unlike ru_maxrss, without its parent's."""
    status = Path("/proc/self/status").read_text()
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def fresh(function: Callable[..., dict[str, float]], *arguments: Any) -> dict[str, float]:
    """What `function` returns in a process of its own, with that process's peak memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        found = pool.submit(function, *arguments).result()
        return {**found, "peak_mb": round(pool.submit(peak_mb).result())}


def scan_of(path: Path, number: int = 0) -> Scan:
    setting = Ventilation(5.0, 8.0, "inspiration")
    return Scan(number, "pig", str(number), "early", "supine", setting, path, split="train")


def read_one(path: Path) -> dict[str, float]:
    start = time.process_time()
    read_ct(path)
    return {"seconds": time.process_time() - start}


def bring_to_grid(path: Path, antialias: bool) -> dict[str, float]:
    start, scan = time.process_time(), scan_of(path)
    chosen = settings(2.0, antialias)
    read_on_grid(scan, working_grid(read_grid(scan.ct), chosen.spacing_mm), chosen)
    return {"seconds": time.process_time() - start}


def write_session(paths: tuple[Path, ...], folder: Path, bedside: bool) -> dict[str, float]:
    scans = tuple(scan_of(path, number) for number, path in enumerate(paths))
    start = time.process_time()
    chosen = settings(2.0, bedside=bedside)
    write_group(Group(scans, {"train": "unused"}), chosen, folder)
    return {"seconds": (time.process_time() - start) / len(scans)}


def see_one(path: Path) -> dict[str, float]:
    from data_prep.dataset_check.measure import see

    start = time.process_time()
    seen = see(scan_of(path))
    assert seen.measured is not None, seen.fault
    return {"seconds": time.process_time() - start}


def full_size(folder: Path) -> list[dict]:
    """CPU seconds a scan and peak memory of each step at full size, by format."""
    grid, rows = grid_of(FULL_ZYX, FULL_MM), []
    writers: dict[str, tuple[str, Callable[[Path, np.ndarray], None]]] = {
        "NIfTI .gz int16": (".nii.gz", lambda path, hu: write_nifti(path, hu, grid)),
        "NIfTI .gz float64": (".f8.nii.gz", lambda path, hu: write_float64(path, hu, grid)),
        "DICOM": ("", lambda path, hu: write_series(path, hu, FULL_MM)),
    }
    for name, (suffix, write) in writers.items():
        both = (folder / f"a{suffix}", folder / f"b{suffix}")
        for seed, path in enumerate(both):
            write(path, chest(FULL_ZYX, seed))
        (folder / "out").mkdir()
        steps = {
            "read": fresh(read_one, both[0]),
            "read, resample, X-rays": fresh(bring_to_grid, both[0], False),
            "the same, anti-aliased": fresh(bring_to_grid, both[0], True),
            "to records, 1 pair a scan": fresh(write_session, both, folder / "out", False),
            "the same, bedside cone": fresh(write_session, both, folder / "out", True),
            "check_dataset.py": fresh(see_one, both[0]),
        }
        shutil.rmtree(folder / "out")
        for step, found in steps.items():
            seconds = found.pop("seconds")
            row = {"format": name, "step": step, "seconds_a_scan": round(seconds, 2)}
            rows.append({**row, "scans_per_s": round(1 / seconds, 3), **found})
            print(" ".join(f"{value!s:>26}" for value in rows[-1].values()), flush=True)
    return rows


def write_small_cohort(folder: Path, scans: int) -> Path:
    """A manifest of `scans` small scans in sessions of four, files linked to four."""
    lines = [COLUMNS]
    for seed in range(SESSION):
        write_nifti(folder / f"{seed}.nii.gz", chest(SMALL_ZYX, seed), grid_of(SMALL_ZYX, SMALL_MM))
    for number in range(scans):
        subject, seed = divmod(number, SESSION)
        name = f"s{subject}_{seed}.nii.gz"
        os.link(folder / f"{seed}.nii.gz", folder / name)
        split = ("train", "val")[subject % 5 == 4]
        lines.append(f"s{subject},{seed},early,supine,inspiration,5,8,{name},{split}")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n")
    return folder / "scans.csv"


def build_small(manifest: Path) -> dict[str, float]:
    start = time.process_time()
    scans = read_manifest(manifest)
    read = time.process_time()
    check_scans(scans, RANGES)
    checked_groups(scans)
    checked = time.process_time()
    write_records(scans, manifest.parent / "out", settings(8.0), seed=0)
    done = time.process_time()
    return {
        "manifest_s": round(read - start, 3),
        "headers_s": round(checked - read, 3),
        "total_s": round(done - checked + read - start, 2),
    }


def growth(folder: Path, counts: list[int], rounds: int) -> list[dict]:
    """Seconds and peak memory of whole builds, by the number of scans; the quickest of rounds."""
    rows = []
    for count in counts:
        part = folder / str(count)
        part.mkdir()
        manifest = write_small_cohort(part, count)
        found = []
        for _ in range(rounds):
            found.append(fresh(build_small, manifest))
            shutil.rmtree(part / "out")
        best = min(found, key=lambda one: one["total_s"])
        rows.append({"scans": count, **best, "ms_a_scan": round(1000 * best["total_s"] / count, 1)})
        print(" ".join(f"{value!s:>14}" for value in rows[-1].values()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[12, 100, 1000], help="scans")
    parser.add_argument("--rounds", type=int, default=3, help="builds of each count")
    arguments = parser.parse_args()
    about = origin(("numpy", "scipy", "nibabel", "SimpleITK", "array-record", "edm3d"))
    with tempfile.TemporaryDirectory() as name:
        columns = ["scans", "manifest s", "headers s", "total s", "peak MB", "ms a scan"]
        print(" ".join(f"{column:>14}" for column in columns))
        small = growth(Path(name), arguments.counts, arguments.rounds)
        columns = ["format", "step", "s a scan", "scans/s a core", "peak MB"]
        print(" ".join(f"{column:>26}" for column in columns))
        full = full_size(Path(name))
    about |= {"full_zyx": FULL_ZYX, "small_zyx": SMALL_ZYX, "scans_a_session": SESSION}
    print(f"written to {write_result('prepare', {**about, 'growth': small, 'full_size': full})}")


if __name__ == "__main__":
    main()
