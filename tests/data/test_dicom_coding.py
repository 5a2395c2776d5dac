"""Transfer syntaxes, sequences and compression: the same pixels, however they are written."""

import sys
import zlib

import numpy as np
import pytest

from edm3d.data.dicom import hounsfield
from edm3d.data.dicom_frames import frames_of
from edm3d.data.dicom_header import read_header
from edm3d.data.dicom_pixels import stored_frames
from edm3d.data.dicom_tags import DEFLATED
from edm3d.data.volumes import read_ct
from edm3d.errors import InputError
from tests.data.dicom_phantoms import (
    EXPLICIT,
    IMPLICIT,
    SHAPE,
    data_set,
    enhanced_fields,
    refusal,
    write_file,
    write_series,
)
from tests.data.phantoms import chest


def test_sequences_nested_without_end_are_refused(tmp_path):
    path = tmp_path / "deep.dcm"
    write_file(path, {})
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(path.read_bytes() + (b"\x08\0\x40\x11SQ\0\0\xff\xff\xff\xff" + item) * 2000)
    assert "nested over 8 deep" in refusal(path)


@pytest.mark.parametrize("name", ["JPLL", "J2KR", "JLSL", "RLE"])
def test_four_compressed_codings_decode_to_the_pixels_that_gdcm_gives(real_data, name):
    import SimpleITK as sitk

    folder = real_data / "dicom" / "compressed_ct1"
    header = read_header(folder / f"CT1_{name}")
    (words,), (first,) = stored_frames(header), stored_frames(read_header(folder / "CT1_RLE"))
    hu = hounsfield(frames_of(header)[0], words)
    np.testing.assert_array_equal(words, first)
    gdcm = sitk.ReadImage(str(folder / f"CT1_{name}"), imageIO="GDCMImageIO")
    values = sitk.GetArrayFromImage(gdcm)[0]
    padded = values == -2000 - 1024
    np.testing.assert_array_equal(hu, np.where(padded, -1024, values))
    assert padded.mean() > 0.1 and np.mean((hu > 0) & (hu < 80)) > 0.1  # soft tissue


def test_a_compressed_series_reads_like_the_native_one(tmp_path, real_data):
    """Twelve copies of a real compressed slice, moved along z by their header."""
    source = (real_data / "dicom/compressed_ct1/CT1_JPLL").read_bytes()
    place = b"-158.135803\\-179.035797\\-75.699997"
    assert source.count(place) == 1
    (tmp_path / "s").mkdir()
    for z in range(12):
        moved = place.replace(b"-75.699997", b"%010.5f" % (5.0 * z))
        (tmp_path / "s" / f"{z}").write_bytes(source.replace(place, moved))
    volume = read_ct(tmp_path / "s")
    assert volume.values.shape == (12, 512, 512) and volume.grid.spacing_zyx_mm[0] == 5.0
    assert np.all(volume.values == volume.values[0]) and volume.values.min() == -1024


HIDDEN = b"MARKNAME"


def nested(explicit: bool, defined: bool) -> bytes:
    """A private sequence that holds a name, as an element before the pixels."""
    name = b"\x10\0\x10\0" + (b"PN\x08\0" if explicit else b"\x08\0\0\0") + HIDDEN
    position = b"\x20\0\x32\0" + (b"DS\x06\0" if explicit else b"\x06\0\0\0") + b"9\\9\\9 "
    item = name + position
    size = (len(item)).to_bytes(4, "little") if defined else b"\xff\xff\xff\xff"
    body = b"\xfe\xff\x00\xe0" + size + item
    body += b"" if defined else b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
    size = (len(body)).to_bytes(4, "little") if defined else b"\xff\xff\xff\xff"
    return b"\x41\0\x10\x10" + (b"SQ\0\0" if explicit else b"") + size + body


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
@pytest.mark.parametrize("defined", [True, False])
def test_sequences_of_any_coding_are_stepped_over(tmp_path, syntax, defined):
    hu = write_series(tmp_path / "s", syntax=syntax)
    for path in (tmp_path / "s").iterdir():
        data = path.read_bytes()
        place = data.index(b"\xe0\x7f\x10\0")
        inserted = nested(syntax == EXPLICIT, defined)
        path.write_bytes(data[:place] + inserted + data[place:])
    volume = read_ct(tmp_path / "s")
    np.testing.assert_array_equal(volume.values, hu)
    np.testing.assert_allclose(volume.grid.affine_lps[:3, 3], (-30, -20, 100))


