"""MetaImage and NRRD read like NIfTI, or are refused in one line."""

import numpy as np
import pytest

from edm3d.data.volumes import read_ct, read_grid, read_mask, write_nifti
from edm3d.errors import InputError
from tests.data.phantoms import chest, lung_mask
from tests.data.test_volumes import oblique_grid

SHAPE = (9, 11, 13)
SUFFIXES = [".mha", ".mhd", ".nrrd", ".nhdr"]


def save(path, values, grid=None, *, packed=False):
    import SimpleITK as sitk

    grid = oblique_grid(SHAPE) if grid is None else grid
    image = sitk.GetImageFromArray(values)
    spacing = np.array(grid.spacing_zyx_mm[::-1])
    image.SetSpacing(spacing.tolist())
    image.SetDirection((grid.affine_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(grid.affine_lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path), useCompression=packed)
    return path


def refusal(path) -> str:
    with pytest.raises(InputError) as caught:
        read_ct(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def edit(path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_hu_and_place_are_those_of_the_nifti(tmp_path, suffix, packed):
    grid = oblique_grid(SHAPE)
    write_nifti(tmp_path / "ct.nii.gz", chest(SHAPE), grid)
    nifti = read_ct(tmp_path / "ct.nii.gz")
    path = save(tmp_path / f"ct{suffix}", chest(SHAPE), packed=packed)
    volume = read_ct(path)
    np.testing.assert_array_equal(volume.values, nifti.values)
    np.testing.assert_allclose(volume.grid.affine_lps, nifti.grid.affine_lps, atol=1e-4)
    np.testing.assert_allclose(read_grid(path).affine_lps, volume.grid.affine_lps)


def test_axes_are_turned_to_lps(tmp_path):
    grid = oblique_grid(SHAPE)
    affine = grid.affine_lps.copy()
    affine[:3, 3] += affine[:3, :2] @ (SHAPE[2] - 1, SHAPE[1] - 1)
    affine[:3, :2] *= -1
    flipped = type(grid)(SHAPE, affine)
    path = save(tmp_path / "ct.mha", np.ascontiguousarray(chest(SHAPE)[:, ::-1, ::-1]), flipped)
    volume = read_ct(path)
    np.testing.assert_array_equal(volume.values, chest(SHAPE))
    np.testing.assert_allclose(volume.grid.affine_lps, grid.affine_lps, atol=1e-6)


def test_a_mask_reads_from_nrrd(tmp_path):
    path = save(tmp_path / "m.nrrd", lung_mask(SHAPE), packed=True)
    np.testing.assert_array_equal(read_mask(path).values, lung_mask(SHAPE))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_files_are_refused_at_any_length(tmp_path, suffix):
    path = save(tmp_path / f"ct{suffix}", chest(SHAPE))
    data = path.read_bytes()
    for length in range(0, len(data) - 2, max(1, len(data) // 40)):
        path.write_bytes(data[:length])
        refusal(path)


def test_a_missing_file_of_values_is_refused(tmp_path):
    path = save(tmp_path / "ct.mhd", chest(SHAPE))
    (tmp_path / "ct.raw").unlink()
    assert "ct.raw" in refusal(path) and "missing" in refusal(path)


@pytest.mark.parametrize("name", [b"/etc/hostname", b"../ct.raw", b"a/ct.raw", b"LIST"])
def test_values_lie_in_one_file_of_the_same_folder(tmp_path, name):
    path = save(tmp_path / "ct.mhd", chest(SHAPE))
    edit(path, b"ct.raw", name)
    assert "outside its folder" in refusal(path) or "several files" in refusal(path)
    path = save(tmp_path / "ct.nhdr", chest(SHAPE))
    edit(path, b"ct.raw", name)
    assert "outside its folder" in refusal(path) or "several files" in refusal(path)


FAULTS = [
    (".mha", b"TransformMatrix", b"TransformedName", "left and right are unknown"),
    (".mha", b"DimSize = 13 11 9", b"DimSize = 1300 1100 9000", "at most 268435456"),
    (".mha", b"DimSize = 13 11 9", b"DimSize = 512 512 900", "breaks off"),
    (".mha", b"DimSize = 13 11 9", b"DimSize = 13 11 10", "breaks off"),
    (".mha", b"NDims = 3", b"NDims = 9", "three axes"),
    (".mha", b"BinaryData = True", b"BinaryData = False", "packed in a way"),
    (".nrrd", b"space: left-posterior-superior", b"space: scanner-xyz", "left and right are"),
    (".nrrd", b"sizes: 13 11 9", b"sizes: 13 11 90000000", "at most 268435456"),
    (".nrrd", b"encoding: raw", b"encoding: hex", "packed in a way"),
    (".nrrd", b"NRRD0004", b"NRXD0004", "no NRRD mark"),
]


@pytest.mark.parametrize("suffix, old, new, reason", FAULTS)
def test_headers_are_judged_before_values_are_read(tmp_path, suffix, old, new, reason):
    path = save(tmp_path / f"ct{suffix}", chest(SHAPE))
    edit(path, old, new)
    with pytest.raises(InputError, match=reason):
        read_ct(path)


def test_colour_and_flat_pictures_are_refused(tmp_path):
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.uint8), isVector=True)
    sitk.WriteImage(image, str(tmp_path / "rgb.mha"))
    assert "several values a voxel" in refusal(tmp_path / "rgb.mha")
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((5, 5), np.int16)), str(tmp_path / "flat.mha"))
    assert "give one 3-D volume" in refusal(tmp_path / "flat.mha")


def test_a_refusal_prints_nothing_beside_itself(tmp_path, capfd):
    path = save(tmp_path / "ct.mha", chest(SHAPE), packed=True)
    path.write_bytes(path.read_bytes()[:-200])
    refusal(path)
    assert capfd.readouterr() == ("", "")
