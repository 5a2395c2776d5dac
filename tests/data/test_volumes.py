import gzip
import itertools
import os
import subprocess
import sys

import nibabel
import numpy as np
import pytest
from nibabel.orientations import inv_ornt_aff

from edm3d.data.volumes import (
    Grid,
    Volume,
    coverage,
    read_ct,
    read_grid,
    read_mask,
    resample,
    same_grid,
    working_grid,
    write_nifti,
)
from edm3d.errors import InputError
from tests.configurations import ROOT
from tests.data.phantoms import axial_grid, chest, lung_mask

SHAPE = (9, 11, 13)
LPS_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
ORIENTATIONS = [
    np.array([axes, signs], float).T
    for axes in itertools.permutations(range(3))
    for signs in itertools.product((1, -1), repeat=3)
]


def oblique_grid(shape=SHAPE) -> Grid:
    """A grid turned by about 25 degrees around a skew axis, with three different spacings."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_rotvec([0.2, -0.3, 0.25]).as_matrix() @ np.diag([2.0, 2.5, 3.0])
    affine[:3, 3] = (-31.0, 12.0, 740.0)
    return Grid(shape, affine)


def save_turned(path, values_zyx, grid, orientation) -> None:
    """Stores the volume with its voxel axes permuted and flipped; places in space stay."""
    xyz = values_zyx.transpose(2, 1, 0)
    stored = nibabel.orientations.apply_orientation(xyz, orientation)
    affine = LPS_RAS @ grid.affine_lps @ inv_ornt_aff(orientation, xyz.shape)
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)


@pytest.mark.parametrize("grid", [axial_grid(SHAPE, 2.5, (-40.0, 8.0, 300.0)), oblique_grid()])
def test_hu_and_affine_survive_every_orientation(tmp_path, grid):
    hu = chest(SHAPE)
    for orientation in ORIENTATIONS:
        save_turned(tmp_path / "ct.nii.gz", hu, grid, orientation)
        volume = read_ct(tmp_path / "ct.nii.gz")
        np.testing.assert_array_equal(volume.values, hu)
        # NIfTI keeps its affine in float32: 1e-4 mm at coordinates below 1000 mm.
        np.testing.assert_allclose(volume.grid.affine_lps, grid.affine_lps, atol=1e-4)
        assert same_grid(read_grid(tmp_path / "ct.nii.gz"), volume.grid, tolerance_mm=1e-9)
    assert len(ORIENTATIONS) == 48


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
def test_writing_and_reading_returns_the_same_grid_and_values(tmp_path, dtype):
    grid = oblique_grid()
    values = lung_mask(SHAPE).astype(dtype)
    write_nifti(tmp_path / "v.nii.gz", values, grid)
    image = nibabel.load(tmp_path / "v.nii.gz")
    assert image.get_data_dtype() == dtype
    np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-4)
    volume = read_mask(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(volume.values, values)
    np.testing.assert_allclose(volume.grid.affine_lps, grid.affine_lps, atol=1e-4)
    assert [p.name for p in tmp_path.iterdir()] == ["v.nii.gz"]


def test_writing_twice_gives_the_same_bytes(tmp_path):
    for name in ("first.nii.gz", "second.nii.gz"):
        write_nifti(tmp_path / name, chest(SHAPE), oblique_grid())
    assert (tmp_path / "first.nii.gz").read_bytes() == (tmp_path / "second.nii.gz").read_bytes()


def ramp(grid: Grid) -> np.ndarray:
    """A function linear in scanner coordinates, on the voxels of `grid`."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in grid.shape_zyx), indexing="ij")
    points = np.stack([x, y, z, np.ones_like(x)], -1) @ grid.affine_lps.T
    return points[..., :3] @ np.array([3.0, -2.0, 1.5]) - 900.0


@pytest.mark.parametrize("source", [oblique_grid((30, 34, 40)), axial_grid((30, 34, 40), 2.2)])
@pytest.mark.parametrize("turned", [False, True])
def test_resampling_a_ramp_in_scanner_coordinates_is_exact(source, turned):
    inner = working_grid(source, 3.7)
    affine = inner.affine_lps.copy()
    if turned:
        affine[:3, :3] = (
            affine[:3, :3] @ np.linalg.qr(np.array([[9, 1, 0], [0, 9, 2], [1, 0, 9]]))[0]
        )
    target = Grid((7, 6, 8), affine)
    target.affine_lps[:3, 3] = source.affine_lps[:3, :3] @ (18.0, 16.0, 13.0)
    target.affine_lps[:3, 3] += source.affine_lps[:3, 3]
    values = resample(Volume(ramp(source), source), target, fill=np.nan)
    inside = np.isfinite(values)
    assert inside.mean() > 0.5
    # Within half a voxel of the faces the edge value stands, so look at the interior.
    deep = resample(Volume(np.pad(np.ones([n - 2 for n in source.shape_zyx]), 1), source), target)
    np.testing.assert_allclose(values[deep == 1], ramp(target)[deep == 1], atol=1e-8)
    assert np.count_nonzero(deep == 1) > 100


