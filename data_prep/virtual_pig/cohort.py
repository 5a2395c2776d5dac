"""Makes all scans of a pig and writes them; the unit of parallel work and of reproducibility."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from .ct import EXACT, Calibration, acquire, drifted
from .deformation import scan_pose
from .design import PlannedScan, Setting, plan_scans, scans_of_pigs, split_of_pigs
from .lattice import Lattice
from .mechanics import Ventilator
from .nifti import store, store_fraction
from .pig import Condition, Pig, build_pig, lung_state, ventilate
from .progress import Progress
from .render import Scan, render, scan_lattice
from .settings import GENERATOR_VERSION, CohortSettings
from .shape import cavity_bottom_mm
from .traits import generator
from .truth import breath_truth, gas_fraction, lung_truth

DELIVERY_SPREAD = 0.03  # delivered against set tidal volume
# A pig's grid over the nominal spacing, drawn once: never the working grid of the records itself.
IN_PLANE_RATIOS = (0.9375, 0.9765625, 1.0546875)  # 480, 500 and 540 mm over 256 x 2 mm
SLICE_RATIOS = (0.75, 0.9375)
STORED_AXES = ("LPS", "LPS", "RAS", "LAS", "PSL", "SPR")  # how files are laid out, drawn per scan
_PLACE, _DELIVERY, _SCANNER = 7, 8, 9


@dataclass(frozen=True)
class PigJob:
    """One pig to make: which, how many scans, where."""

    settings: CohortSettings
    index: int
    split: str
    scans: int
    progress: Progress

    @property
    def seed(self) -> int:
        return self.settings.seed

    @property
    def subject(self) -> str:
        return f"pig{self.index + 1:03d}"

    @property
    def planned(self) -> list[PlannedScan]:
        return plan_scans(self.seed, self.index, self.scans, self.settings.peep_cmh2o)

    def notes(self) -> list[dict | None]:
        """What was noted of each planned scan, None of those still to be made."""
        return [self.progress.note(self.subject, scan.name) for scan in self.planned]


def pig_jobs(settings: CohortSettings, progress: Progress) -> list[PigJob]:
    """A job for every pig of the cohort."""
    split = split_of_pigs(settings.seed, settings.pigs, settings.val_share)
    counts = scans_of_pigs(split, settings.scans_per_pig, settings.test_scans)
    return [
        PigJob(settings, index, name, count, progress)
        for index, (name, count) in enumerate(zip(split, counts, strict=True))
    ]


@dataclass(frozen=True)
class Session:
    """One stage and position of a pig, scanned without moving it: grid and place of every scan."""

    lattice: Lattice
    affine_lps: np.ndarray  # [4, 4], voxel (x, y, z) to scanner LPS mm


PlannedBreath = tuple[PlannedScan, Condition]


def make_pig(job: PigJob) -> None:
    """Makes every scan of a pig that is not made yet."""
    made = {scan.name for scan, note in zip(job.planned, job.notes(), strict=True) if note}
    if len(made) == job.scans:
        return
    # Painted finer than scanned: vessels and fissures are then blurred by the scanner alone.
    detail_mm = min(4.0, max(1.0, 0.75 * job.settings.spacing_mm))
    pig = build_pig(job.seed, job.index, detail_mm=detail_mm)
    for name, group in groupby(job.planned, key=lambda scan: scan.setting.session):
        scans = list(group)
        if all(scan.name in made for scan in scans):
            continue
        planned = list(_breaths(job, pig, scans))
        session = _session(job, pig, name, planned)
        for scan, condition in planned:
            if scan.name not in made:
                _make_scan(job, pig, session, scan, condition)


def _breaths(job: PigJob, pig: Pig, planned: list[PlannedScan]) -> Iterator[PlannedBreath]:
    """Every planned scan with the mechanics of its setting, solved once for both phases."""
    for setting, scans in groupby(planned, key=lambda scan: scan.setting):
        ventilator, prone = _delivered(job, pig, setting), setting.position == "prone"
        condition = ventilate(pig, setting.stage, ventilator, prone=prone)
        for scan in scans:
            yield scan, condition


def _session(job: PigJob, pig: Pig, name: str, planned: list[PlannedBreath]) -> Session:
    """The grid all scans of a session share, its origin at random on the table."""
    spacing = _spacing_zyx_mm(job)
    rng = generator(job.seed, job.index, _PLACE, *name.encode())
    bottom = min(_bottom_mm(scan, condition) for scan, condition in planned)
    lattice = scan_lattice(pig, bottom, spacing, rng)
    offset = rng.uniform((-300, -20, -15), (300, 20, 15))
    return Session(lattice, lattice_affine(lattice, offset))


def _spacing_zyx_mm(job: PigJob) -> tuple[float, float, float]:
    """The voxels of all scans of a pig: square in plane, near the nominal spacing."""
    rng, nominal = generator(job.seed, job.index, _PLACE), job.settings.spacing_mm
    slices = nominal * float(rng.choice(SLICE_RATIOS))
    in_plane = nominal * float(rng.choice(IN_PLANE_RATIOS))
    return slices, in_plane, in_plane


def _bottom_mm(planned: PlannedScan, condition: Condition) -> float:
    """Lowest point of the lungs in a scan."""
    return cavity_bottom_mm(scan_pose(lung_state(condition, planned.phase)))


def _delivered(job: PigJob, pig: Pig, setting: Setting) -> Ventilator:
    """The ventilator as it runs: about 3 % off the set tidal volume."""
    rng = generator(job.seed, job.index, _DELIVERY, *setting.name.encode())
    error = 1 + DELIVERY_SPREAD * float(np.clip(rng.standard_normal(), -2.5, 2.5))
    volume_ml = setting.tidal_volume_ml_kg * pig.traits.weight_kg * error
    return Ventilator(float(setting.peep_cmh2o), volume_ml)


def _make_scan(
    job: PigJob, pig: Pig, session: Session, planned: PlannedScan, condition: Condition
) -> None:
    """Writes the files of one scan and notes its row of scans.csv and of truth.csv."""
    rng = generator(job.seed, job.index, _SCANNER, *planned.name.encode())
    axes = str(rng.choice(STORED_AXES))
    calibration = drifted(rng) if job.settings.noise else EXACT
    scan = render(lung_state(condition, planned.phase), session.lattice)
    check_lungs_inside(scan, f"{job.subject} {planned.name}")
    hu = acquire(
        scan.hu,
        session.lattice,
        rng if job.settings.noise else None,
        dose=job.settings.dose,
        calibration=calibration,
    )
    files = _write_files(job, session, planned.name, axes, scan, hu)
    named = {"subject": job.subject, "scan": planned.name}
    truth = _truth_row(job, pig, planned, condition, scan, calibration)
    note = {
        "scan": named | _manifest_row(job, pig, planned) | files,
        "truth": named | truth,
    }
    job.progress.finish_scan(job.subject, planned.name, note)


def _write_files(
    job: PigJob, session: Session, name: str, axes: str, scan: Scan, hu: np.ndarray
) -> dict[str, str]:
    """Writes CT, mask and, where asked for, `NAME-gas.nii.gz`; the files the manifest names."""
    base, affine = f"{job.subject}/{name}", session.affine_lps
    files = {"ct": f"{base}.nii.gz", "lung_mask": f"{base}-lungs.nii.gz"}
    write = job.progress.write
    write(files["ct"], lambda path: store(path, hu, affine, axes))
    write(files["lung_mask"], lambda path: store(path, scan.labels, affine, axes))
    if job.settings.gas_maps:
        gas = gas_fraction(scan)
        write(f"{base}-gas.nii.gz", lambda path: store_fraction(path, gas, affine, axes))
    return files


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


def _truth_row(
    job: PigJob,
    pig: Pig,
    planned: PlannedScan,
    condition: Condition,
    scan: Scan,
    calibration: Calibration,
) -> dict:
    kg = pig.traits.weight_kg
    numbers = (
        lung_truth(scan)
        | {
            "lung_weight_g": condition.elements.mass_g,
            "lung_weight_g_kg": condition.elements.mass_g / kg,
            "healthy_lung_weight_g": pig.traits.healthy_lung_g,
            "effusion_ml": scan.effusion_ml,
            "tidal_volume_set_ml": planned.setting.tidal_volume_ml_kg * kg,
        }
        | breath_truth(condition.breath, planned.phase, kg)
        | {
            "severity": pig.traits.severity,
            "inflation_q": scan.inflation.pose.q,
            "mass_correction": scan.mass_correction,
            "water_reads_hu": calibration.water_hu,
            "air_reads_off_hu": calibration.air_hu,
        }
    )
    shown = {
        name: f"{value:.5g}" if abs(value) < 1 else f"{value:.3f}"
        for name, value in numbers.items()
    }
    return shown | {"seed": job.seed, "generator_version": GENERATOR_VERSION}


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
