"""Writing one group of comparable scans to its shards: read, resample, project, cut, encode.

A group is the scans of one subject, stage and position. Every scan of it is read and resampled once
for each distinct working grid, however many pairs it is in. Read next: `edm3d.data.shard_file` (how
a file is written), `edm3d.data.records`.
"""

import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edm3d.data.cases import Case, ScalarRanges
from edm3d.data.lung_masks import labels_on, read_lung_mask
from edm3d.data.manifest import Pair, Scan, split_of_pair
from edm3d.data.projection import xrays
from edm3d.data.shard_file import Shard, ShardSummary, disk_faults
from edm3d.data.target_xray import target_xray
from edm3d.data.volumes import (
    Grid,
    Volume,
    coverage,
    read_ct,
    read_grid,
    resample,
    same_grid,
    working_grid,
)
from edm3d.data.xray_geometry import Bedside, Cone, Geometry
from edm3d.errors import InputError

LEAST_COVERAGE = 0.5  # of the prior's volume by the target; the rest trains as body turned to air


@dataclass(frozen=True)
class RecordSettings:
    """How pairs become records; `config.data` has these fields."""

    spacing_mm: float
    window_hu: tuple[float, float]
    block: int
    antialias: bool
    mu_water_per_mm: float
    scalar_ranges: ScalarRanges
    cone: Cone | None = None
    bedside: Bedside | None = None

    @property
    def geometry(self) -> Geometry:
        return Geometry(self.mu_water_per_mm, self.cone, self.bedside)


@dataclass(frozen=True)
class Group:
    """The comparable scans, their working grids, and the shard that takes each split's pairs."""

    scans: tuple[Scan, ...]
    shard_of_split: dict[str, str]

    @property
    def name(self) -> str:
        first = self.scans[0]
        return f"{first.subject}__{first.stage}__{first.position}"

    @property
    def pairs(self) -> int:
        """How many pairs the shards take."""
        return sum(1 for pair in itertools.permutations(self.scans, 2) if split_of_pair(pair))


@dataclass(frozen=True, eq=False)
class OnGrid:
    """A scan on a working grid: int16 HU, clean X-rays, its lung mask, the share it covers."""

    hu: np.ndarray
    xray_pa: np.ndarray
    xray_lat: np.ndarray
    lung_mask: np.ndarray | None
    covered: float


def _to_grid(scan: Scan, ct: Volume, grid: Grid, settings: RecordSettings) -> OnGrid:
    hu = np.rint(resample(ct, grid, antialias=settings.antialias)).astype(np.int16)
    covered, ct_grid = coverage(ct.grid, grid), ct.grid
    del ct  # the largest array: gone before a mask as large is read
    pa, lat = xrays(hu, settings.geometry, spacing_mm=settings.spacing_mm)
    labels = None
    if scan.ct is not None and scan.lung_mask is not None:
        mask = read_lung_mask(scan.lung_mask, scan.ct, ct_grid)
        labels = labels_on(mask, grid, antialias=settings.antialias)
    return OnGrid(hu, pa, lat, labels, covered)


def read_on_grid(scan: Scan, grid: Grid, settings: RecordSettings) -> OnGrid:
    """The scan, which has a CT, as it lies on a working grid."""
    assert scan.ct is not None
    return _to_grid(scan, read_ct(scan.ct, series=scan.series), grid, settings)


def _priors_by_grid(scans: Sequence[Scan], spacing_mm: float) -> list[tuple[Grid, list[Scan]]]:
    """The distinct working grids of the scans with a CT, each with the scans that live on it."""
    found: list[tuple[Grid, list[Scan]]] = []
    for scan in scans:
        if scan.ct is None:
            continue
        grid = working_grid(read_grid(scan.ct, series=scan.series), spacing_mm)
        for known, members in found:
            if same_grid(known, grid):
                members.append(scan)
                break
        else:
            found.append((grid, [scan]))
    return found


def _check_masks(pair: Pair, prior: OnGrid, target: OnGrid | None, spacing_mm: float) -> None:
    """Raises `InputError` where the lung of either scan is not on the prior's grid."""
    for scan, placed in zip(pair, (prior, target), strict=True):
        if placed and placed.lung_mask is not None and not placed.lung_mask.any():
            raise InputError(
                f"lung mask {scan.lung_mask} leaves no voxel of {spacing_mm:g} mm on the grid of "
                f"{pair[0].ct}; give a mask of the whole lungs"
            )