def test_outside_is_fill_and_half_a_voxel_beyond_the_centres_is_inside():
    source = axial_grid((4, 4, 4), 2.0)
    target = axial_grid((12, 4, 4), 1.0, (0.0, 0.0, -4.0))  # z centres -4, -3, ..., 7
    values = resample(Volume(np.ones((4, 4, 4), np.float32), source), target, fill=-5.0)
    np.testing.assert_array_equal(values[:, 0, 0], [-5, -5, -5, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    assert coverage(source, target) == pytest.approx(9 / 12)


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0, 3.3, 7.0])
def test_working_grid_is_isotropic_covers_the_extent_and_keeps_centre_and_directions(spacing_mm):
    old = oblique_grid()
    new = working_grid(old, spacing_mm)
    np.testing.assert_allclose(new.spacing_zyx_mm, spacing_mm)
    extent = np.array(old.shape_zyx) * old.spacing_zyx_mm
    spare = np.array(new.shape_zyx) * spacing_mm - extent
    assert np.all(spare > -0.01 * spacing_mm) and np.all(spare < spacing_mm)
    assert coverage(old, new) == 1.0

    def centre(grid):
        return grid.affine_lps @ [*((n - 1) / 2 for n in grid.shape_zyx[::-1]), 1.0]

    np.testing.assert_allclose(centre(new), centre(old))
    np.testing.assert_allclose(
        new.affine_lps[:3, :3] / spacing_mm, old.affine_lps[:3, :3] / old.spacing_zyx_mm[::-1]
    )


def test_working_grid_of_an_isotropic_grid_is_that_grid():
    grid = axial_grid(SHAPE, 2.0, (5.0, -3.0, 1.0))
    assert same_grid(working_grid(grid, 2.0), grid)


def test_antialias_keeps_the_mean_and_lowers_aliased_noise():
    source = axial_grid((48, 48, 48), 1.0)
    noise = np.random.default_rng(0).normal(size=source.shape_zyx)
    target = working_grid(source, 4.0)
    plain = resample(Volume(noise, source), target)
    smooth = resample(Volume(noise, source), target, antialias=True)
    assert smooth.std() < 0.4 * plain.std()
    flat = resample(Volume(np.full(source.shape_zyx, 7.0), source), target, antialias=True)
    np.testing.assert_allclose(flat, 7.0)


def save(path, values, affine=None, codes=True):
    image = nibabel.Nifti1Image(values, np.diag([2.0, 2.0, 2.0, 1.0]) if affine is None else affine)
    if not codes:
        image.set_sform(None, code=0)
        image.set_qform(None, code=0)
    nibabel.save(image, path)


