"""What stands against building records: settings, and scans by their rows and headers alone."""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from edm3d.data.cases import ScalarRanges
from edm3d.data.lung_masks import check_mask_grid
from edm3d.data.manifest import Scan
from edm3d.data.shards import RecordSettings
from edm3d.data.target_xray import read_film
from edm3d.data.volumes import read_grid
from edm3d.data.xray_geometry import check_geometry
from edm3d.errors import InputError


def check_settings(settings: RecordSettings) -> None:
    """Raises `InputError` for a setting that no records can be built with."""

    def rising(name: str, low_high: tuple[float, float]) -> None:
        low, high = low_high
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise InputError(f"{name} is {low_high}; give a low and a higher number")

    rising("window_hu", settings.window_hu)
    rising("scalar_ranges.peep_cmh2o", settings.scalar_ranges.peep_cmh2o)
    rising("scalar_ranges.tidal_volume_ml_kg", settings.scalar_ranges.tidal_volume_ml_kg)
    for name in ("spacing_mm", "mu_water_per_mm"):
        value = getattr(settings, name)
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give a positive number")
    if settings.block < 8:
        raise InputError(f"block is {settings.block}; give at least 8 voxels (160 is usual)")
    check_geometry(settings.geometry)


def range_faults(scan: Scan, ranges: ScalarRanges) -> Iterator[str]:
    """The settings of a scan's row that lie outside those of the config."""
    for field in dataclasses.fields(ranges):
        low, high = getattr(ranges, field.name)
        value = getattr(scan.ventilation, field.name)
        if not low <= value <= high:
            yield (
                f"row {scan.row}, column {field.name} is {value:g}; scalar_ranges of the config is "
                f"{low:g}..{high:g}: leave the scan out or widen the range"
            )


def _film_faults(scan: Scan) -> Iterator[str]:
    for view in ("pa", "lat"):
        try:
            read_film(scan, view)
        except InputError as error:
            yield f"row {scan.row}: {error}"


def _check_grids(scan: Scan) -> None:
    """Raises `InputError` for a CT or mask without a sound grid, or with two different ones.

    From headers alone; labels are looked at when the mask is read.
    """
    if scan.ct is None:  # a target of which only films exist, which has no mask either
        return
    grid = read_grid(scan.ct, series=scan.series)
    if scan.lung_mask is not None:
        check_mask_grid(scan.lung_mask, read_grid(scan.lung_mask), scan.ct, grid)


def check_scans(scans: Sequence[Scan], ranges: ScalarRanges) -> None:
    """Raises one `InputError` for all scans with bad settings, X-rays or headers."""
    faults = []
    for scan in scans:
        faults += [*range_faults(scan, ranges), *_film_faults(scan)]
        try:
            _check_grids(scan)
        except InputError as error:
            faults.append(f"row {scan.row}: {error}")
    if faults:
        raise InputError("\n".join(faults))
