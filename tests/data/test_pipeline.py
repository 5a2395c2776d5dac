import ctypes
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from contextlib import closing

import numpy as np
import pytest

from edm3d.data import pipeline
from edm3d.data.cases import read_cases, read_dataset_info
from edm3d.data.manifest import assign_splits, read_manifest
from edm3d.data.pipeline import (
    check_patch_fits,
    example_at,
    patch_batch,
    train_batches,
    whole_batch,
)
from edm3d.data.projection import line_integrals
from edm3d.data.records import write_records
from edm3d.data.xray_geometry import Cone, Geometry, check_geometry
from edm3d.errors import InputError
from tests.configurations import ROOT
from tests.data.phantoms import random_case, settings, write_cohort
from tests.data.test_cases import INFO

PATCH = 8
FILMS = ("xray_pa", "xray_lat", "prior_xray_pa", "prior_xray_lat")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Blocks of 12 voxels of volumes of 16 x 21 x 24."""
    folder = tmp_path_factory.mktemp("cohort")
    scans = read_manifest(write_cohort(folder, {"p": "train", "q": "val"}))
    scans = assign_splits(scans, 0, (0.5, 0.5, 0.0))
    write_records(scans, folder / "records", settings(block=12), seed=0)
    return folder / "records"


def take(records, count, **options):
    options = {"patch": PATCH, "batch": 4, "seed": 3, **options}
    with closing(train_batches(records, **options)) as batches:
        return list(itertools.islice(batches, count))


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def test_a_batch_has_the_agreed_arrays(records):
    (batch,) = take(records, 1)
    kinds = {name: (value.dtype.name, value.shape) for name, value in batch.items()}
    image = ("float32", (4, 8, 8))
    assert kinds == {
        "prior_hu": ("int16", (4, 8, 8, 8)),
        "target_hu": ("int16", (4, 8, 8, 8)),
        "xray_pa": image,
        "xray_lat": image,
        "prior_xray_pa": image,
        "prior_xray_lat": image,
        "ventilation": ("float32", (4, 6)),
        "start": ("float32", (4, 3)),
        "volume_shape": ("float32", (4, 3)),
    }


def test_rows_read_apart_are_those_of_the_whole_batch(records):
    whole = take(records, 3)
    shares = [[0, 2], [1, 3], [2, 3]]  # as devices lie on hosts: in turn, and shared by two
    for share in shares:
        for step, batch in enumerate(take(records, 3, rows=share)):
            assert_same(batch, {n: a[share] for n, a in whole[step].items()})


def test_resuming_at_a_step_gives_the_batches_from_there(records):
    for resumed, straight in zip(take(records, 2, first_step=3), take(records, 5)[3:], strict=True):
        assert_same(resumed, straight)


def test_examples_depend_on_seed_and_index_alone(records):
    cases, info = read_cases(records, "train"), read_dataset_info(records)
    batches = take(records, 6)
    for g in (23, 0, 7):
        example = example_at(cases, info, g, patch=PATCH, seed=3)
        assert_same(example, {n: v[g % 4] for n, v in batches[g // 4].items()})
    other = example_at(cases, info, 7, patch=PATCH, seed=4)
    assert not np.array_equal(other["prior_hu"], batches[1]["prior_hu"][3])


@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_give_the_same_batches(records, workers):
    for first, second in zip(take(records, 7), take(records, 7, workers=workers), strict=True):
        assert_same(first, second)


READER = """
import signal, sys
from contextlib import closing

from edm3d.data.pipeline import train_batches

if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    with closing(train_batches(sys.argv[1], patch=8, batch=4, seed=3, workers=2)) as batches:
        for step in range(12):
            next(batches)
            if step == 2:
                print("running", flush=True)
                sys.stdin.readline()
    print("done", flush=True)
