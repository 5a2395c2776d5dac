"""What a user may choose about a cohort, and the two presets."""

import math
from dataclasses import asdict, dataclass, replace

from .design import CORE_PEEP, core_scans, most_scans

GENERATOR_VERSION = 3  # raise it whenever the same settings give other scans
HIGHEST_PEEP_CMH2O = 25
_BYTES_PER_VOXEL = 2.0  # of a gzipped CT with its mask, in nominal voxels of the field
_GAS_MAP_SHARE = 0.15  # of that
_FIELD_MM3 = 240.0**3


@dataclass(frozen=True)
class CohortSettings:
    """Everything that decides the bytes of a cohort."""

    preset: str | None = None
    pigs: int = 12
    spacing_mm: float = 2.0  # nominal; a pig's own grid is up to 7 % off in plane
    seed: int = 0
    scans_per_pig: float = 20  # mean over training and validation pigs
    test_scans_per_pig: float | None = None  # mean over test pigs; None: the same
    val_share: float = 0.1
    peep_cmh2o: tuple[int, ...] = CORE_PEEP
    noise: bool = True
    dose: float = 1.0
    gas_maps: bool = False

    @property
    def test_scans(self) -> float:
        return self.scans_per_pig if self.test_scans_per_pig is None else self.test_scans_per_pig

    def changed(self, **values) -> "CohortSettings":
        """With `values` that are not None; a number of scans then holds for all pigs."""
        given = {name: value for name, value in values.items() if value is not None}
        if "scans_per_pig" in given:
            given["test_scans_per_pig"] = None
        return replace(self, **given)

    def as_json(self) -> dict:
        """The settings and the generator's version: two cohorts with equal ones are equal."""
        values = asdict(self) | {"peep_cmh2o": list(self.peep_cmh2o)}
        return {"generator": "edm3d virtual_pig", "generator_version": GENERATOR_VERSION} | values

    def expected_bytes(self, scans: int) -> float:
        """About the size of `scans` scans on disk."""
        maps = _GAS_MAP_SHARE if self.gas_maps else 0.0
        return scans * (1 + maps) * _BYTES_PER_VOXEL * _FIELD_MM3 / self.spacing_mm**3


# The paper: 701 scans of 40 pigs for training, 280 of 10 for testing, 2 mm. Two of the 40 are
# validation pigs here (BUILD_NOTES.md).
PRESETS = {
    "paper": CohortSettings(
        preset="paper", pigs=50, scans_per_pig=17.525, test_scans_per_pig=28, val_share=0.04
    ),
    "small": CohortSettings(preset="small", pigs=12, scans_per_pig=12, spacing_mm=4.0),
}


def faults(settings: CohortSettings) -> list[str]:
    """A line for every number that cannot be used."""
    s, lines = settings, []
    if s.pigs < 3:
        lines.append(f"--pigs is {s.pigs}; use at least 3 (train, val and test need one each)")
    if not 0.5 <= s.spacing_mm <= 10:
        lines.append(f"--spacing is {s.spacing_mm:g} mm; use 0.5 to 10")
    if s.seed < 0:
        lines.append(f"--seed is {s.seed}; use 0 or more")
    if not (s.dose > 0 and math.isfinite(s.dose)):
        lines.append(f"--dose is {s.dose:g}; use a number above 0 (1 is the usual dose)")
    return lines + (_peep_faults(s.peep_cmh2o) or _scan_faults(s))


def _peep_faults(peep: tuple[int, ...]) -> list[str]:
    shown = ",".join(map(str, peep))
    if not peep or len(set(peep)) < len(peep):
        return [f"--peep is {shown or 'empty'}; use different numbers such as 3,8,13"]
    if not all(0 <= p <= HIGHEST_PEEP_CMH2O for p in peep):
        return [f"--peep is {shown} cmH2O; use 0 to {HIGHEST_PEEP_CMH2O}"]
    return []


def _scan_faults(s: CohortSettings) -> list[str]:
    least, most = core_scans(s.peep_cmh2o), most_scans(s.peep_cmh2o)
    return [
        f"--scans_per_pig is {count:g}; use {least} to {most}"
        for count in sorted({s.scans_per_pig, s.test_scans})
        if not least <= count <= most
    ]
