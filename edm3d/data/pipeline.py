"""Batches of crops for the device, with Grain; every example is a pure function of (seed, index).

Shapes: b batch, z y x voxels. A batch is a dict of NumPy arrays: int16 HU crops, 2-D X-rays as mean
unit attenuation (cropped in parallel beam, whole in cone beam), six ventilator scalars, and where
each crop lies. The channels that the network sees are built from it on the device
(`edm3d.diffusion.conditioning`).

Example g = step * batch + j takes record `permutation(seed, g // records)[g % records]` and a crop
drawn from a generator of its own, so neither threads, worker processes, hosts nor a resume change
what it holds.
"""

import contextlib
import ctypes
import functools
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from edm3d.data.cases import (
    UNIT_HU,
    Case,
    CaseSequence,
    DatasetInfo,
    read_cases,
    read_dataset_info,
    ventilation_vector,
)
from edm3d.data.grid import crop, random_corner
from edm3d.data.patch_sizes import patch_of_step
from edm3d.data.projection import mean_unit_attenuation, ray_paths_mm
from edm3d.data.volumes import AIR_HU
from edm3d.data.xray_geometry import Cone, Geometry
from edm3d.errors import DamagedRecord, InputError

Batch = dict[str, np.ndarray]


class Batches(Protocol):
    """An iterator over batches that must be closed."""

    def __iter__(self) -> "Batches": ...
    def __next__(self) -> Batch: ...
    def close(self) -> None: ...


_VACUUM = -1000.0 / UNIT_HU
DAMAGED = "damaged"  # an array of a batch that never goes to the device
_ORDER, _CROP, _SPARE = 0, 1, 2  # which random stream of the seed
_THREADS = 4
_READ_AHEAD_EXAMPLES = 16
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_ENDLESS = 2**40


def _xray_crops(case: Case, info: DatasetInfo, start: Sequence[int], shape: Sequence[int]) -> Batch:
    """The four X-rays of a crop, `[z, x]` or `[z, y]`, in mean unit attenuation."""
    (z, y, x), (nz, ny, nx) = start, shape
    views = {"pa": ((z, x), (nz, nx)), "lat": ((z, y), (nz, ny))}
    crops = {}
    for view, (corner, size) in views.items():
        for name in (f"xray_{view}", f"prior_xray_{view}"):
            image = _unit_xray(case, info, name, view)
            crops[name] = crop(image, corner, size, fill=_VACUUM)
    return crops


def _films(case: Case, info: DatasetInfo, cone: Cone) -> Batch:
    """The four whole cone-beam X-rays, in mean unit attenuation, and the beam that made them.

    Rays cross a patch at a slant, so a crop of the image would not do; the device looks up what
    each voxel sees (`edm3d.diffusion.projection`).
    """
    films = {
        f"{prior}film_{view}": _unit_xray(case, info, f"{prior}xray_{view}", view)
        for prior in ("", "prior_")
        for view in ("pa", "lat")
    }
    return films | {"beam": np.array(cone.beam(info.spacing_mm), np.float32)}


def _unit_xray(case: Case, info: DatasetInfo, name: str, view: str) -> np.ndarray:
    geometry = Geometry.from_json(info.geometry)
    path_mm = ray_paths_mm(
        view, geometry, volume_shape_zyx=case.volume_shape_zyx, spacing_mm=info.spacing_mm
    )
    return mean_unit_attenuation(
        getattr(case, name),
        path_mm=path_mm,
        mu_water_per_mm=geometry.mu_water_per_mm,
        scale_hu=UNIT_HU,
    )


def _example(case: Case, info: DatasetInfo, start: Sequence[int], shape: Sequence[int]) -> Batch:
    """One crop, without the batch axis; `start` is a corner in the whole volume."""
    in_block = [a - b for a, b in zip(start, case.block_start_zyx, strict=True)]
    example = {"prior_hu": crop(case.prior_hu, in_block, shape, fill=AIR_HU)}
    if case.target_hu is not None:
        example["target_hu"] = crop(case.target_hu, in_block, shape, fill=AIR_HU)
    cone = Geometry.from_json(info.geometry).cone
    return example | {
        **(_films(case, info, cone) if cone else _xray_crops(case, info, start, shape)),
        "ventilation": ventilation_vector(case, info.scalar_ranges),
        "start": np.array(start, np.float32),
        "volume_shape": np.array(case.volume_shape_zyx, np.float32),
    }


def patch_batch(case: Case, info: DatasetInfo, *, start_zyx: Sequence[int], patch: int) -> Batch:
    """One cubic crop as a batch of one; `start_zyx` is its corner in the whole volume.

    Outside the case's block the CTs are -1024 and the X-rays vacuum. No `target_hu` where the case
    has none. Raises `InputError` for a patch that the records' blocks are too small for.
    """
    _check_patch(case, info, patch)
    example = _example(case, info, start_zyx, (patch, patch, patch))
    return {name: value[None] for name, value in example.items()}


def whole_batch(case: Case, info: DatasetInfo, *, padded_shape_zyx: Sequence[int]) -> Batch:
    """The whole volume as a batch of one, padded at the ends to `padded_shape_zyx`."""
    if not case.is_whole:
        raise ValueError(f"{case.case_id} is a block; give a whole case")
    if any(n < size for n, size in zip(padded_shape_zyx, case.volume_shape_zyx, strict=True)):
        raise ValueError(f"padded shape {padded_shape_zyx} is below {case.volume_shape_zyx}")
    example = _example(case, info, (0, 0, 0), padded_shape_zyx)
    return {name: value[None] for name, value in example.items()}


