"""How near the virtual pigs' CT comes to real CT: densities, noise, its spectrum, edges.

    python benchmarks/realism.py --cohort=COHORT --real=FOLDER

COHORT is a folder of data_prep/make_virtual_cohort.py, FOLDER one of real chest CT in NIfTI. Both
go through the same operators: classical lung masks, a body mask, windows of homogeneous soft
tissue. Prints a table, writes benchmarks/results/realism.json and realism.png. Shape key: volumes
`[z, y, x]` in HU.
"""

import argparse
import csv
import itertools
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from provenance import RESULTS, origin, write_result
from scipy import ndimage

from edm3d.data.volumes import Volume, read_ct, resample, working_grid
from edm3d.segmentation import classical_lungs

WINDOW_MM = 24.0  # side of a window of soft tissue
TISSUE_HU = (-20.0, 90.0)  # mean of a window that counts
QUIETEST = 0.15  # share of windows taken as homogeneous
HISTOGRAM_HU = np.arange(-1024.0, 512.0, 16.0)
GRADIENT_HU_MM = np.linspace(0.0, 150.0, 101)
FREQUENCY_PER_MM = np.linspace(0.0, 0.48, 13)  # rings as wide as a window can tell apart
SPACING_MM = 2.0


@dataclass(frozen=True)
class Statistics:
    """What is compared, of one CT; curves are densities that integrate or sum to 1."""

    name: str
    kind: str  # real or virtual
    noise_hu: float
    noise_frequency_per_mm: float  # mean over the in-plane noise power
    lung_mean_hu: float
    lung_percentiles_hu: list[float]  # 5, 50, 95
    lung_gradient_hu_mm: float  # median
    body_gradient_hu_mm: float
    body_muscle_share: float  # of the body's voxels: 20 to 100 HU
    body_150_to_250_share: float
    body_above_250_share: float
    lung_histogram: list[float]
    body_histogram: list[float]
    gradient_histogram: list[float]
    noise_spectrum: list[float]


def describe(name: str, kind: str, ct: Volume) -> Statistics:
    """All statistics of one CT; densities and edges on 2 mm voxels, noise on its own."""
    grid = working_grid(ct.grid, SPACING_MM)
    hu = resample(ct, grid, antialias=True)
    lungs = classical_lungs(hu, SPACING_MM) > 0
    body = body_mask(hu)
    gradient = np.sqrt(sum(g**2 for g in np.gradient(hu, SPACING_MM)))
    inner = ndimage.binary_erosion(lungs, iterations=3)
    noise, spectrum = noise_of(ct)
    return Statistics(
        name=name,
        kind=kind,
        noise_hu=noise,
        noise_frequency_per_mm=mean_frequency(spectrum),
        lung_mean_hu=float(hu[lungs].mean()),
        lung_percentiles_hu=np.percentile(hu[lungs], (5, 50, 95)).round(1).tolist(),
        lung_gradient_hu_mm=float(np.median(gradient[inner])),
        body_gradient_hu_mm=float(np.median(gradient[body & ~lungs])),
        body_muscle_share=share_between(hu[body], 20, 100),
        body_150_to_250_share=share_between(hu[body], 150, 250),
        body_above_250_share=share_between(hu[body], 250, np.inf),
        lung_histogram=share(hu[lungs], HISTOGRAM_HU),
        body_histogram=share(hu[body], HISTOGRAM_HU),
        gradient_histogram=share(gradient[inner], GRADIENT_HU_MM),
        noise_spectrum=spectrum.round(5).tolist(),
    )


def mean_frequency(density: np.ndarray) -> float:
    """1/mm, of the power density by ring; a ring's power is its density times its area."""
    middle = centres(FREQUENCY_PER_MM)  # rings are equally wide: area goes with frequency
    return float(np.sum(density * middle**2) / np.sum(density * middle))


def share_between(values: np.ndarray, low: float, high: float) -> float:
    return round(float(np.mean((values >= low) & (values < high))), 5)