def whole_case(
    pair: Pair, prior: OnGrid, target: OnGrid | None, grid: Grid, settings: RecordSettings
) -> Case:
    """The case of a pair whose scans lie on `grid`, the prior's working grid.

    `target` is None where the target scan has films only: then the case has no target volume.
    """
    first, second = pair
    if target is not None:
        _check_coverage(pair, target.covered)
    _check_masks(pair, prior, target, settings.spacing_mm)
    case_id = f"{first.subject}__{first.scan}__{second.scan}"
    seen = functools.partial(
        target_xray,
        scan=second,
        target_hu=target and target.hu,
        geometry=settings.geometry,
        spacing_mm=settings.spacing_mm,
        case_id=case_id,
    )
    pa, pa_fit = seen("pa", clean=target and target.xray_pa, prior=prior.xray_pa)
    lat, lat_fit = seen("lat", clean=target and target.xray_lat, prior=prior.xray_lat)
    return Case(
        case_id=case_id,
        subject=first.subject,
        prior_scan=first.scan,
        target_scan=second.scan,
        stage=first.stage,
        position=first.position,
        prior_ventilation=first.ventilation,
        target_ventilation=second.ventilation,
        prior_hu=prior.hu,
        target_hu=target and target.hu,
        xray_pa=pa,
        xray_lat=lat,
        prior_xray_pa=prior.xray_pa,
        prior_xray_lat=prior.xray_lat,
        affine_lps=grid.affine_lps,
        volume_shape_zyx=grid.shape_zyx,
        prior_lung_mask=prior.lung_mask,
        target_lung_mask=target and target.lung_mask,
        film_fits={v: f.to_plain() for v, f in (("pa", pa_fit), ("lat", lat_fit)) if f},
    )


def _check_coverage(pair: Pair, covered: float) -> None:
    """Raises `InputError` where the target's CT shows too little of the prior's volume."""
    first, second = pair
    if covered == 0:
        raise InputError(
            f"{second.ct} does not overlap {first.ct} in scanner coordinates; pair only scans of "
            "one frame, or register them first"
        )
    if covered < LEAST_COVERAGE:
        raise InputError(
            f"{second.ct} covers {covered:.0%} of {first.ct} in scanner coordinates; pair "
            f"only scans that share {LEAST_COVERAGE:.0%} of the prior or more"
        )


class _Shelf:
    """Scans on one grid, kept on disk: a group's size does not show in its worker's memory."""

    def __init__(self, folder: Path):
        self.folder = folder

    def put(self, scan: Scan, on_grid: OnGrid) -> None:
        fields = {f.name: getattr(on_grid, f.name) for f in dataclasses.fields(on_grid)}
        path = self.folder / f"{scan.scan}.npz"
        with disk_faults(path):
            np.savez(path, **{name: v for name, v in fields.items() if v is not None})

    def get(self, scan: Scan) -> OnGrid:
        with np.load(self.folder / f"{scan.scan}.npz") as stored:
            found = {name: stored[name] for name in stored.files}
        missing = {f.name: None for f in dataclasses.fields(OnGrid) if f.name not in found}
        return OnGrid(**missing, **{k: v if v.ndim else v.item() for k, v in found.items()})


def write_group(group: Group, settings: RecordSettings, folder: Path) -> list[ShardSummary]:
    """Writes `folder/SPLIT.array_record`; every scan is read once for each distinct grid."""
    shards = {
        split: Shard(
            folder / f"{split}.array_record",
            split,
            block=settings.block,
            window_hu=settings.window_hu,
        )
        for split in group.shard_of_split
    }
    for grid, priors in _priors_by_grid(group.scans, settings.spacing_mm):
        with tempfile.TemporaryDirectory(dir=folder) as name:
            _add_pairs(group.scans, grid, priors, settings, shards, _Shelf(Path(name)))
    return [shard.close() for shard in shards.values()]


def _add_pairs(
    scans: Sequence[Scan],
    grid: Grid,
    priors: Sequence[Scan],
    settings: RecordSettings,
    shards: dict[str, Shard],
    shelf: _Shelf,
) -> None:
    """Adds all pairs of `priors`, which live on `grid`, to the shards of their splits."""
    pairs = [(p, t) for p, t in itertools.product(priors, scans) if p is not t]
    pairs = [(pair, split) for pair in pairs if (split := split_of_pair(pair))]
    wanted = {scan for pair, _ in pairs for scan in pair}
    for scan in scans:
        if scan in wanted and scan.ct:
            shelf.put(scan, read_on_grid(scan, grid, settings))
    for prior_scan, group in itertools.groupby(pairs, lambda item: item[0][0]):
        prior = shelf.get(prior_scan)
        for pair, split in group:
            target = shelf.get(pair[1]) if pair[1].ct else None
            covered = target.covered if target else 1.0
            shards[split].add(whole_case(pair, prior, target, grid, settings), covered)
