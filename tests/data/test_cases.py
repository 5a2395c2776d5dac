import dataclasses

import msgpack
import numpy as np
import pytest

from edm3d.data.cases import (
    SCHEMA_VERSION,
    Case,
    DatasetInfo,
    ScalarRanges,
    Ventilation,
    decode_case,
    encode_case,
    read_dataset_info,
    ventilation_vector,
)
from edm3d.data.protocols import protocols_of
from edm3d.errors import InputError
from tests.data.phantoms import RANGES, random_case

INFO = DatasetInfo(
    schema_version=SCHEMA_VERSION,
    edm3d_version="0",
    spacing_mm=2.0,
    window_hu=(-1024.0, 1024.0),
    residual_std=0.07,
    scalar_ranges=RANGES,
    geometry={"kind": "parallel", "mu_water_per_mm": 0.0206},
    antialias=False,
    block=160,
    seed=0,
    split_by="subject",
    subjects={"train": ["a"], "val": [], "test": []},
    counts={"train": {"cases": 1, "records": 1}},
    least_coverage={"train": 1.0, "val": 1.0, "test": 1.0},
    largest_volume_zyx={"train": [20, 20, 20]},
    files={},
)


@pytest.mark.parametrize("block", [None, (4, 5, 6)])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"target_hu": None},
        {"prior_lung_mask": np.eye(3, 3)},
        {"film_fits": {"pa": {"gain": 0.5, "shift_mm": [2.0, -4.0]}}},
    ],
)
def test_a_case_survives_its_record(block, changes):
    case = random_case((7, 8, 9), (1, 2, 3) if block else (0, 0, 0), block, **changes)
    back = decode_case(encode_case(case))
    for field in dataclasses.fields(Case):
        old, new = getattr(case, field.name), getattr(back, field.name)
        if isinstance(old, np.ndarray):
            assert new.dtype == old.dtype
            np.testing.assert_array_equal(new, old)
        else:
            assert new == old and type(new) is type(old)
    assert back.is_whole == (block is None)
    assert back.grid.shape_zyx == (7, 8, 9)


def test_a_record_without_films_says_nothing_of_them():
    assert "film_fits" not in msgpack.unpackb(encode_case(random_case((4, 4, 4))))


def test_a_record_of_another_schema_is_refused():
    fields = msgpack.unpackb(encode_case(random_case((4, 4, 4))))
    fields["schema_version"] = 99
    with pytest.raises(InputError, match=r"schema of a record is 99.*build the records again"):
        decode_case(msgpack.packb(fields))
    with pytest.raises(InputError, match="damaged"):
        decode_case(b"\x93junk")


def test_dataset_info_survives_its_file_and_another_schema_is_refused(tmp_path):
    (tmp_path / "dataset.json").write_text(INFO.to_json())
    assert read_dataset_info(tmp_path) == INFO
    other = dataclasses.replace(INFO, schema_version=1).to_json()
    (tmp_path / "dataset.json").write_text(other)
    with pytest.raises(InputError, match=r"schema of .* is 1, this edm3d reads 2"):
        read_dataset_info(tmp_path)
    (tmp_path / "dataset.json").write_text(INFO.to_json()[:100])
    with pytest.raises(InputError, match="damaged"):
        read_dataset_info(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        read_dataset_info(tmp_path / "none")


def test_ventilation_spans_minus_one_to_one_target_first():
    vector = ventilation_vector(random_case((4, 4, 4)), ScalarRanges((3.0, 15.0), (6.0, 12.0)))
    np.testing.assert_allclose(vector, [1, 0, 1, -1, -1, -1])
    assert vector.dtype == np.float32


@pytest.mark.parametrize(
    "prior, target, names",
    [
        ((3, 8, "expiration"), (3, 8, "inspiration"), ("opposite_phase",)),
        ((3, 8, "expiration"), (8, 8, "expiration"), ("peep_3_to_8",)),
        ((3, 8, "inspiration"), (13, 8, "inspiration"), ("peep_3_to_13",)),
        ((3, 8, "expiration"), (8, 8, "inspiration"), ()),
        ((3, 8, "expiration"), (8, 7, "expiration"), ()),
        ((8, 8, "expiration"), (3, 8, "expiration"), ()),
        ((5, 8, "expiration"), (8, 8, "expiration"), ()),
        ((3, 8, "expiration"), (3, 6, "inspiration"), ()),
    ],
)
def test_protocols_ask_the_papers_questions(prior, target, names):
    case = random_case(
        (4, 4, 4), prior_ventilation=Ventilation(*prior), target_ventilation=Ventilation(*target)
    )
    assert protocols_of(case) == names
