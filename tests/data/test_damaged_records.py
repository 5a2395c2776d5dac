"""A damaged record is named, or replaced by one that depends on the seed and its place alone."""

import itertools
import re
import shutil
from contextlib import closing

import jax
import msgpack
import numpy as np
import pytest

from edm3d.data.cases import read_cases
from edm3d.data.pipeline import DAMAGED, train_batches
from edm3d.errors import DamagedRecord, InputError
from edm3d.training.damage import Damage
from tests.data.damaged import (
    damaged_numbers,
    with_changed_record,
    with_flipped_byte,
    with_nan_xray,
)

RECORDS, PATCH, BATCH, STEPS = 12, 8, 4, 9  # 36 examples of 12 records: three epochs


@pytest.fixture(scope="module")
def flipped(tiny_records, tmp_path_factory):
    return with_flipped_byte(tiny_records, tmp_path_factory.mktemp("flipped") / "records")


def take(records, count=STEPS, **options):
    options = {"patch": PATCH, "batch": BATCH, "seed": 3, **options}
    with closing(train_batches(records, **options)) as batches:
        return list(itertools.islice(batches, count))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_flipped_byte_ends_the_reading_and_names_file_and_record(flipped, workers):
    records, number = flipped
    file, in_file = max(records.glob("train-*")), number - RECORDS // 2
    with pytest.raises(DamagedRecord) as caught:
        take(records, workers=workers)
    assert str(caught.value).startswith(f"{file}, record {in_file}: record is damaged (")
    assert in_file >= 0 and "\n" not in str(caught.value)


def test_a_file_without_its_index_is_named(tiny_records, tmp_path):
    records = tmp_path / "records"
    shutil.copytree(tiny_records, records)
    file = max(records.glob("train-*"))
    content = file.read_bytes()
    file.write_bytes(content[:-65_536] + bytes(65_536))
    with pytest.raises(InputError, match=f"{file} is damaged .*; restore it or build the records"):
        read_cases(records, "train")


def _cut(record):
    return record[: len(record) // 2]


def _with_other_shape(record):
    fields = msgpack.unpackb(record)
    fields["prior_hu"]["shape"] = [7, 7, 7]
    return msgpack.packb(fields)


def _without_phase(record):
    fields = msgpack.unpackb(record)
    del fields["prior_ventilation"]["phase"]
    return msgpack.packb(fields)


@pytest.mark.parametrize(
    "change, fault",
    [
        (_cut, "incomplete input"),
        (_with_other_shape, "cannot reshape array"),
        (_without_phase, "missing 1 required positional argument: 'phase'"),
        (with_nan_xray, "xray_pa has values that are not finite"),
    ],
)
def test_a_record_that_holds_no_case_is_named(tiny_records, tmp_path, change, fault):
    records = with_changed_record(tiny_records, tmp_path / "records", change)
    with pytest.raises(DamagedRecord, match=r"train-00000\S+, record 1: ") as caught:
        _ = read_cases(records, "train")[1]
    assert re.search(fault, str(caught.value))
    assert damaged_numbers(records) == [1]


def test_a_replacement_does_not_depend_on_who_reads(flipped):
    """Threads, worker processes, two hosts, and a resume in between."""
    records, number = flipped
    straight = take(records, replace_damaged=True)
    workers = take(records, replace_damaged=True, workers=2)
    resumed = straight[:4] + take(records, STEPS - 4, replace_damaged=True, first_step=4)
    hosts = [take(records, replace_damaged=True, rows=rows) for rows in ((0, 1), (2, 3))]
    joined = [{n: np.concatenate([a[n], b[n]]) for n in a} for a, b in zip(*hosts, strict=True)]
    for batches in (workers, resumed, joined):
        for one, other in zip(straight, batches, strict=True):
            jax.tree.map(np.testing.assert_array_equal, one, other)
    damaged = np.concatenate([b[DAMAGED] for b in straight])
    # the record's turn comes once an epoch
    assert [np.sum(damaged[k : k + RECORDS] == number) for k in (0, 12, 24)] == [1, 1, 1]
    assert np.sum(damaged >= 0) == 3


def test_only_the_damaged_record_s_examples_change(tiny_records, flipped):
    records, _ = flipped
    for whole, mended in zip(take(tiny_records), take(records, replace_damaged=True), strict=True):
        is_damaged = mended.pop(DAMAGED) >= 0
        same = (whole["prior_hu"] == mended["prior_hu"]).all(axis=(1, 2, 3))
        assert same.tolist() == (~is_damaged).tolist()


def test_replacements_are_spread_over_the_records(flipped):
    batches = take(flipped[0], 40, replace_damaged=True)
    rows = [(b, row) for b in batches for row in np.flatnonzero(b[DAMAGED] >= 0)]
    changes = {b["ventilation"][row].tobytes() for b, row in rows}
    assert len(rows) == 13 and len(changes) > 3  # of the six changes between three scans


def test_each_damaged_record_is_told_once_and_one_too_many_ends_the_run(capsys):
    damage = Damage(2, lambda number: f"file, record {number}: broken")
    damage.note(None)
    damage.note(np.array([-1, 7, -1, 7]))
    damage.note(np.array([3, 7]))
    assert damage.counts() == {"damaged_records": 2, "replaced_examples": 4}
    assert capsys.readouterr().out.count("left out, another takes its place: file, record") == 2
    with pytest.raises(DamagedRecord, match=r"record 5: broken \(.*3 met, 2 allowed"):
        damage.note(np.array([5]))
