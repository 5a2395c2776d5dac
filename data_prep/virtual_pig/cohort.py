"""Makes all scans of a pig and writes them; the unit of parallel work and of reproducibility."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from .ct import acquire
from .deformation import scan_pose
from .design import PlannedScan, Setting, plan_scans
from .lattice import Lattice
from .mechanics import Ventilator
from .nifti import store
from .pig import Condition, Pig, build_pig, lung_state, ventilate
from .render import Scan, render, scan_lattice
from .shape import cavity_bottom_mm
from .traits import generator
from .truth import breath_truth, lung_truth

DELIVERY_SPREAD = 0.03  # delivered against set tidal volume
SLICE_RATIOS = (0.75, 0.9375)  # slice spacing over in-plane spacing
STORED_AXES = ("LPS", "LPS", "RAS", "LAS", "PSL", "SPR")  # how files are laid out, drawn per scan
_PLACE, _DELIVERY, _SCANNER = 7, 8, 9


@dataclass(frozen=True)
class PigJob:
    """One pig to make: where, how fine, how many scans."""

    folder: Path
    seed: int
    index: int
    split: str
    scans: int
    spacing_mm: float

    @property
    def subject(self) -> str:
        return f"pig{self.index + 1:03d}"


@dataclass(frozen=True)
class Placement:
    """How a pig lies in the scanner: voxel size and the offset of its frame, mm."""

    spacing_zyx_mm: tuple[float, float, float]
    offset_zyx_mm: tuple[float, float, float]


def place(job: PigJob) -> Placement:
    """Voxel size and scanner offset of a pig, the same in all its scans."""
    rng = generator(job.seed, job.index, _PLACE)
    step = job.spacing_mm
    z, y, x = (float(v) for v in rng.uniform((-300, -20, -15), (300, 20, 15)))
    return Placement((step * float(rng.choice(SLICE_RATIOS)), step, step), (z, y, x))


def make_pig(job: PigJob) -> tuple[list[dict], list[dict]]:
    """Writes all scans of a pig; returns their rows of scans.csv and of truth.csv."""
    pig = build_pig(job.seed, job.index, detail_mm=min(4.0, max(1.0, job.spacing_mm)))
    (job.folder / job.subject).mkdir(parents=True)
    planned = list(_scans(job, pig))
    bottom = min(_bottom_mm(*scan) for scan in planned)
    made = [_write(job, pig, bottom, *scan) for scan in planned]
    scans, truths = zip(*made, strict=True)
    return list(scans), list(truths)


def _scans(job: PigJob, pig: Pig) -> Iterator[tuple[PlannedScan, Condition]]:
    planned = plan_scans(job.seed, job.index, job.scans)
    for setting, scans in groupby(planned, key=lambda scan: scan.setting):
        condition = ventilate(
            pig, setting.stage, _delivered(job, pig, setting), prone=setting.position == "prone"
        )
        for scan in scans:
            yield scan, condition


def _bottom_mm(planned: PlannedScan, condition: Condition) -> float:
    """Lowest point of the lungs in a scan."""
    return cavity_bottom_mm(scan_pose(lung_state(condition, planned.phase)))


def _key(scan: Setting | PlannedScan) -> list[int]:
    """Whole numbers that name a setting or scan, for its generator."""
    return list(repr(scan).encode())


def _delivered(job: PigJob, pig: Pig, setting: Setting) -> Ventilator:
    """The ventilator as it runs: about 3 % off the set tidal volume."""
    rng = generator(job.seed, job.index, _DELIVERY, *_key(setting))
    error = 1 + DELIVERY_SPREAD * float(np.clip(rng.standard_normal(), -2.5, 2.5))
    volume_ml = setting.tidal_volume_ml_kg * pig.traits.weight_kg * error
    return Ventilator(float(setting.peep_cmh2o), volume_ml)


def _write(
    job: PigJob, pig: Pig, bottom_mm: float, planned: PlannedScan, condition: Condition
) -> tuple[dict, dict]:
    rng = generator(job.seed, job.index, _SCANNER, *_key(planned))
    placement = place(job)
    lattice = scan_lattice(pig, bottom_mm, placement.spacing_zyx_mm, rng)
    scan = render(lung_state(condition, planned.phase), lattice)
    check_lungs_inside(scan, f"{job.subject} {planned.name}")
    axes = str(rng.choice(STORED_AXES))
    ct = f"{job.subject}/{planned.name}.nii.gz"
    mask = f"{job.subject}/{planned.name}-lungs.nii.gz"
    affine = lattice_affine(lattice, placement.offset_zyx_mm)
    store(job.folder / ct, acquire(scan.hu, lattice, rng), affine, axes)
    store(job.folder / mask, scan.labels, affine, axes)
    named = {"subject": job.subject, "scan": planned.name}
    return (
        named | _manifest_row(job, pig, planned) | {"ct": ct, "lung_mask": mask},
        named | _truth_row(pig, planned.setting, condition, scan),
    )


def _manifest_row(job: PigJob, pig: Pig, planned: PlannedScan) -> dict:
    s = planned.setting
    return {
        "stage": s.stage,
        "position": s.position,
        "phase": planned.phase,
        "peep_cmh2o": s.peep_cmh2o,
        "tidal_volume_ml_kg": s.tidal_volume_ml_kg,
        "weight_kg": round(pig.traits.weight_kg, 2),
        "split": job.split,
    }


def _truth_row(pig: Pig, setting: Setting, condition: Condition, scan: Scan) -> dict:
    kg = pig.traits.weight_kg
    numbers = (
        lung_truth(scan)
        | {"tidal_volume_set_ml": setting.tidal_volume_ml_kg * kg}
        | breath_truth(condition.breath, kg)
        | {
            "severity": pig.traits.severity,
            "inflation_q": scan.inflation.pose.q,
            "mass_correction": scan.mass_correction,
        }
    )
    return {
        name: f"{value:.5g}" if abs(value) < 1 else f"{value:.3f}"
        for name, value in numbers.items()
    }


def lattice_affine(lattice: Lattice, offset_zyx_mm: tuple[float, float, float]) -> np.ndarray:
    """`[4, 4]` from voxel (x, y, z) to LPS mm."""
    affine = np.diag([*lattice.spacing_zyx_mm[::-1], 1.0])
    affine[:3, 3] = np.add(lattice.first_zyx_mm, offset_zyx_mm)[::-1]
    return affine


def check_lungs_inside(scan: Scan, name: str) -> None:
    """Stops on a field of view that cuts a lung: that would be a fault of this program."""
    for axis in range(3):
        for side in (0, -1):
            if scan.lung_cover.take(side, axis).any():
                raise RuntimeError(f"{name}: the field of view cuts the lung")
