"""Films in the check of a data set: right ones make no finding, wrong ones are named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from data_prep.check_dataset import as_json, geometry_of_config
from data_prep.dataset_check import page
from data_prep.dataset_check.film_faults import findings_of_films
from data_prep.dataset_check.judge import FATAL, WARNING
from data_prep.dataset_check.measure import see
from edm3d.data.bedside import bedside_xray
from edm3d.data.manifest import Scan, Ventilation, read_manifest
from edm3d.data.projection import xray
from edm3d.data.volumes import read_ct, resample, working_grid
from edm3d.data.xray_geometry import Bedside, Cone, Geometry
from tests.configurations import load_config
from tests.data.films import write_dicom, write_picture
from tests.data.test_film_match import film_pixels
from tests.data_prep.chests import body_hu, rows_of, write_scans
from tests.data_prep.small_cohort import table
from tests.data_prep.test_check_dataset import check, kinds

BEDSIDE = Geometry(bedside=Bedside(seed=5))
REAL = ("popi_4dct_5mm/phase10", "lungdx_A0001/ct_kernelB", "4dlung_P113_phase40/ct")

OF_ONE_SUBJECT = ("split", "no partner")  # what a table of one subject lacks


def scan_of(ct, **films) -> Scan:
    scan = Scan(2, "p", "a", "early", "supine", Ventilation(5, 8, "inspiration"), ct)
    return replace(scan, **films)


def film_of(ct, view, path, turn=lambda image: image):
    """A bedside film of a CT, changed by `turn` (rows to superior), as DICOM of 16 bit."""
    volume = read_ct(ct)
    hu = np.rint(resample(volume, working_grid(volume.grid, 4.0))).astype(np.int16)
    image = bedside_xray(hu, view, BEDSIDE, spacing_mm=4.0, case_id=path.stem)
    pixels = np.rint(1000 + 400 * film_pixels(turn(image))).clip(0, 65535).astype(np.uint16)
    return write_dicom(path, pixels, imager_spacing_mm=(1.0, 1.0))


def findings_with(ct, pa, lat):
    return findings_of_films(see(scan_of(ct, xray_pa=pa, xray_lat=lat)))


@pytest.mark.parametrize("name", REAL)
def test_right_films_of_real_chests_make_no_finding(real_data, tmp_path, name):
    ct = real_data / "real" / f"{name}.nii.gz"
    pa, lat = (film_of(ct, view, tmp_path / f"{view}.dcm") for view in ("pa", "lat"))
    seen = see(scan_of(ct, xray_pa=pa, xray_lat=lat))
    assert findings_of_films(seen) == []
    assert [film.view for film in seen.films] == ["pa", "lat"]
    assert all(film.picture[:2] == b"\xff\xd8" for film in seen.films)


def test_right_films_of_virtual_pigs_make_no_finding(cohort, tmp_path):
    firsts = {row["subject"]: row for row in table(cohort / "scans.csv")}
    for row in firsts.values():
        ct = cohort / row["ct"]
        films = [film_of(ct, v, tmp_path / f"{row['subject']}{v}.dcm") for v in ("pa", "lat")]
        assert findings_with(ct, *films) == []


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize(
    "named, turn",
    [("mirrored", lambda image: image[:, ::-1]), ("upside down", lambda image: image[::-1])],
)
def test_a_film_hung_wrongly_is_named(real_data, tmp_path, name, named, turn):
    ct = real_data / "real" / f"{name}.nii.gz"
    films = [film_of(ct, view, tmp_path / f"{view}.dcm", turn) for view in ("pa", "lat")]
    found = findings_with(ct, *films)
    assert [f.kind for f in found] == ["film", "film"]
    assert all(named in f.message for f in found), found


@pytest.mark.parametrize("name", REAL)
def test_films_given_as_each_other_s_view_are_named(real_data, tmp_path, name):
    ct = real_data / "real" / f"{name}.nii.gz"
    pa, lat = (film_of(ct, view, tmp_path / f"{view}.dcm") for view in ("lat", "pa"))
    found = findings_with(ct, pa, lat)
    assert len(found) == 2 and all("as the other view" in f.message for f in found), found


@pytest.mark.parametrize(("own", "other"), [(0, 2), (2, 0), (0, 1), (1, 2)])
def test_a_frontal_film_of_another_subject_is_told(real_data, tmp_path, own, other):
    ct, strange = (real_data / "real" / f"{REAL[i]}.nii.gz" for i in (own, other))
    pa = film_of(strange, "pa", tmp_path / "pa.dcm")
    (finding,) = findings_of_films(see(scan_of(ct, xray_pa=pa)))
    assert finding.level in (WARNING, FATAL) and "subject" in finding.message


def cohort_with_films(folder, **cells):
    """The two scans of one subject; the first names a frontal PNG of its own chest."""
    image = xray(body_hu(), "pa", Geometry(), spacing_mm=4.0)
    pixels = np.rint(500 + 400 * film_pixels(image)).astype(np.uint16)
    write_picture(folder / "pa.png", pixels)
    rows = rows_of("p", "train")
    rows[0] |= {"xray_pa": "pa.png", "xray_pa_pixel_mm": 1.0, **cells}
    return write_scans(folder, rows, {})


def test_films_are_opened_and_shown_without_a_config(tmp_path):
    seen, findings = check(cohort_with_films(tmp_path))
    assert {f.kind for f in findings} == {"split"}
    (film,) = seen[0].films
    assert film.fit.correlation > 0.98 and film.fit.shift_mm == (0, 0) and seen[1].films == ()
    text = page.render(seen, findings, ["fine"])
    assert text.count("data:image/jpeg;base64,") == 3
    assert "pa film against p/ee: correlation " in text and "moved +0 mm up" in text
    told = json.loads(as_json(seen, findings, []))["scans"]
    assert told[0]["films"][0]["fit"]["correlation"] == film.fit.correlation
    assert "picture" not in told[0]["films"][0] and told[1]["films"] == []


@pytest.mark.parametrize(
    "cells, kind, message",
    [
        ({"xray_pa_pixel_mm": ""}, "film", "states no pixel size; give xray_pa_pixel_mm"),
        ({"xray_pa": "p_ei.nii.gz"}, "film", "give one 2-D picture"),
        ({"xray_pa": "none.png"}, "manifest", "no such file"),
        ({"xray_pa_pixel_mm": "wide"}, "manifest", "give a number"),
    ],
)
def test_a_film_that_cannot_be_used_is_told_once(tmp_path, cells, kind, message):
    _, findings = check(cohort_with_films(tmp_path, **cells))
    (finding,) = [f for f in findings if f.kind not in OF_ONE_SUBJECT]
    assert (finding.kind, finding.rows, finding.level) == (kind, (2,), FATAL)
    assert message in finding.message


def test_films_of_an_unreadable_scan_are_opened_too(tmp_path):
    manifest = cohort_with_films(tmp_path, xray_pa_pixel_mm="")
    (tmp_path / "p_ee.nii.gz").write_bytes(b"junk")
    _, findings = check(manifest)
    assert {("unreadable", (2,)), ("film", (2,))} <= kinds(findings, FATAL)


def films_alone(folder):
    """The first scan has films and no CT."""
    image = xray(body_hu(), "lat", Geometry(), spacing_mm=4.0)
    pixels = np.rint(500 + 400 * film_pixels(image)).astype(np.uint16)
    write_dicom(folder / "lat.dcm", pixels, imager_spacing_mm=(1.0, 1.0))
    manifest = cohort_with_films(folder, xray_lat="lat.dcm")
    manifest.write_text(manifest.read_text().replace("p_ee.nii.gz", ""))
    return manifest


def test_films_without_a_ct_are_held_against_a_scan_of_their_session(tmp_path):
    seen, findings = check(films_alone(tmp_path))
    assert [film.of_ct for film in seen[0].films] == ["p/ei", "p/ei"]
    assert all(film.fit.correlation > 0.9 for film in seen[0].films)
    assert seen[0].measured is None and not seen[0].fault and "film" not in kinds(findings)
    assert kinds(findings) == {("split", ())}  # no training pair is left
    assert "pa film against p/ei" in page.render(seen, findings, ["fine"])
    json.loads(as_json(seen, findings, []))


def test_a_session_of_films_alone_has_no_prior(tmp_path):
    manifest = films_alone(tmp_path)
    head, first, _ = manifest.read_text().splitlines()
    for name in ("pa.png", "lat.dcm"):
        (tmp_path / f"x{name}").write_bytes((tmp_path / name).read_bytes())
    second = first.replace(",ee,", ",ei,").replace("pa.png", "xpa.png").replace("lat.", "xlat.")
    manifest.write_text("\n".join([head, first, second]) + "\n")
    assert len(read_manifest(manifest)) == 2
    seen, findings = check(manifest)
    assert ("no prior", (2, 3)) in kinds(findings, WARNING)
    assert all(film.fit is None and not film.fault for one in seen for film in one.films)


def test_films_are_matched_in_the_config_s_geometry():
    config = load_config("ards.py")
    assert geometry_of_config(None).cone is None and geometry_of_config(config).cone is None
    config.data.geometry = "cone"
    assert geometry_of_config(config).cone == Cone()
