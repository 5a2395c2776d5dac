"""Writing the folder of records: every pair of a manifest as blocks, in shards, with dataset.json.

One group (subject, stage, position) fills shards of its own, so the bytes do not depend on how many
workers and machines share the groups. Nothing appears under the final name before all of it is
written. Read next: `edm3d.data.shards` (one group), `edm3d.data.partial` (where groups wait, and
how an interrupted build goes on), `edm3d.data.pipeline` (how training reads the folder).
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from edm3d.data.cases import (
    DATASET_FILE,
    SPLITS,
    Case,
    DatasetInfo,
)
from edm3d.data.dataset_info import dataset_info
from edm3d.data.manifest import (
    Pair,
    Scan,
    comparable_scans,
    pair_scans,
    read_manifest,
    split_of_pair,
)
from edm3d.data.partial import (
    build_group,
    finished_group,
    move_into_place,
    opened,
    partial_folder,
)
from edm3d.data.record_checks import check_scans, check_settings
from edm3d.data.shard_file import DiskFault, ShardSummary
from edm3d.data.shards import Group, OnGrid, RecordSettings, read_on_grid, whole_case
from edm3d.data.share import Share
from edm3d.data.volumes import Grid, read_grid, working_grid
from edm3d.data.workers import outcomes
from edm3d.data.xray_geometry import Geometry
from edm3d.errors import InputError

_SCANS_KEPT = 16  # about 24 MB each for a whole chest at 2 mm


def _plan(scans: Sequence[Scan]) -> list[Group]:
    """The groups that hold pairs, with their shards numbered within each split."""
    groups = [tuple(group) for group in comparable_scans(scans)]
    splits = [
        sorted({s for pair in itertools.permutations(g, 2) if (s := split_of_pair(pair))})
        for g in groups
    ]
    totals = {split: sum(split in found for found in splits) for split in SPLITS}
    counters = {split: itertools.count() for split in SPLITS}
    return [
        Group(
            group,
            {s: f"{s}-{next(counters[s]):05d}-of-{totals[s]:05d}.array_record" for s in found},
        )
        for group, found in zip(groups, splits, strict=True)
        if found
    ]


def _built_or_fault(
    group: Group, settings: RecordSettings, folder: Path, share: Share
) -> list[ShardSummary] | InputError:
    """The group's shards, or the fault of its scans: other groups go on, and all faults are told.

    Raises `DiskFault`, after which no group can be written.
    """
    try:
        return build_group(group, settings, folder, share)
    except DiskFault:
        raise
    except InputError as error:
        return error


def _collected(
    found: Iterable[list[ShardSummary] | InputError], progress: Callable[[int], object]
) -> tuple[list[ShardSummary], list[str]]:
    """The shards of all groups that have them, and the faults of the others."""
    shards, faults = [], []
    for outcome in found:
        if isinstance(outcome, InputError):
            faults.append(str(outcome))
        else:
            shards += outcome
            progress(sum(shard.cases for shard in outcome))
    return shards, faults


def _build(
    groups: Sequence[Group],
    settings: RecordSettings,
    folder: Path,
    share: Share,
    workers: int,
    progress: Callable[[int], object],
) -> list[ShardSummary]:
    """The shards of all `groups`; one `InputError` names the faults of all their scans."""
    task = functools.partial(_built_or_fault, settings=settings, folder=folder, share=share)
    shards, faults = _collected(outcomes(task, groups, workers), progress)
    if faults:
        finished = len(groups) - len(faults)
        kept = f"{finished} of {len(groups)} groups are finished and kept in {folder}; mend the"
        told = [f"{kept} scans and give the same command again"] if finished else []
        raise InputError("\n".join([*sorted(faults), *told]))
    return shards


def _check_out(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise InputError(f"--out {out} is a file; give a folder")
    if any(out.iterdir()):
        if not overwrite:
            raise InputError(f"--out {out} is not empty; give another folder or pass --overwrite")
        if not (out / DATASET_FILE).is_file():
            raise InputError(f"--out {out} holds no records; only records are overwritten")


def checked_groups(scans: Sequence[Scan]) -> list[Group]:
    """The groups that records are made of; raises `InputError` where nothing could be trained."""
    groups = _plan(scans)
    if not any("train" in group.shard_of_split for group in groups):
        raise InputError("the manifest has no training pair; give a subject two train scans")
    return groups


def _finish(
    groups: Sequence[Group],
    shards: Sequence[ShardSummary],
    out: Path,
    settings: RecordSettings,
    seed: int,
    split_by: str,
) -> tuple[DatasetInfo, list[ShardSummary]]:
    ordered = sorted(shards, key=lambda shard: shard.name)
    info = dataset_info(ordered, settings, seed, split_by)
    move_into_place(partial_folder(out), groups, info.to_json(), out)
    return info, ordered


def write_records(
    scans: Sequence[Scan],
    out: str | Path,
    settings: RecordSettings,
    *,
    seed: int,
    split_by: str = "subject",
    workers: int = 1,
    overwrite: bool = False,
    restart: bool = False,
    progress: Callable[[int], object] = lambda pairs: None,
) -> tuple[DatasetInfo, list[ShardSummary]]:
    """Writes the records of all pairs of `scans` (which have their splits) to the folder `out`.

    Groups that an earlier, interrupted call finished are taken as they are. `progress` is called
    with the number of pairs done since the last call. The bytes are the same for any number of
    workers and interruptions. Raises `InputError` on bad scans, after the others are built.
    """
    out = Path(out).absolute()
    check_settings(settings)
    _check_out(out, overwrite)
    check_scans(scans, settings.scalar_ranges)
    groups, folder, whole = checked_groups(scans), partial_folder(out), Share()
    with opened(folder, settings, whole, restart):
        _check_out(out, overwrite)
        shards = _build(groups, settings, folder, whole, workers, progress)
        return _finish(groups, shards, out, settings, seed, split_by)


def write_share(
    scans: Sequence[Scan],
    out: str | Path,
    settings: RecordSettings,
    share: Share,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda pairs: None,
) -> list[ShardSummary]:
    """Builds one share of the groups, to wait beside `out` for `merge_records`."""
    out = Path(out).absolute()
    check_settings(settings)
    _check_out(out, overwrite)
    groups = share.part_of(checked_groups(scans))
    check_scans([scan for group in groups for scan in group.scans], settings.scalar_ranges)
    with opened(partial_folder(out), settings, share, restart=False):
        return _build(groups, settings, partial_folder(out), share, workers, progress)


def _finished_or_fault(
    group: Group, settings: RecordSettings, folder: Path
) -> list[ShardSummary] | InputError:
    found = finished_group(group, settings, folder)
    return InputError(group.name) if found is None else found


def merge_records(
    scans: Sequence[Scan],
    out: str | Path,
    settings: RecordSettings,
    *,
    seed: int,
    split_by: str = "subject",
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int], object] = lambda pairs: None,
) -> tuple[DatasetInfo, list[ShardSummary]]:
    """Makes the records `out` of what shares have built; raises `InputError` where some is missing.

    Every shard is read once more and compared with its checksum.
    """
    out = Path(out).absolute()
    check_settings(settings)
    _check_out(out, overwrite)
    groups, folder = checked_groups(scans), partial_folder(out)
    if not folder.is_dir():
        raise InputError(f"{folder} does not exist; build its parts first with --shard=i/n")
    with opened(folder, settings, Share(), restart=False):
        task = functools.partial(_finished_or_fault, settings=settings, folder=folder)
        shards, missing = _collected(outcomes(task, groups, workers), progress)
        if missing:
            shown = ", ".join(sorted(missing)[:3]) + (", ..." if len(missing) > 3 else "")
            raise InputError(
                f"{len(missing)} of {len(groups)} groups are not built or their scans have changed "
                f"({shown}); run the --shard parts that lack them again, then --merge"
            )
        return _finish(groups, shards, out, settings, seed, split_by)


class ManifestCases(Sequence[Case]):
    """The whole cases of a manifest's pairs, each built from its files when it is asked for.

    The last few scans are kept, since neighbouring pairs share them.
    """

    def __init__(self, pairs: Sequence[Pair], settings: RecordSettings):
        self.pairs, self.settings = tuple(pairs), settings
        self._kept = functools.lru_cache(maxsize=_SCANS_KEPT)(self._read)

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Case: ...
    @overload
    def __getitem__(self, index: slice) -> list[Case]: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        prior, target = self.pairs[index]
        assert prior.ct is not None
        grid = working_grid(read_grid(prior.ct, series=prior.series), self.settings.spacing_mm)
        place = grid.shape_zyx, grid.affine_lps.tobytes()
        first = self._kept(prior, *place)
        second = self._kept(target, *place) if target.ct else None
        return whole_case((prior, target), first, second, grid, self.settings)

    def _read(self, scan: Scan, shape_zyx: tuple[int, int, int], affine_lps: bytes) -> OnGrid:
        """A scan on the grid that shape and affine (as bytes, to be a cache's key) make."""
        grid = Grid(shape_zyx, np.frombuffer(affine_lps).reshape(4, 4))
        return read_on_grid(scan, grid, self.settings)


def cases_of_manifest(
    path: str | Path, info: DatasetInfo, *, allow_outside: bool = False
) -> ManifestCases:
    """All pairs of a manifest as whole cases, prepared as the data set `info` was.

    Raises:
        InputError: the table or a scan is faulty, or a scan of which only films exist has no prior.
    """
    scans = read_manifest(path, allow_outside, same_subject_splits=True)
    check_scans(scans, info.scalar_ranges)
    pairs = pair_scans(scans)
    targets = {target.row for _, target in pairs}
    if alone := [scan for scan in scans if scan.ct is None and scan.row not in targets]:
        raise InputError(
            f"{path}, row {alone[0].row}: {alone[0].subject}/{alone[0].scan} has films only and no "
            "CT of its subject, stage and position beside it to start from; add one, or leave the "
            "row out"
        )
    geometry = Geometry.from_json(info.geometry)
    settings = RecordSettings(
        spacing_mm=info.spacing_mm,
        window_hu=info.window_hu,
        block=info.block,
        antialias=info.antialias,
        mu_water_per_mm=geometry.mu_water_per_mm,
        scalar_ranges=info.scalar_ranges,
        cone=geometry.cone,
        bedside=geometry.bedside,
    )
    return ManifestCases(pairs, settings)