def test_a_deflated_series_reads_and_a_broken_one_is_refused(tmp_path):
    def deflate(path) -> None:
        data = path.read_bytes()
        start = data.index(EXPLICIT.encode()) + len(EXPLICIT) + 1
        packed = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        body = packed.compress(data[start:]) + packed.flush()
        meta = data_set({0x00020010: ("UI", DEFLATED)}, EXPLICIT)
        path.write_bytes(bytes(128) + b"DICM" + meta + body)

    hu = write_series(tmp_path / "s")
    for path in (tmp_path / "s").iterdir():
        deflate(path)
    np.testing.assert_array_equal(read_ct(tmp_path / "s").values, hu)
    path = tmp_path / "s" / "003.dcm"
    path.write_bytes(path.read_bytes()[:-40])
    assert "003.dcm is no readable DICOM" in refusal(tmp_path / "s")


def encapsulated(codes: list[bytes]) -> bytes:
    """The bytes of compressed pixels, one fragment a frame, after an empty table of offsets."""
    parts = b"".join(
        b"\xfe\xff\x00\xe0" + len(code).to_bytes(4, "little") + code for code in (b"", *codes)
    )
    head = b"\xe0\x7f\x10\0OB\0\0\xff\xff\xff\xff"
    return head + parts + b"\xfe\xff\xdd\xe0\0\0\0\0"


def code_streams(folder, hu: np.ndarray) -> list[bytes]:
    """JPEG 2000 of every slice, stored as HU + 1024, as GDCM writes it."""
    import SimpleITK as sitk

    writer = sitk.ImageFileWriter()
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG2000")
    writer.SetFileName(str(folder / "one.dcm"))
    codes = []
    for plane in hu:
        writer.Execute(sitk.GetImageFromArray((plane[None].astype(int) + 1024).astype(np.uint16)))
        data = (folder / "one.dcm").read_bytes()
        codes.append(data[data.index(b"\xff\x4f\xff\x51") : data.rindex(b"\xfe\xff\xdd\xe0")])
    return codes


def write_compressed_frames(path, hu, codes) -> None:
    fields = enhanced_fields(hu)
    del fields[0x7FE00010]
    write_file(path, fields, "1.2.840.10008.1.2.4.90")
    path.write_bytes(path.read_bytes() + encapsulated(codes))


def test_a_compressed_enhanced_ct_reads_like_the_native_one(tmp_path):
    hu = chest((12, 64, 48))
    codes = code_streams(tmp_path, hu)
    write_compressed_frames(tmp_path / "e.dcm", hu, codes)
    np.testing.assert_array_equal(read_ct(tmp_path / "e.dcm").values, hu)


def test_code_streams_that_contradict_the_header_are_not_decoded(tmp_path):
    hu = chest((12, 64, 48))
    codes = code_streams(tmp_path, hu)
    bomb = codes[3][:8] + b"\0\0\xff\xff" * 2 + codes[3][16:]
    write_compressed_frames(tmp_path / "e.dcm", hu, [*codes[:3], bomb, *codes[4:]])
    assert "its code stream 65535 x 65535 x 1" in refusal(tmp_path / "e.dcm")
    write_compressed_frames(tmp_path / "e.dcm", hu, codes[:-1])
    assert "claims 12 frames and holds 11" in refusal(tmp_path / "e.dcm")
    cut = codes[3][:200] + bytes(len(codes[3]) - 200)
    write_compressed_frames(tmp_path / "e.dcm", hu, [*codes[:3], cut, *codes[4:]])
    refusal(tmp_path / "e.dcm")


def test_without_simpleitk_compressed_dicom_says_what_to_install(tmp_path, monkeypatch):
    hu = chest((12, 64, 48))
    write_compressed_frames(tmp_path / "e.dcm", hu, code_streams(tmp_path, hu))
    write_series(tmp_path / "s")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    assert read_ct(tmp_path / "s").values.shape == SHAPE  # native pixels need nothing more
    with pytest.raises(InputError, match="pip install SimpleITK"):
        read_ct(tmp_path / "e.dcm")


def test_an_unread_transfer_syntax_says_how_to_decompress(tmp_path):
    hu = chest(SHAPE)
    fields = enhanced_fields(hu)
    write_file(tmp_path / "e.dcm", fields, "1.2.840.10008.1.2.4.50")
    assert "decompress it without loss" in refusal(tmp_path / "e.dcm")
