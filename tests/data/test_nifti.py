"""NIfTI headers that contradict themselves or claim what no file holds."""

import gzip

import nibabel
import numpy as np
import pytest

from edm3d.data.volumes import read_ct, read_grid
from edm3d.errors import InputError
from tests.data.phantoms import chest

SHAPE = (9, 11, 13)
AFFINE = np.array([[-2.0, 0, 0, 40], [0, -2.5, 0, 30], [0, 0, 3, -10], [0, 0, 0, 1]])
SCANNER, ALIGNED, ATLAS = 1, 2, 4
DIM, PIXDIM, VOX_OFFSET, SCL_SLOPE = 40, 76, 108, 112  # bytes, NIfTI-1 header


def save(path, values=None, *, sform=AFFINE, s_code=SCANNER, qform=AFFINE, q_code=SCANNER):
    values = chest(SHAPE).transpose(2, 1, 0) if values is None else values
    image = nibabel.Nifti1Image(values, AFFINE)
    image.set_sform(sform, code=s_code)
    image.set_qform(qform, code=q_code)
    nibabel.save(image, path)
    return path


def patched(path, offset: int, values) -> None:
    """Overwrites header fields of a .nii or .nii.gz."""
    raw = path.read_bytes()
    packed = raw[:2] == b"\x1f\x8b"
    data = bytearray(gzip.decompress(raw) if packed else raw)
    new = np.asarray(values).tobytes()
    data[offset : offset + len(new)] = new
    path.write_bytes(gzip.compress(bytes(data)) if packed else bytes(data))


def moved(x_mm: float) -> np.ndarray:
    return AFFINE + np.array([[0, 0, 0, x_mm], *[[0.0] * 4] * 3])


def origin_x(path) -> float:
    """Of the volume in LPS; the affine of these tests runs to left and posterior already."""
    return float(read_grid(path).affine_lps[0, 3])


def test_where_sform_and_qform_differ_the_scanner_holds(tmp_path):
    path = tmp_path / "ct.nii.gz"
    for other in (ALIGNED, ATLAS):
        save(path, sform=moved(7), s_code=other)
        assert origin_x(path) == pytest.approx(-40)
        save(path, qform=moved(7), q_code=other)
        assert origin_x(path) == pytest.approx(-40)


@pytest.mark.parametrize("code", [SCANNER, ALIGNED])
def test_two_forms_of_one_claim_that_differ_are_refused_by_both_names(tmp_path, code):
    path = save(tmp_path / "ct.nii.gz", sform=moved(7), s_code=code, q_code=code)
    reason = f"sform .code {code}. and qform .code {code}. .* 7 mm apart"
    with pytest.raises(InputError, match=reason):
        read_ct(path)


def test_a_mirrored_form_is_refused(tmp_path):
    path = save(tmp_path / "ct.nii.gz", qform=AFFINE * [[-1], [1], [1], [1]])
    with pytest.raises(InputError, match=r"sform .* and qform"):
        read_ct(path)


def test_rounding_between_the_forms_is_no_conflict(tmp_path):
    path = save(tmp_path / "ct.nii.gz", qform=moved(0.4))  # of voxels of 2 mm
    assert origin_x(path) == pytest.approx(-40)


def test_one_form_alone_holds(tmp_path):
    path = save(tmp_path / "ct.nii.gz", sform=None, s_code=0, qform=moved(5))
    assert origin_x(path) == pytest.approx(-45)
    path = save(tmp_path / "ct.nii.gz", qform=None, q_code=0, sform=moved(6))
    assert origin_x(path) == pytest.approx(-46)


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_slope_and_intercept_hold_in_every_type_and_byte_order(tmp_path, kind, order):
    stored = (chest(SHAPE).transpose(2, 1, 0).astype(kind) * 1 + kind(1024)) * kind(2)
    header = nibabel.Nifti1Header(endianness=order)
    header.set_data_dtype(kind)
    image = nibabel.Nifti1Image(stored, AFFINE, header)
    nibabel.save(image, tmp_path / "ct.nii.gz")
    patched(tmp_path / "ct.nii.gz", SCL_SLOPE, np.array([0.5, -1024], f"{order}f4"))
    expected = chest(SHAPE)
    np.testing.assert_array_equal(read_ct(tmp_path / "ct.nii.gz").values, expected)


