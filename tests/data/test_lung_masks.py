"""A lung mask that is not its CT's is refused, by the records and by the check alike."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from edm3d.data.cases import read_cases
from edm3d.data.lung_masks import TOLERANCE_MM, read_lung_mask
from edm3d.data.manifest import read_manifest
from edm3d.data.records import write_records, write_share
from edm3d.data.share import Share
from edm3d.data.volumes import Grid, read_grid, write_nifti
from edm3d.errors import InputError
from tests.data.phantoms import axial_grid, lung_mask, settings, write_cohort

SHAPE = (20, 26, 30)
CT = Path("ct.nii.gz")


def write(path: Path, values: np.ndarray, grid: Grid) -> Path:
    write_nifti(path, values.astype(np.uint8), grid)
    return path


def moved(millimetres: float) -> Grid:
    return axial_grid(SHAPE, origin=(millimetres, 0.0, 0.0))


def labelled(*labels: int) -> np.ndarray:
    """The usual mask with some voxels of the labels given."""
    values = lung_mask(SHAPE)
    values.flat[: len(labels)] = labels
    return values


def one_voxel() -> np.ndarray:
    values = np.zeros(SHAPE)
    values[10, 13, 8] = 1
    return values


WRONG = {  # the mask's labels and grid, and what its refusal says
    "apart": (
        lung_mask(SHAPE),
        moved(900.0),
        "lies up to 900 mm beside .* on the CT's grid",
    ),
    "a voxel off": (lung_mask(SHAPE), moved(4.0), "lies up to 4 mm beside its CT .* another grid"),
    "other spacing": (lung_mask(SHAPE), axial_grid(SHAPE, 3.9), r"up to 4\.27 mm beside its CT"),
    "one slice fewer": (
        lung_mask(SHAPE)[1:],
        axial_grid((19, 26, 30), origin=(0.0, 0.0, 4.0)),
        "is 19 x 26 x 30 voxels .* and its CT .* 20 x 26 x 30: it is on another grid",
    ),
    "empty": (np.zeros(SHAPE), moved(0.0), "is 0 everywhere; give a mask with lung"),
    "a third label": (labelled(3), moved(0.0), "holds labels 0, 1, 2, 3; use 0 outside, 1 right"),
    "lobes": (labelled(*range(3, 9)), moved(0.0), r"holds labels 0, 1, 2, 3, 4, 5, \.\.\.; use 0"),
    "sides swapped": (
        np.array([0, 2, 1])[lung_mask(SHAPE)],
        moved(0.0),
        r"has label 1 .right. [\d.]+ mm to the left of label 2 .left.: .* use 1 right, 2 left",
    ),
    "mirrored": (lung_mask(SHAPE)[..., ::-1], moved(0.0), "swapped or it is mirrored"),
    "255": (255 * (lung_mask(SHAPE) > 0), moved(0.0), "holds labels 0, 255; use 0 outside"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mask_that_is_not_its_cts_is_refused_with_file_value_and_mend(tmp_path, what):
    values, grid, says = WRONG[what]
    path = write(tmp_path / "mask.nii.gz", values, grid)
    with pytest.raises(InputError, match=says) as caught:
        read_lung_mask(path, CT, moved(0.0))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [(1, 2), (1,), (2,)])
def test_a_mask_of_one_or_both_lungs_that_is_a_rounding_off_is_taken(tmp_path, labels):
    values = np.where(np.isin(lung_mask(SHAPE), labels), lung_mask(SHAPE), 0)
    path = write(tmp_path / "mask.nii.gz", values, moved(0.09))
    np.testing.assert_array_equal(read_lung_mask(path, CT, moved(0.0)).values, values)


def spread(per_voxel_mm: float) -> Grid:
    """Voxels of 4 mm and some more along x: farther beside the CT's with each."""
    grid = moved(0.0)
    affine = grid.affine_lps.copy()
    affine[0, 0] += per_voxel_mm
    return Grid(grid.shape_zyx, affine)