def body_mask(hu: np.ndarray) -> np.ndarray:
    """The largest piece denser than air, opened so that a couch falls off, holes filled."""
    piece = ndimage.binary_opening(hu > -500, iterations=4)
    labels, count = ndimage.label(piece)
    largest = labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]) if count else piece
    return np.stack([ndimage.binary_fill_holes(level) for level in largest])


def noise_of(ct: Volume) -> tuple[float, np.ndarray]:
    """SD in HU of homogeneous soft tissue, and its in-plane power density by ring (sums to 1)."""
    windows = soft_tissue_windows(ct)
    deviations = [w.std() for w in windows]
    quiet = np.argsort(deviations)[: max(int(QUIETEST * len(windows)), 8)]
    _, dy, dx = ct.grid.spacing_zyx_mm
    rows, columns = windows[0].shape
    frequency = np.hypot(
        *np.meshgrid(np.fft.fftfreq(rows, dy), np.fft.fftfreq(columns, dx), indexing="ij")
    )
    taper = np.outer(np.hanning(rows), np.hanning(columns))
    power = np.mean([np.abs(np.fft.fft2(windows[k] * taper)) ** 2 for k in quiet], axis=0)
    which = np.digitize(frequency.ravel(), FREQUENCY_PER_MM) - 1
    bins = len(FREQUENCY_PER_MM) - 1
    inside = which < bins
    total = np.bincount(which[inside], power.ravel()[inside], minlength=bins)
    density = total / np.maximum(np.bincount(which[inside], minlength=bins), 1)
    return float(np.mean([deviations[k] for k in quiet])), density / density.sum()