def patch_header(path, offset: int, values) -> None:
    """Overwrites fields of a .nii header in place, in the values' own dtype."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(np.asarray(values).tobytes())


DIM, DATATYPE, VOX_OFFSET, SCL_SLOPE, SROW_X = 40, 70, 108, 112, 280  # bytes, NIfTI-1 header


def test_stored_slope_and_intercept_are_honoured(tmp_path):
    hu = chest(SHAPE)
    save(tmp_path / "ct.nii", ((hu + 1024) * 2).transpose(2, 1, 0))
    patch_header(tmp_path / "ct.nii", SCL_SLOPE, np.float32([0.5, -1024.0]))
    # The test affine runs to right and anterior: reading flips x and y.
    np.testing.assert_array_equal(read_ct(tmp_path / "ct.nii").values, hu[:, ::-1, ::-1])


def test_padding_below_minus_1024_becomes_air(tmp_path):
    hu = chest(SHAPE)
    hu[:, 0] = -2048
    write_nifti(tmp_path / "ct.nii.gz", hu, axial_grid(SHAPE))
    values = read_ct(tmp_path / "ct.nii.gz").values
    assert np.all(values[:, 0] == -1024) and values.min() == -1024


def with_nan():
    values = chest(SHAPE).astype(np.float32)
    values[3, 4, 5] = np.nan
    return values


def lone_air():
    values = np.full(SHAPE, 40, np.int16)
    values[0, 0, 0] = -900
    return values


def save_with_field(path, offset: int, values) -> None:
    save(path, chest(SHAPE))
    patch_header(path, offset, values)


def save_with_rows(path, rows):
    save(path, chest(SHAPE))
    patch_header(path, SROW_X, rows.astype(np.float32))


RGB = np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
FAULTS = {
    "picture": (
        lambda p: save(p, np.arange(1287).reshape(SHAPE).astype(np.uint8)),
        "8-bit picture",
    ),
    "no air": (lambda p: save(p, chest(SHAPE).clip(-100)), "without air"),
    "stored values": (lambda p: save(p, chest(SHAPE) + np.int16(1024)), "intercept"),
    "no tissue": (lambda p: save(p, chest(SHAPE).clip(max=-600)), "without tissue"),
    "one air voxel": (lambda p: save(p, lone_air()), "air"),
    "nan": (lambda p: save(p, with_nan()), "NaN or infinity in 1 voxels"),
    "4-D": (lambda p: save(p, np.zeros((5, 5, 5, 3), np.int16)), "3-D"),
    "2-D": (lambda p: save(p, np.zeros((5, 5), np.int16)), "3-D"),
    "colour": (lambda p: save(p, RGB), "several components"),
    "vector": (lambda p: save(p, np.zeros((5, 5, 5, 1, 3), np.int16)), "3-D"),
    "no codes": (lambda p: save(p, chest(SHAPE), codes=False), "affine .* is unset"),
    "zero affine": (lambda p: save_with_rows(p, np.zeros(12)), "voxel size"),
    "nan affine": (lambda p: save_with_rows(p, np.full(12, np.nan)), "NaN"),
    "shear": (lambda p: save(p, chest(SHAPE), np.eye(4) + np.eye(4, k=1) * 0.3), "sheared"),
    "datatype": (lambda p: save_with_field(p, DATATYPE, np.int16(999)), "readable NIfTI"),
    "dimensions": (lambda p: save_with_field(p, DIM, np.int16(9)), "readable NIfTI"),
    "offset": (lambda p: save_with_field(p, VOX_OFFSET, np.float32(17.5)), "NIfTI|breaks off"),
    "far offset": (lambda p: save_with_field(p, VOX_OFFSET, np.float32(1e9)), "breaks off"),
    "text": (lambda p: p.write_bytes(b"hello"), "readable NIfTI"),
    "empty": (lambda p: p.write_bytes(b""), "readable NIfTI"),
    "dicom": (lambda p: p.write_bytes(bytes(128) + b"DICM" + bytes(100)), "DICOM"),
    "folder": (lambda p: p.mkdir(), "folder"),
    "missing": (lambda p: None, "does not exist"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_ct_is_refused_in_one_line(tmp_path, fault):
    make, reason = FAULTS[fault]
    path = tmp_path / "ct.nii"
    make(path)
    with pytest.raises(InputError, match=reason) as caught:
        read_ct(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


ONE_LINE = """
import sys

from edm3d.command import bad_input_exits_2
from edm3d.data.volumes import read_ct

with bad_input_exits_2():
    read_ct(sys.argv[1])
"""


@pytest.mark.parametrize("fault", ["datatype", "dimensions", "far offset"])
def test_a_damaged_header_ends_a_command_with_one_line_and_nothing_beside_it(tmp_path, fault):
    FAULTS[fault][0](tmp_path / "ct.nii")
    command = [sys.executable, "-c", ONE_LINE, str(tmp_path / "ct.nii")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, share):
    write_nifti(tmp_path / "ct.nii.gz", chest((30, 30, 30)), axial_grid((30, 30, 30)))
    data = (tmp_path / "ct.nii.gz").read_bytes()
    (tmp_path / "ct.nii.gz").write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError):
        read_ct(tmp_path / "ct.nii.gz")
    raw = gzip.decompress(data)
    (tmp_path / "ct.nii").write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(InputError):
        read_ct(tmp_path / "ct.nii")


def test_a_mask_with_fractions_is_refused(tmp_path):
    write_nifti(tmp_path / "m.nii.gz", np.full(SHAPE, 0.5, np.float32), axial_grid(SHAPE))
    with pytest.raises(InputError, match="whole numbers"):
        read_mask(tmp_path / "m.nii.gz")