"""


def test_workers_outlive_the_signals_that_ask_their_reader_to_stop(records, tmp_path):
    script = tmp_path / "reader.py"
    script.write_text(READER)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), str(records)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as reader:
        assert reader.stdout.readline() == "running\n", reader.stderr.read()
        for number in (signal.SIGINT, signal.SIGTERM):  # to the group, as a terminal sends them
            os.killpg(reader.pid, number)
            time.sleep(0.3)
        out, errors = reader.communicate("go\n", timeout=60)
    assert out == "done\n" and reader.returncode == 0, errors


def test_an_epoch_sees_every_record_once(records):
    cases, info = read_cases(records, "train"), read_dataset_info(records)
    seen = []
    for g in range(2 * len(cases)):
        order = pipeline._epoch_order(3, g // len(cases), len(cases))
        seen.append(int(order[g % len(cases)]))
    epochs = seen[: len(cases)], seen[len(cases) :]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(len(cases)))
    assert epochs[0] != epochs[1] and info.counts["train"]["records"] == len(cases)


def test_crops_are_cut_where_start_says(records):
    by_key = {}
    for case in read_cases(records, "train"):
        by_key.setdefault(case.volume_shape_zyx, []).append(case)
    for batch in take(records, 4):
        for row in range(4):
            start = batch["start"][row].astype(int)
            shape = tuple(batch["volume_shape"][row].astype(int))
            assert np.all(start >= 0) and np.all(start + PATCH <= shape)
            crops = [_cut(case, start) for case in by_key[shape]]
            assert any(np.array_equal(c, batch["prior_hu"][row]) for c in crops if c is not None)


def _cut(case, start):
    begin = start - case.block_start_zyx
    if np.any(begin < 0) or np.any(begin + PATCH > case.prior_hu.shape):
        return None
    return case.prior_hu[tuple(slice(a, a + PATCH) for a in begin)]


def test_every_voxel_is_reached_by_training_crops(records):
    cases, info = read_cases(records, "train"), read_dataset_info(records)
    reached = np.zeros(cases[0].volume_shape_zyx, bool)
    # 12 blocks with 8 places of an 11-voxel crop each: a corner is missed with chance 1e-7.
    for g in range(1500):
        start = example_at(cases, info, g, patch=11, seed=3)["start"].astype(int)
        reached[tuple(slice(a, a + 11) for a in start)] = True
    assert reached.all() and reached.shape == (16, 21, 24)


def test_xrays_are_cropped_beside_the_volume_and_have_its_unit():
    shape = (10, 12, 14)
    flat = np.full(shape, -300, np.int16)
    pa, lat = line_integrals(flat, spacing_mm=2.0)
    case = random_case(shape, xray_pa=pa, xray_lat=lat)
    batch = patch_batch(case, INFO, start_zyx=(4, 6, 8), patch=8)
    expected = np.full((8, 8), -1000 / 1024, np.float32)  # beyond the volume: vacuum
    expected[:6, :6] = -300 / 1024
    np.testing.assert_allclose(batch["xray_pa"][0], expected, rtol=1e-5)
    np.testing.assert_allclose(batch["xray_lat"][0], expected, rtol=1e-5)
    whole = whole_batch(case, INFO, padded_shape_zyx=shape)
    np.testing.assert_array_equal(
        batch["prior_xray_pa"][0, :6, :6], whole["prior_xray_pa"][0, 4:, 8:]
    )
    np.testing.assert_array_equal(
        batch["prior_xray_lat"][0, :6, :6], whole["prior_xray_lat"][0, 4:, 6:]
    )


def test_a_whole_batch_is_padded_with_air_at_the_ends():
    case = random_case((5, 6, 7), target_hu=None)
    batch = whole_batch(case, INFO, padded_shape_zyx=(8, 8, 8))
    np.testing.assert_array_equal(batch["prior_hu"][0, :5, :6, :7], case.prior_hu)
    assert np.count_nonzero(batch["prior_hu"] == -1024) >= 8**3 - 5 * 6 * 7
    assert "target_hu" not in batch and batch["start"].tolist() == [[0, 0, 0]]
    with pytest.raises(ValueError, match="below"):
        whole_batch(case, INFO, padded_shape_zyx=(4, 8, 8))
    with pytest.raises(ValueError, match="is a block"):
        block = random_case((5, 6, 7), (0, 0, 0), (3, 3, 3))
        whole_batch(block, INFO, padded_shape_zyx=(8, 8, 8))


def test_a_sample_of_128_cubed_takes_less_than_ten_megabytes():
    case = random_case((136, 130, 129))
    batch = patch_batch(case, INFO, start_zyx=(0, 0, 0), patch=128)
    size = sum(value.nbytes for value in batch.values())
    print(f"host-to-device bytes of a 128^3 sample: {size}")
    assert size < 10e6


CONE = dataclasses.replace(INFO, geometry=Geometry(cone=Cone()).to_json())


def test_a_cone_beam_batch_has_whole_films_and_their_beam():
    films = {n: np.full((215, 215), i + 1, np.float32) for i, n in enumerate(FILMS)}
    case = random_case((20, 22, 24), **films)
    first, second = (
        patch_batch(case, CONE, start_zyx=start, patch=8) for start in ((0, 0, 0), (9, 8, 7))
    )
    assert not {n for n in first if "xray" in n}
    np.testing.assert_allclose(first["beam"], [[1400.0, 1200.0, 2.0, 2.0]])
    for line_integral, name in enumerate(FILMS, start=1):
        film = name.replace("xray", "film")
        np.testing.assert_array_equal(first[film], second[film])
        assert first[film].shape == (1, 215, 215) and first[film].dtype == np.float32
        path_mm = 2.0 * (24 if "lat" in name else 22)  # of the middle ray
        unit = (line_integral / (path_mm * 0.0206) - 1) * 1000 / 1024
        assert first[film][0, 107, 107] == pytest.approx(unit, rel=1e-5)


@pytest.mark.parametrize("detector_pitch_mm", [2.0, 430 / 300])
def test_a_cone_beam_sample_takes_less_than_ten_megabytes_too(detector_pitch_mm):
    geometry = Geometry(cone=Cone(detector_pitch_mm=detector_pitch_mm))
    check_geometry(geometry)  # the second one has the most cells that it lets through
    images = dict.fromkeys(FILMS, np.zeros(geometry.cone.cells, np.float32))
    info = dataclasses.replace(INFO, geometry=geometry.to_json())
    case = random_case((136, 130, 129), **images)
    batch = patch_batch(case, info, start_zyx=(0, 0, 0), patch=128)
    size = sum(value.nbytes for value in batch.values())
    print(f"host-to-device bytes of a 128^3 cone-beam sample: {size}")
    assert size < 10e6


def test_a_small_volume_is_padded_and_a_small_block_is_refused(records):
    cases, info = read_cases(records, "train"), read_dataset_info(records)
    with pytest.raises(InputError, match=r"patch 14 is larger than the records' block 12"):
        example_at(cases, info, 0, patch=14, seed=0)
    with pytest.raises(InputError, match=r"patch 14 is larger than the records' block 12"):
        patch_batch(cases[0], info, start_zyx=(0, 0, 0), patch=14)
    with pytest.raises(InputError, match=r"patch 14 is larger than the records' block 12"):
        check_patch_fits(info, 14)
    check_patch_fits(info, 12)
    whole = dataclasses.replace(info, largest_volume_zyx={"train": [9, 12, 11]})
    check_patch_fits(whole, 14)  # no volume was cut: each is padded to the patch
    small = [random_case((6, 20, 20))]
    example = example_at(small, INFO, 0, patch=16, seed=0)
    assert example["start"][0] == 0 and np.all(example["target_hu"][6:] == -1024)


class MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`; `arena` is what malloc holds of the system without mmap."""

    _fields_ = [(n, ctypes.c_size_t) for n in "arena ordblks smblks hblks hblkhd".split()]
    _fields_ += [(f"other{i}", ctypes.c_size_t) for i in range(5)]


def test_memory_of_records_is_kept_for_the_next_ones():
    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        pytest.skip("needs glibc 2.33")
    mallinfo2.restype = MallocInfo
    pipeline.keep_freed_memory()
    blocks = [bytes(17_000_000) for _ in range(6)]
    held = mallinfo2().arena
    del blocks
    assert held > 6 * 17_000_000 and mallinfo2().arena == held


def test_a_split_without_records_is_refused(records):
    with pytest.raises(InputError, match="has no records"):
        train_batches(records, patch=8, batch=4, seed=0, split="test")
