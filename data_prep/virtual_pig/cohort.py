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
class Session:
    """One stage and position of a pig, scanned without moving it: grid and place of every scan."""

    lattice: Lattice
    affine_lps: np.ndarray  # [4, 4], voxel (x, y, z) to scanner LPS mm


PlannedBreath = tuple[PlannedScan, Condition]


def make_pig(job: PigJob) -> tuple[list[dict], list[dict]]:
    """Writes all scans of a pig; returns their rows of scans.csv and of truth.csv."""
    pig = build_pig(job.seed, job.index, detail_mm=min(4.0, max(1.0, job.spacing_mm)))
    (job.folder / job.subject).mkdir(parents=True)
    scans, truths = [], []
    for name, group in groupby(_breaths(job, pig), key=lambda one: one[0].setting.session):
        planned = list(group)
        session = _session(job, pig, name, planned)
        for scan, condition in planned:
            row, truth = _write(job, pig, session, scan, condition)
            scans.append(row)
            truths.append(truth)
    return scans, truths


def _breaths(job: PigJob, pig: Pig) -> Iterator[PlannedBreath]:
    """Every planned scan with the mechanics of its setting, solved once for both phases."""
    planned = plan_scans(job.seed, job.index, job.scans)
    for setting, scans in groupby(planned, key=lambda scan: scan.setting):
        ventilator, prone = _delivered(job, pig, setting), setting.position == "prone"
        condition = ventilate(pig, setting.stage, ventilator, prone=prone)
        for scan in scans:
            yield scan, condition


def _session(job: PigJob, pig: Pig, name: str, planned: list[PlannedBreath]) -> Session:
    """The grid all scans of a session share, its origin at random on the table."""
    step = job.spacing_mm
    ratio = float(generator(job.seed, job.index, _PLACE).choice(SLICE_RATIOS))
    rng = generator(job.seed, job.index, _PLACE, *name.encode())
    bottom = min(_bottom_mm(scan, condition) for scan, condition in planned)
    lattice = scan_lattice(pig, bottom, (ratio * step, step, step), rng)
    offset = rng.uniform((-300, -20, -15), (300, 20, 15))
    return Session(lattice, lattice_affine(lattice, offset))


def _bottom_mm(planned: PlannedScan, condition: Condition) -> float:
    """Lowest point of the lungs in a scan."""
    return cavity_bottom_mm(scan_pose(lung_state(condition, planned.phase)))


def _delivered(job: PigJob, pig: Pig, setting: Setting) -> Ventilator:
    """The ventilator as it runs: about 3 % off the set tidal volume."""
    rng = generator(job.seed, job.index, _DELIVERY, *setting.name.encode())
    error = 1 + DELIVERY_SPREAD * float(np.clip(rng.standard_normal(), -2.5, 2.5))
    volume_ml = setting.tidal_volume_ml_kg * pig.traits.weight_kg * error
    return Ventilator(float(setting.peep_cmh2o), volume_ml)


def _write(
    job: PigJob, pig: Pig, session: Session, planned: PlannedScan, condition: Condition
) -> tuple[dict, dict]:
    """Writes CT and mask of one scan; returns its row of scans.csv and of truth.csv."""
    rng = generator(job.seed, job.index, _SCANNER, *planned.name.encode())
    lattice, affine = session.lattice, session.affine_lps
    scan = render(lung_state(condition, planned.phase), lattice)
    check_lungs_inside(scan, f"{job.subject} {planned.name}")
    axes = str(rng.choice(STORED_AXES))
    ct = f"{job.subject}/{planned.name}.nii.gz"
    mask = f"{job.subject}/{planned.name}-lungs.nii.gz"
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


def lattice_affine(lattice: Lattice, offset_zyx_mm: np.ndarray) -> np.ndarray:
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