@functools.lru_cache(maxsize=2)
def _epoch_order(seed: int, epoch: int, records: int) -> np.ndarray:
    return np.random.default_rng([_ORDER, seed, epoch]).permutation(records)


def check_patch_fits(info: DatasetInfo, patch: int) -> None:
    """Raises `InputError` where a training volume was cut into blocks smaller than `patch`."""
    if min(patch, max(info.largest_volume_zyx["train"])) > info.block:
        raise _too_large(patch, info)


def _too_large(patch: int, info: DatasetInfo) -> InputError:
    return InputError(
        f"patch {patch} is larger than the records' block {info.block}; use a patch of at "
        f"most {info.block}, or build the records with a larger block"
    )


def _check_patch(case: Case, info: DatasetInfo, patch: int) -> None:
    for size, whole in zip(case.prior_hu.shape, case.volume_shape_zyx, strict=True):
        if size < min(patch, whole):
            raise _too_large(patch, info)


def example_at(
    cases: CaseSequence,
    info: DatasetInfo,
    g: int,
    *,
    patch: int,
    seed: int,
    replace_damaged: bool = False,
) -> Batch:
    """Training example number `g`, without the batch axis: a pure function of (seed, g).

    With `replace_damaged` a damaged record's place is taken by another one, drawn from (seed, g)
    as well, and `damaged` is the number of the damaged record, else -1.
    """
    epoch, position = divmod(g, len(cases))
    wanted = int(_epoch_order(seed, epoch, len(cases))[position])
    if replace_damaged:
        case, damaged = _case_or_another(cases, wanted, np.random.default_rng([_SPARE, seed, g]))
    else:
        case, damaged = cases[wanted], None
    _check_patch(case, info, patch)
    rng = np.random.default_rng([_CROP, seed, g])
    corner = random_corner(case.prior_hu.shape, patch, rng)
    start = [a + b for a, b in zip(corner, case.block_start_zyx, strict=True)]
    example = _example(case, info, start, (patch, patch, patch))
    return example if damaged is None else example | {DAMAGED: damaged}


def _case_or_another(
    cases: CaseSequence, wanted: int, rng: np.random.Generator
) -> tuple[Case, np.ndarray]:
    """Case number `wanted`, or the first whole one in an order that `rng` draws."""
    try:
        return cases[wanted], np.array(-1, np.int32)
    except DamagedRecord:
        for other in rng.permutation(len(cases)):
            with contextlib.suppress(DamagedRecord):
                return cases[int(other)], np.array(wanted, np.int32)
        raise


def open_training(folder: str | Path, split: str = "train") -> tuple[DatasetInfo, CaseSequence]:
    """What `dataset.json` says of a folder, and the cases of a split, which must have any."""
    info, cases = read_dataset_info(folder), read_cases(folder, split)
    if not len(cases):
        raise InputError(f"split {split!r} of {folder} has no records; choose another split")
    return info, cases


def train_batches(
    folder: str | Path,
    *,
    patch: int | Sequence[tuple[int, float]],
    batch: int,
    seed: int,
    rows: Sequence[int] | np.ndarray | None = None,
    first_step: int = 0,
    workers: int = 0,
    split: str = "train",
    replace_damaged: bool = False,
) -> Batches:
    """Endless batches of random crops from `first_step` on; `close()` ends its threads.

    Of each global batch only `rows` are read (None: all), those of this process's devices. With
    `workers` = 0 this process reads with threads, else so many worker processes do. `patch` is the
    side of the crops, or several sides, each with its share of the batches.

    A damaged record ends the reading, or with `replace_damaged` is replaced and reported in the
    array `damaged [b]` (see `example_at`), which is to be taken off before the device.
    """
    import grain

    keep_freed_memory()
    info, cases = open_training(folder, split)
    mine = np.arange(batch) if rows is None else np.asarray(rows)
    local = len(mine)
    example = functools.partial(example_at, cases, info, seed=seed, replace_damaged=replace_damaged)

    sizes = ((patch, 1.0),) if isinstance(patch, int) else patch

    def local_example(k: int) -> Batch:
        step, row = divmod(k, local)
        g = (first_step + step) * batch + int(mine[row])
        return example(g, patch=patch_of_step(sizes, seed=seed, step=first_step + step))

    examples = grain.MapDataset.range(_ENDLESS).map(local_example)
    if not workers:
        reading = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_READ_AHEAD_EXAMPLES)
        return cast(Batches, iter(examples.to_iter_dataset(reading).batch(local)))
    reading = grain.ReadOptions(num_threads=1, prefetch_buffer_size=1)
    batches = examples.batch(local).to_iter_dataset(reading)
    return cast(Batches, iter(batches.mp_prefetch(_worker_options(workers), _start_worker)))


def keep_freed_memory() -> None:
    """Lets glibc keep what records free for the next ones; does nothing elsewhere.

    A record passes through several buffers of its size. Handing 17 MB back to the system each time
    and having it mapped and cleared again takes as long as decoding (`benchmarks/pipeline.py`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)  # the most that every glibc takes
        mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)


def _start_worker(worker: int, workers: int) -> None:
    """Starts a worker that outlives Ctrl-C and a scheduler's SIGTERM.

    Both reach the whole process group; the reader ends its workers itself by `close()`, after the
    batches that it still needs to save what it has.
    """
    del worker, workers
    keep_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _worker_options(workers: int):
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain's workers read absl flags, parsed or not
        flags.FLAGS.mark_as_parsed()
    return grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=1)