def soft_tissue_windows(ct: Volume) -> list[np.ndarray]:
    """Windows of soft tissue in axial slices, each less its plane of best fit."""
    _, dy, dx = ct.grid.spacing_zyx_mm
    ny, nx = round(WINDOW_MM / dy), round(WINDOW_MM / dx)
    y, x = np.mgrid[:ny, :nx]
    plane = np.stack([np.ones(ny * nx), y.ravel(), x.ravel()], axis=1)
    windows = []
    _, rows, columns = ct.values.shape
    corners = itertools.product(range(0, rows - ny, ny // 2), range(0, columns - nx, nx // 2))
    for (j, i), level in itertools.product(corners, ct.values[:: max(len(ct.values) // 40, 1)]):
        window = level[j : j + ny, i : i + nx]
        if TISSUE_HU[0] < window.mean() < TISSUE_HU[1] and window.min() > -150:
            flat, *_ = np.linalg.lstsq(plane, window.ravel(), rcond=None)
            windows.append(window - (plane @ flat).reshape(window.shape))
    if len(windows) < 8:
        raise SystemExit(f"error: only {len(windows)} windows of soft tissue were found; need 8")
    return windows


def share(values: np.ndarray, edges: np.ndarray) -> list[float]:
    """Share of the values in each bin; what lies outside counts for the ends."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1] - 1e-3), edges)
    return (counts / max(counts.sum(), 1)).round(5).tolist()


def centres(edges: np.ndarray) -> np.ndarray:
    return (edges[1:] + edges[:-1]) / 2


def virtual_scans(cohort: Path, count: int) -> list[tuple[str, Path]]:
    """Scans of different pigs, taking stage and position in turn.

    Of each stage and position the first is the least inflated of its pig, the second the most, and
    so on: both ends of PEEP and both phases come up.
    """
    with (cohort / "scans.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=inflation)
    chosen: list[tuple[str, Path]] = []
    wanted = itertools.cycle(itertools.product(("early", "stabilised"), ("supine", "prone")))
    used: set[str] = set()
    for turn, (stage, position) in enumerate(itertools.islice(wanted, 4 * count)):
        free = [r for r in rows if (r["stage"], r["position"]) == (stage, position)]
        free = [r for r in free if r["scan"] + r["subject"] not in used]
        if free and len(chosen) < count:
            fewest = min(seen(used, r) for r in free)
            least_seen = [r for r in free if seen(used, r) == fewest]
            own = [r for r in least_seen if r["subject"] == min(r["subject"] for r in least_seen)]
            new = own[-(turn // 4 % 2)]
            used.add(new["scan"] + new["subject"])
            chosen.append((f"{new['subject']} {new['scan']}", cohort / new["ct"]))
    return chosen


def inflation(row: dict[str, str]) -> tuple[float, bool, float]:
    """Orders a pig's scans by PEEP, then phase, then tidal volume."""
    phase = row["phase"] == "inspiration"
    return float(row["peep_cmh2o"]), phase, float(row["tidal_volume_ml_kg"])


def seen(used: set[str], row: dict[str, str]) -> int:
    """Chosen scans of the row's pig."""
    return sum(scan.endswith(row["subject"]) for scan in used)


def draw(found: list[Statistics], path: Path) -> None:
    """Overlays the four curves of all CTs."""
    panels = (
        ("lung_histogram", centres(HISTOGRAM_HU), "HU in the lung (classical masks)"),
        ("body_histogram", centres(HISTOGRAM_HU), "HU in the body"),
        ("gradient_histogram", centres(GRADIENT_HU_MM), "gradient inside the lung, HU/mm"),
        (
            "noise_spectrum",
            centres(FREQUENCY_PER_MM),
            "in-plane noise power density by frequency, 1/mm",
        ),
    )
    figure, axes = plt.subplots(2, 2, figsize=(12, 8), layout="constrained")
    for axis, (name, x, title) in zip(axes.ravel(), panels, strict=True):
        for kind, color in (("virtual", "tab:blue"), ("real", "tab:red")):
            for n, one in enumerate(s for s in found if s.kind == kind):
                label = f"{kind} CT" if n == 0 else None
                axis.plot(x, getattr(one, name), color=color, alpha=0.6, lw=1.1, label=label)
        axis.set(title=title, ylabel="share")
        axis.grid(alpha=0.3)
    axes[0, 1].set_yscale("log")
    axes[0, 0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--real", type=Path, required=True)
    parser.add_argument("--scans", type=int, default=8, help="virtual scans to compare")
    arguments = parser.parse_args()
    sources = [("virtual", *scan) for scan in virtual_scans(arguments.cohort, arguments.scans)]
    sources += [("real", str(p.relative_to(arguments.real)), p) for p in real_scans(arguments.real)]
    found = []
    for kind, name, path in sources:
        found.append(one := describe(name, kind, read_ct(path)))
        print(
            f"{kind:>8} {name:<48} noise {one.noise_hu:5.1f} HU at {one.noise_frequency_per_mm:.3f}"
            f" /mm, lung {one.lung_mean_hu:6.0f} HU {one.lung_percentiles_hu}, gradient lung"
            f" {one.lung_gradient_hu_mm:5.1f} body {one.body_gradient_hu_mm:5.1f} HU/mm, body"
            f" 20-100 HU {one.body_muscle_share:.1%}, 150-250 HU {one.body_150_to_250_share:.2%},"
            f" above {one.body_above_250_share:.2%}",
            flush=True,
        )
    draw(found, RESULTS / "realism.png")
    content = {"spacing_mm": SPACING_MM, "scans": [vars(one) for one in found]}
    print(write_result("realism", origin(("numpy", "scipy", "edm3d")) | content))


def real_scans(folder: Path) -> list[Path]:
    """The whole chests among the real CTs: those with two lungs in the field of view."""
    names = (
        "popi_phase00_2mm/ct_phase00.nii.gz",
        "lungdx_A0001/ct_kernelB.nii.gz",
        "lungdx_A0001/ct_kernelL.nii.gz",
        "4dlung_P113_phase40/ct.nii.gz",
    )
    paths = [folder / name for name in names if (folder / name).is_file()]
    if not paths:
        raise SystemExit(f"error: --real is {folder}, which has none of {', '.join(names)}")
    return paths


if __name__ == "__main__":
    main()