def test_a_qform_without_voxel_sizes_is_not_taken_as_one_of_1_mm(tmp_path):
    path = save(tmp_path / "ct.nii.gz", sform=None, s_code=0)
    patched(path, PIXDIM + 4, np.zeros(3, np.float32))
    with pytest.raises(InputError, match=r"voxel size of .* is 0 x 0 x 0 mm"):
        read_ct(path)


def test_nifti_2_reads_alike(tmp_path):
    image = nibabel.Nifti2Image(chest(SHAPE).transpose(2, 1, 0), AFFINE)
    nibabel.save(image, tmp_path / "two.nii.gz")
    np.testing.assert_array_equal(read_ct(tmp_path / "two.nii.gz").values, chest(SHAPE))


def test_what_a_suffix_says_of_packing_does_not_matter(tmp_path):
    path = save(tmp_path / "ct.nii.gz")
    (tmp_path / "plain.nii.gz").write_bytes(gzip.decompress(path.read_bytes()))
    np.testing.assert_array_equal(read_ct(tmp_path / "plain.nii.gz").values, chest(SHAPE))


def test_a_header_that_claims_too_much_is_refused_with_the_limit(tmp_path):
    path = save(tmp_path / "ct.nii.gz")
    patched(path, DIM, np.int16([3, 4096, 4096, 4096]))
    with pytest.raises(InputError, match=r"4096 x 4096 x 4096 voxels .* at most 268435456"):
        read_grid(path)


def test_a_header_that_claims_more_than_its_file_can_hold_is_refused(tmp_path):
    for name in ("ct.nii.gz", "ct.nii"):
        path = save(tmp_path / name)
        patched(path, DIM, np.int16([3, 512, 512, 1000]))
        with pytest.raises(InputError, match=r"breaks off .its header claims 524288000 bytes"):
            read_ct(path)


def test_a_bomb_behind_the_voxels_or_before_them_is_not_unpacked(tmp_path):
    path = save(tmp_path / "ct.nii.gz")
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data + bytes(2**26), 1))
    with pytest.raises(InputError, match="goes on for over 16777216 bytes"):
        read_ct(path)
    data = bytearray(data + bytes(2**26))
    data[VOX_OFFSET : VOX_OFFSET + 4] = np.float32(2**25).tobytes()
    path.write_bytes(gzip.compress(bytes(data), 1))
    with pytest.raises(InputError, match="bytes of header"):
        read_ct(path)


def test_a_flipped_bit_in_packed_voxels_is_found(tmp_path):
    """Stored blocks of deflate take any bit: only the checksum at the end tells."""
    path = save(tmp_path / "ct.nii.gz")
    data = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"breaks off .CRC check failed"):
        read_ct(path)


@pytest.mark.parametrize("kind", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_several_components_are_refused(tmp_path, kind):
    path = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, kind))
    with pytest.raises(InputError, match="several components"):
        read_ct(path)


def test_a_pair_of_header_and_image_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(chest(SHAPE), AFFINE), tmp_path / "ct.hdr")
    with pytest.raises(InputError, match=r"give one .nii.gz"):
        read_ct(tmp_path / "ct.hdr")


@pytest.mark.parametrize("read", [read_ct, read_grid])
def test_a_machine_without_memory_does_not_make_a_file_damaged(tmp_path, monkeypatch, read):
    def full(path):
        raise MemoryError

    path = save(tmp_path / "ct.nii.gz")
    monkeypatch.setattr("edm3d.data.nifti._open", full)
    with pytest.raises(MemoryError):
        read(path)
