"""The cohort of 3 pigs and 18 scans that tests share, and how to look at one."""

import csv
from pathlib import Path

from data_prep import make_virtual_cohort
from data_prep.virtual_pig.settings import CohortSettings

SMALL = CohortSettings(pigs=3, spacing_mm=8.0, seed=11, scans_per_pig=6, gas_maps=True)
SMALL_FLAGS = ["--pigs=3", "--spacing=8", "--seed=11", "--scans_per_pig=6", "--gas_maps"]
SCRIPT = Path(make_virtual_cohort.__file__)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }
