import os
import subprocess
import sys

import numpy as np
import pytest

from edm3d.data.projection import xray
from edm3d.data.volumes import write_nifti
from edm3d.data.xray_geometry import Geometry
from tests.configurations import ROOT
from tests.data.films import write_dicom, write_picture
from tests.data.phantoms import axial_grid, chest
from tests.data.test_film_match import film_pixels

SHAPE = (40, 36, 44)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A prior, its two films moved, and one that is none."""
    path = tmp_path_factory.mktemp("preview")
    hu = chest(SHAPE)
    write_nifti(path / "ct.nii.gz", hu, axial_grid(SHAPE, 4.0))
    for view in ("pa", "lat"):
        image = xray(hu, view, Geometry(), spacing_mm=4.0)
        pixels = np.rint(100 + 500 * film_pixels(image, shift=(8, 0))).astype(np.uint16)
        write_dicom(path / f"{view}.dcm", pixels, imager_spacing_mm=(1.0, 1.0))
    write_picture(path / "lat.png", pixels[::2, ::2])  # pixels of 2 mm
    (path / "bad.dcm").write_text("no film")
    return path


def preview(folder, *flags):
    script = str(ROOT / "data_prep" / "preview_xrays.py")
    return subprocess.run(
        [sys.executable, script, f"--prior={folder}/ct.nii.gz", *flags],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
    )


def test_both_views_are_drawn_and_their_fit_is_told(folder, tmp_path):
    out = tmp_path / "preview.png"
    done = preview(folder, "--xray_pa=pa.dcm", "--xray_lat=lat.png", "--pixel_mm=2", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert out.read_bytes().startswith(b"\x89PNG") and list(tmp_path.iterdir()) == [out]
    lines = done.stdout.splitlines()
    assert [line[:4] for line in lines] == ["pa: ", "lat:"]
    assert all("line integral = 0.002" in line and "moved +8 mm up" in line for line in lines)


@pytest.mark.parametrize(
    "flags, message",
    [
        ((), "--xray_pa and --xray_lat are missing"),
        (("--xray_pa=bad.dcm",), "no DICOM, PNG or NIfTI"),
        (("--xray_lat=lat.png",), "states no pixel size"),
        (("--xray_pa=pa.dcm", "--out=preview.txt"), "give a .png"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(folder, tmp_path, flags, message):
    done = preview(folder, f"--out={tmp_path}/preview.png", *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0]
    assert list(tmp_path.iterdir()) == []


DATA = "dict(spacing_mm=4.0, antialias=False, mu_water_per_mm=0.02, cone=dict(tilt=1.0))"


@pytest.mark.parametrize("content", ["seed=0", f"seed=0, data={DATA}"])
def test_a_config_of_no_data_or_an_unknown_cone_key_is_one_line(folder, tmp_path, content):
    config = tmp_path / "config.py"
    make = f"return ml_collections.ConfigDict(dict({content}))"
    config.write_text(f"import ml_collections\n\n\ndef get_config():\n    {make}\n")
    flags = ("--xray_pa=pa.dcm", f"--config={config}", f"--out={tmp_path}/preview.png")
    done = preview(folder, *flags)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "section data of --config" in errors[0]


def test_a_pixel_size_that_is_not_the_film_s_is_refused(folder, tmp_path):
    flags = (f"--xray_pa={folder}/pa.dcm", f"--out={tmp_path}/a.png")
    done = preview(folder, *flags, "--pixel_mm=1.5")
    assert done.returncode == 2 and "--pixel_mm is 1.5, but X-ray" in done.stderr


def test_a_folder_as_output_is_refused_before_the_work(folder, tmp_path):
    (tmp_path / "a.png").mkdir()
    done = preview(folder, f"--xray_pa={folder}/bad.dcm", f"--out={tmp_path}/a.png")
    assert done.returncode == 2 and "--out is" in done.stderr
