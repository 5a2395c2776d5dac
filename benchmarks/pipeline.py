"""How many paired 128^3 patches a second reach the device, by codec and by reader.

    python benchmarks/pipeline.py

Prints a table and writes benchmarks/results/pipeline.json. Records hold CT-like noise on a smooth
body, which compresses like a real scan with 18 HU of noise.
"""

import argparse
import importlib.metadata
import itertools
import json
import os
import statistics
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path
from unittest import mock

import numpy as np
from scipy import ndimage

from edm3d.data import shards
from edm3d.data.cases import ScalarRanges
from edm3d.data.manifest import Scan, Ventilation
from edm3d.data.pipeline import train_batches
from edm3d.data.records import write_records
from edm3d.data.volumes import Grid, write_nifti

PATCH, BATCH = 128, 4
SHAPES = ((150, 136, 136), (160, 160, 160))
CODECS = ("uncompressed", "snappy", "zstd:1", "zstd:3")
WORKERS = (0, 1, 2)
SCANS = 5
RESULT = Path(__file__).parent / "results" / "pipeline.json"


def ct_like(shape: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
    """int16 `[z, y, x]`: an elliptic body with lungs in air, textured, with 18 HU of noise."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    texture = 900 * ndimage.gaussian_filter(rng.normal(size=shape), 2.0)
    lungs = (np.abs(x) - 0.42) ** 2 / 0.09 + y**2 / 0.3 + z**2 < 0.9
    hu = np.where(lungs, -700 + texture, 30 + 0.2 * texture) + rng.normal(0, 18, shape)
    return np.where(x**2 / 0.9 + y**2 / 0.8 < 1, hu, -1024).clip(-1024, 3000).astype(np.int16)


def write_scans(folder: Path, shape: tuple[int, int, int]) -> list[Scan]:
    """Scans of one subject at 2 mm, all for training."""
    rng, grid = np.random.default_rng(0), Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0]))
    scans = []
    for index in range(SCANS):
        path = folder / f"{index}.nii.gz"
        write_nifti(path, ct_like(shape, rng), grid)
        setting = Ventilation(5.0, 8.0, "inspiration")
        scans.append(
            Scan(index, "pig", str(index), "early", "supine", setting, path, split="train")
        )
    return scans


def build(scans: list[Scan], out: Path, codec: str) -> tuple[float, float]:
    """Writes the records with `codec`; megabytes a record and seconds a record."""
    settings = shards.RecordSettings(
        spacing_mm=2.0,
        window_hu=(-1024.0, 1024.0),
        block=160,
        antialias=False,
        mu_water_per_mm=0.0206,
        scalar_ranges=ScalarRanges((3.0, 15.0), (6.0, 12.0)),
    )
    start = time.perf_counter()
    with mock.patch.object(shards, "WRITER_OPTIONS", f"group_size:1,{codec}"):
        info, _ = write_records(scans, out, settings, seed=0)
    records = info.counts["train"]["records"]
    size = sum(file["bytes"] for file in info.files.values())
    return size / records / 1e6, (time.perf_counter() - start) / records


def rates_of(folder: Path, workers: int, seconds: float) -> tuple[float, float | None]:
    """Median patches a second after a warm-up, and this process's CPU milliseconds a patch.

    Where other work shares the cores, cores * 1000 / CPU milliseconds bounds an idle machine.
    """
    rates = []
    batches = train_batches(folder, patch=PATCH, batch=BATCH, seed=0, workers=workers)
    with closing(batches):
        for _ in range(8):
            next(batches)
        end, cpu = time.perf_counter() + seconds, time.process_time()
        while time.perf_counter() < end:
            start = time.perf_counter()
            for batch in itertools.islice(batches, 8):
                assert batch["target_hu"].shape == (BATCH, PATCH, PATCH, PATCH)
            rates.append(8 * BATCH / (time.perf_counter() - start))
        cpu_ms = (time.process_time() - cpu) * 1000 / (8 * BATCH * len(rates))
    return statistics.median(rates), None if workers else round(cpu_ms, 1)


def measure(shape: tuple[int, int, int], codecs: list[str], seconds: float) -> list[dict]:
    """A row for each codec and number of worker processes."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scans = write_scans(Path(name), shape)
        for codec in codecs:
            out = Path(name) / codec.replace(":", "")
            megabytes, write_seconds = build(scans, out, codec)
            for workers in WORKERS:
                rate, cpu_ms = rates_of(out, workers, seconds)
                row = {
                    "shape_zyx": shape,
                    "codec": codec,
                    "workers": workers,
                    "record_mb": round(megabytes, 2),
                    "write_s": round(write_seconds, 3),
                    "patches_per_s": round(rate, 1),
                    "cpu_ms_per_patch": cpu_ms,
                }
                rows.append(row)
                print(" ".join(f"{value!s:>16}" for value in row.values()), flush=True)
    return rows


def origin() -> dict:
    """What the figures depend on beside the code."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=RESULT.parent.parent
    )
    packages = ("grain", "array-record", "numpy", "msgpack", "edm3d")
    return {
        "commit": commit.stdout.strip(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "patch": PATCH,
        "batch": BATCH,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each row")
    parser.add_argument("--codecs", nargs="+", default=list(CODECS))
    arguments = parser.parse_args()
    about = origin()
    columns = (
        "shape z y x",
        "codec",
        "workers",
        "MB/record",
        "write s/record",
        "patches/s",
        "CPU ms/patch",
    )
    print(" ".join(f"{name:>16}" for name in columns))
    rows = [row for s in SHAPES for row in measure(s, arguments.codecs, arguments.seconds)]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