@pytest.mark.parametrize(
    ("near", "far"),
    [(moved(0.09), moved(0.11)), (moved(-0.09), moved(-0.11)), (spread(0.003), spread(0.004))],
)
def test_a_mask_is_taken_within_a_tenth_of_a_millimetre_and_no_farther(tmp_path, near, far):
    assert TOLERANCE_MM == 0.1  # as data_prep/README.md says
    path = write(tmp_path / "near.nii.gz", lung_mask(SHAPE), near)
    assert read_lung_mask(path, CT, moved(0.0)).values.any()
    path = write(tmp_path / "far.nii.gz", lung_mask(SHAPE), far)
    with pytest.raises(InputError, match=r"lies up to 0\.11\d* mm beside its CT"):
        read_lung_mask(path, CT, moved(0.0))


def turned(degrees: float) -> Grid:
    """The usual grid, its axes turned about the patient's long axis."""
    grid = moved(0.0)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.array([[cosine, -sine, 0, 0], [sine, cosine, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return Grid(grid.shape_zyx, turn @ grid.affine_lps)


@pytest.mark.parametrize("degrees", [-30, 0, 30])
def test_sides_are_those_of_the_patient_whatever_the_axes_and_sizes_of_the_lungs(tmp_path, degrees):
    values, grid = lung_mask(SHAPE), turned(degrees)
    values[:15][values[:15] == 1] = 0  # a small right lung, high up
    path = write(tmp_path / "mask.nii.gz", values, grid)
    assert read_lung_mask(path, CT, grid).values.any()
    write(path, np.array([0, 2, 1])[values], grid)
    with pytest.raises(InputError, match="swapped"):
        read_lung_mask(path, CT, grid)


@pytest.fixture
def scans(tmp_path):
    return read_manifest(write_cohort(tmp_path, {"p": "train"}))


def replace_mask(scan, values: np.ndarray, grid: Grid | None = None) -> None:
    write(scan.lung_mask, values, grid or read_grid(scan.ct))


def test_records_name_every_mask_on_another_grid_with_its_row_before_any_is_built(scans, tmp_path):
    for scan in scans[:2]:
        replace_mask(scan, lung_mask(SHAPE), moved(900.0))
    for build in (
        lambda: write_records(scans, tmp_path / "out", settings(), seed=0),
        lambda: write_share(scans, tmp_path / "out", settings(), Share(1, 2)),
    ):
        with pytest.raises(InputError) as caught:
            build()
        lines = str(caught.value).splitlines()
        assert [line.split(":")[0] for line in lines] == ["row 2", "row 3"]
        assert all("another grid" in line for line in lines)
        assert not [path for path in tmp_path.iterdir() if "out" in path.name]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros(SHAPE), "_b_mask.nii.gz is 0 everywhere"),
        (labelled(7), "_b_mask.nii.gz holds labels 0, 1, 2, 7"),
        (lung_mask(SHAPE)[..., ::-1], "_b_mask.nii.gz has label 1 .right. .* to the left"),
        (one_voxel(), "_b_mask.nii.gz leaves no voxel of 9 mm on the grid of"),
    ],
)
def test_records_take_no_mask_without_lung_or_with_other_labels(scans, tmp_path, values, says):
    replace_mask(scans[1], values)
    with pytest.raises(InputError, match=says):
        write_records(scans, tmp_path / "out", settings(spacing_mm=9.0), seed=0)
    assert not (tmp_path / "out").exists()


def test_records_hold_the_lung_of_every_mask_they_took(scans, tmp_path):
    scans = [dataclasses.replace(s, split="test" if s.scan == "c" else "train") for s in scans]
    write_records(scans, tmp_path / "out", settings(), seed=0, split_by="pair")
    for case in read_cases(tmp_path / "out", "test"):
        for labels in (case.prior_lung_mask, case.target_lung_mask):
            assert labels is not None and set(np.unique(labels)) == {0, 1, 2}
