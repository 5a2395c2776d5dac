"""How many paired 128^3 patches a second the pipeline hands over on the host, by codec and reader.

    python benchmarks/pipeline.py

Nothing is put on a device: that costs 8.9 MB an example more. Prints a table and writes
benchmarks/results/pipeline.json. Records hold CT-like noise on a smooth body, which compresses like
a real scan with 18 HU of noise.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from unittest import mock

import numpy as np
from provenance import origin, write_result
from scipy import ndimage

from edm3d.data import shard_file, shards
from edm3d.data.cases import ScalarRanges
from edm3d.data.manifest import Scan, Ventilation
from edm3d.data.pipeline import train_batches
from edm3d.data.records import write_records
from edm3d.data.volumes import Grid, write_nifti

PATCH, BATCH = 128, 4
SHAPES = ((150, 136, 136), (160, 160, 160))
CODECS = ("uncompressed", "zstd:1", "zstd:3")
WORKERS = (0, 2)  # worker processes; 0 reads with threads
BURST = 10  # batches
SCANS = 5


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


def build(scans: list[Scan], out: Path, codec: str) -> dict:
    """Writes the records with `codec`; megabytes and seconds a record."""
    settings = shards.RecordSettings(
        spacing_mm=2.0,
        window_hu=(-1024.0, 1024.0),
        block=160,
        antialias=False,
        mu_water_per_mm=0.0206,
        scalar_ranges=ScalarRanges((3.0, 15.0), (6.0, 12.0)),
    )
    start = time.perf_counter()
    with mock.patch.object(shard_file, "WRITER_OPTIONS", f"group_size:1,{codec}"):
        info, _ = write_records(scans, out, settings, seed=0)
    seconds = time.perf_counter() - start
    records = info.counts["train"]["records"]
    size = sum(file["bytes"] for file in info.files.values())
    return {"record_mb": round(size / records / 1e6, 2), "write_s": round(seconds / records, 3)}


def burst(folder: Path, workers: int) -> tuple[float, float]:
    """Patches a second after a warm-up, and this process's CPU milliseconds a patch."""
    batches = train_batches(folder, patch=PATCH, batch=BATCH, seed=0, workers=workers)
    with closing(batches):
        for _ in range(8):
            next(batches)
        start, cpu = time.perf_counter(), time.process_time()
        for batch in itertools.islice(batches, BURST):
            assert batch["target_hu"].shape == (BATCH, PATCH, PATCH, PATCH)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return BURST * BATCH / seconds, 1000 * cpu / (BURST * BATCH)


def measure(shape: tuple[int, int, int], rounds: int) -> list[dict]:
    """A row for each codec and reader; rounds take turns, so that other load meets all alike."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scans = write_scans(Path(name), shape)
        for codec, workers in itertools.product(CODECS, WORKERS):
            out = Path(name) / codec.replace(":", "")
            if not out.exists():
                built = build(scans, out, codec)
            rows.append({"shape": shape, "codec": codec, "workers": workers, "out": out} | built)
        bursts = [[burst(row["out"], row["workers"]) for row in rows] for _ in range(rounds)]
    for index, row in enumerate(rows):
        rates, cpu_ms = zip(*(b[index] for b in bursts), strict=True)
        del row["out"]
        row["patches_per_s"] = round(statistics.median(rates), 1)
        row["best_patches_per_s"] = round(max(rates), 1)
        row["cpu_ms_per_patch"] = None if row["workers"] else round(min(cpu_ms), 1)
        print(" ".join(f"{value!s:>18}" for value in row.values()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="bursts of each row")
    rounds = parser.parse_args().rounds
    packages = ("grain", "array-record", "numpy", "msgpack", "edm3d")
    about = origin(packages) | {"patch": PATCH, "batch": BATCH}
    columns = ["shape z y x", "codec", "worker processes", "MB a record", "write s a record"]
    columns += ["patches/s median", "patches/s best", "CPU ms a patch"]
    print(" ".join(f"{name:>18}" for name in columns))
    rows = [row for shape in SHAPES for row in measure(shape, rounds)]
    write_result("pipeline", {**about, "rows": rows})


if __name__ == "__main__":
    main()
