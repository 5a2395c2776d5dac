"""Records of cone beam, of bedside films and of real radiographs."""

import dataclasses

import numpy as np
import pytest

from edm3d import experiment
from edm3d.data.bedside import bedside_xray
from edm3d.data.cases import encode_case, read_cases, read_dataset_info
from edm3d.data.film_match import match_film
from edm3d.data.manifest import read_manifest
from edm3d.data.projection import xray
from edm3d.data.radiograph import read_radiograph
from edm3d.data.records import cases_of_manifest, write_records
from edm3d.data.xray_geometry import Bedside, Cone, Geometry
from edm3d.diffusion.sampler import Churn
from edm3d.errors import InputError
from edm3d.generation import Solver
from edm3d.sample_folder import case_record
from edm3d.told import Told
from tests.configurations import load_config
from tests.data.films import write_dicom, write_picture
from tests.data.phantoms import settings, write_cohort
from tests.data.test_film_match import film_pixels
from tests.data_prep.film_cohorts import SPLITS, film_of, with_films, without_ct
from tests.data_prep.test_build_records import command

SOLVER = Solver(2, True, 0.002, 80.0, 7.0, Churn())
CONE = Cone(1400.0, 1200.0, (130.0, 140.0), 5.0)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return write_cohort(tmp_path_factory.mktemp("cohort"), SPLITS)


@pytest.fixture(scope="module", params=["parallel", "cone"])
def bedside(request, cohort):
    """The settings of bedside films in either geometry, and their records."""
    cone = CONE if request.param == "cone" else None
    chosen = settings(cone=cone, bedside=Bedside(seed=4))
    out = cohort.parent / f"bedside_{request.param}"
    write_records(read_manifest(cohort), out, chosen, seed=0)
    return chosen, out


def test_the_target_s_films_are_bedside_and_the_prior_s_projections_clean(bedside):
    chosen, out = bedside
    geometry = chosen.geometry
    for case in read_cases(out, "test"):
        for view in ("pa", "lat"):
            film = bedside_xray(
                case.target_hu, view, geometry, spacing_mm=5.0, case_id=case.case_id
            )
            np.testing.assert_array_equal(getattr(case, f"xray_{view}"), film)
            clean = xray(case.prior_hu, view, geometry, spacing_mm=5.0)
            np.testing.assert_array_equal(getattr(case, f"prior_xray_{view}"), clean)
            of_target = xray(case.target_hu, view, geometry, spacing_mm=5.0)
            assert np.abs(film - of_target).mean() > 0.02


def test_geometry_and_seed_are_stored_and_sampling_prepares_alike(bedside, cohort):
    chosen, out = bedside
    info = read_dataset_info(out)
    assert Geometry.from_json(info.geometry) == chosen.geometry
    recorded = {case.case_id: case for case in read_cases(out, "test")}
    prepared = {case.case_id: case for case in cases_of_manifest(cohort, info)}
    for name, case in recorded.items():
        for image in ("xray_pa", "xray_lat", "prior_xray_pa", "prior_xray_lat"):
            np.testing.assert_array_equal(getattr(prepared[name], image), getattr(case, image))


def test_films_are_the_same_for_one_and_two_workers(bedside, cohort):
    chosen, out = bedside
    again = out.with_name(out.name + "_two")
    write_records(read_manifest(cohort), again, chosen, seed=0, workers=2)
    for path in out.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()


def test_a_run_is_not_sampled_or_trained_in_another_geometry(bedside):
    chosen, out = bedside
    info = read_dataset_info(out)
    other = dataclasses.replace(info, geometry=Geometry(0.0206).to_json())
    with pytest.raises(InputError, match="the run was trained with"):
        experiment.check_same_geometry(other, info, out)
    config = load_config("ards.py")
    config.data.spacing_mm, config.data.mu_water_per_mm = 5.0, chosen.mu_water_per_mm
    config.data.xray = "bedside"
    if chosen.cone:
        with pytest.raises(InputError, match=r"data.geometry=cone, the config says parallel"):
            experiment.check_data(config, info)
        config.data.geometry = "cone"
        with pytest.raises(InputError, match=r"data.cone="):
            experiment.check_data(config, info)
        config.data.cone = dataclasses.asdict(CONE)
    experiment.check_data(config, info)
    config.data.xray = "clean"
    with pytest.raises(InputError, match=r"data.xray=bedside, the config says clean"):
        experiment.check_data(config, info)


@pytest.mark.parametrize("chosen", [settings(), settings(bedside=Bedside(seed=1))])
def test_a_radiograph_is_taken_for_its_scan_as_target_and_for_that_view_alone(tmp_path, chosen):
    plain = write_cohort(tmp_path, SPLITS)
    write_records(read_manifest(plain), tmp_path / "plain", chosen, seed=0)
    computed = {case.case_id: case for case in read_cases(tmp_path / "plain", "test")}
    drr = xray(computed["q__a__b"].target_hu, "pa", Geometry(), spacing_mm=5.0)
    pixels = np.rint(500 + 400 * film_pixels(drr)).astype(np.uint16)
    path = write_dicom(tmp_path / "pa.dcm", pixels, imager_spacing_mm=(1.25, 1.25))
    manifest = with_films(tmp_path, {"pa": "pa.dcm"})
    info, _ = write_records(read_manifest(manifest), tmp_path / "films", chosen, seed=0)
    for case in read_cases(tmp_path / "films", "test"):
        without = computed[case.case_id]
        np.testing.assert_array_equal(case.xray_lat, without.xray_lat)
        np.testing.assert_array_equal(case.prior_xray_pa, without.prior_xray_pa)
        if case.target_scan != "b":
            np.testing.assert_array_equal(case.xray_pa, without.xray_pa)
            continue
        film = read_radiograph(path, "pa")
        matched, _ = match_film(film, case.prior_xray_pa, Geometry(), spacing_mm=5.0)
        np.testing.assert_array_equal(case.xray_pa, matched)
        assert np.abs(matched - case.prior_xray_pa).max() > 0.05
    assert len(list(cases_of_manifest(manifest, info))) == 12


def test_a_png_film_is_placed_by_the_manifest_s_pixel_size(tmp_path):
    pixels = film_of(tmp_path, "pa")
    write_picture(tmp_path / "pa.png", pixels)
    write_dicom(tmp_path / "pa.dcm", pixels, imager_spacing_mm=(1.25, 1.25))
    found = {}
    for name, size in (("pa.png", 1.25), ("pa.dcm", None)):
        manifest = with_films(tmp_path, {"pa": name}, {"pa": size} if size else None)
        write_records(read_manifest(manifest), tmp_path / name[-3:], settings(), seed=0)
        found[name] = {c.case_id: c.xray_pa for c in read_cases(tmp_path / name[-3:], "test")}
    for case_id, image in found["pa.dcm"].items():
        np.testing.assert_array_equal(found["pa.png"][case_id], image)


@pytest.mark.parametrize(
    "name, size, message",
    [
        ("pa.png", None, "states no pixel size; give xray_pa_pixel_mm in the manifest"),
        ("pa.png", 25, "is 25 x 25 mm; it lies in 0.01..20"),
        ("pa.dcm", 1.5, "xray_pa_pixel_mm is 1.5, but X-ray"),
        ("pa.nii.gz", 1.0, "states 1.25 x 1.25 mm; correct one, or leave it out"),
    ],
)
def test_a_pixel_size_that_is_missing_or_not_the_film_s_is_told(tmp_path, name, size, message):
    pixels = film_of(tmp_path, "pa")
    if name == "pa.dcm":
        write_dicom(tmp_path / name, pixels, imager_spacing_mm=(1.25, 1.25))
    else:
        write_picture(tmp_path / name, pixels, spacing_mm=1.25)
    manifest = with_films(tmp_path, {"pa": name}, {"pa": size} if size else None)
    with pytest.raises(InputError) as caught:
        write_records(read_manifest(manifest), tmp_path / "out", settings(), seed=0)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and all(message in line for line in lines)
    assert "row 3: " in lines[0] and "row 6: " in lines[1] and not (tmp_path / "out").exists()


def test_a_pixel_size_that_agrees_with_the_film_s_changes_nothing(tmp_path):
    write_dicom(tmp_path / "pa.dcm", film_of(tmp_path, "pa"), imager_spacing_mm=(1.25, 1.25))
    for size in (None, 1.25):
        manifest = with_films(tmp_path, {"pa": "pa.dcm"}, {"pa": size} if size else None)
        write_records(read_manifest(manifest), tmp_path / f"{size}", settings(), seed=0)
    files = [{p.name: p.read_bytes() for p in (tmp_path / f"{s}").iterdir()} for s in (None, 1.25)]
    assert files[0] == files[1]


def with_noise(pixels, sd):
    noisy = pixels + np.random.default_rng(0).normal(0, sd, pixels.shape)
    return np.rint(noisy.clip(0, 65535)).astype(np.uint16)


def test_how_a_film_was_fitted_stands_with_its_records_and_samples(tmp_path):
    path = write_dicom(tmp_path / "pa.dcm", film_of(tmp_path, "pa"), imager_spacing_mm=(1.25, 1.25))
    manifest = with_films(tmp_path, {"pa": "pa.dcm"})
    info, shards = write_records(read_manifest(manifest), tmp_path / "out", settings(), seed=0)
    prepared = {case.case_id: case for case in cases_of_manifest(manifest, info)}
    fits = {}
    for case in read_cases(tmp_path / "out", "test"):
        assert prepared[case.case_id].film_fits == case.film_fits
        assert set(case.film_fits) == ({"pa"} if case.target_scan == "b" else set())
        for fit in case.film_fits.values():
            film = read_radiograph(path, "pa")
            _, exact = match_film(film, case.prior_xray_pa, Geometry(), spacing_mm=5.0)
            assert fit == exact.to_plain()
            fits[case.case_id] = fit
        told = case_record(
            case,
            solver=SOLVER,
            members=1,
            seed=0,
            checkpoint_step=1,
            average="main",
            weights_sha256="",
            told=Told(),
        )
        assert told.get("film_fits", {}) == case.film_fits
    (shard,) = [s for s in shards if s.split == "test"]
    assert (shard.films, shard.poor_films) == (2, 0) and shard.worst_film
    worst = min(fits, key=lambda case_id: fits[case_id]["correlation"])
    assert shard.worst_film == {"case_id": worst, "view": "pa", **fits[worst]}


def test_the_worst_fits_are_printed_with_a_warning_where_they_are_poor(tmp_path):
    pixels = film_of(tmp_path, "pa")
    for sd, poor in ((0, False), (1500, True)):
        write_dicom(tmp_path / "pa.dcm", with_noise(pixels, sd), imager_spacing_mm=(1.25, 1.25))
        done = command(with_films(tmp_path, {"pa": "pa.dcm"}), tmp_path / f"{sd}")
        assert done.returncode == 0, done.stderr
        assert "4 film fits, lowest correlations with the prior's projection: 0." in done.stdout
        assert ("pa of q__" in done.stdout) and ("pa of p__" in done.stdout)
        warned = [line for line in done.stdout.splitlines() if line.startswith("warning")]
        assert len(warned) == poor and all("4 of them correlate less than 0.8" in w for w in warned)
    plain = command(write_cohort(tmp_path, SPLITS), tmp_path / "plain")
    assert plain.returncode == 0 and "film" not in plain.stdout


def test_films_that_cannot_be_used_are_told_with_their_rows_before_anything_is_written(tmp_path):
    (tmp_path / "pa.dcm").write_text("no film")
    pixels = np.arange(1600, dtype=np.uint16).reshape(40, 40)
    write_dicom(tmp_path / "lat.dcm", pixels, {"0018|5101": "PA"})
    manifest = with_films(tmp_path, {"pa": "pa.dcm", "lat": "lat.dcm"})
    with pytest.raises(InputError) as caught:
        write_records(read_manifest(manifest), tmp_path / "out", settings(), seed=0)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and "row 3: X-ray" in lines[0] and "no DICOM" in lines[0]
    assert "row 3: X-ray" in lines[1] and "give a lateral view" in lines[1]
    assert not (tmp_path / "out").exists()


def test_a_film_of_something_else_ends_the_build_with_its_name(tmp_path):
    noise = np.random.default_rng(0).integers(0, 4000, (104, 120)).astype(np.uint16)
    write_dicom(tmp_path / "pa.dcm", noise, imager_spacing_mm=(1.0, 1.0))
    manifest = with_films(tmp_path, {"pa": "pa.dcm"})
    with pytest.raises(InputError, match=r"pa.dcm correlates .* with the prior's projection"):
        write_records(read_manifest(manifest), tmp_path / "out", settings(), seed=0)
    assert not [p for p in tmp_path.iterdir() if "out" in p.name]


def test_a_target_with_films_alone_is_in_the_test_records_and_teaches_nothing(tmp_path):
    manifest = without_ct(tmp_path)
    info, shards = write_records(read_manifest(manifest), tmp_path / "out", settings(), seed=0)
    trained = {(c.prior_scan, c.target_scan) for c in read_cases(tmp_path / "out", "train")}
    assert trained == {("a", "c"), ("c", "a")}
    cases = {c.case_id: c for c in read_cases(tmp_path / "out", "test")}
    assert set(cases) == {"q__a__c", "q__c__a", "q__a__b", "q__c__b"}
    assert {name for name, c in cases.items() if c.target_hu is None} == {"q__a__b", "q__c__b"}
    for name in ("q__a__b", "q__c__b"):
        case = cases[name]
        assert case.target_lung_mask is None and set(case.film_fits) == {"pa", "lat"}
        for view in ("pa", "lat"):
            film = read_radiograph(tmp_path / f"q_{view}.dcm", view)
            prior = getattr(case, f"prior_xray_{view}")
            matched, _ = match_film(film, prior, Geometry(), spacing_mm=5.0)
            np.testing.assert_array_equal(getattr(case, f"xray_{view}"), matched)
    assert [s.without_truth for s in shards if s.split == "test"] == [2]
    prepared = {c.case_id: c for c in cases_of_manifest(manifest, info)}
    assert len(prepared) == 8 and prepared["q__a__b"].target_hu is None
    assert encode_case(prepared["q__a__b"]) == encode_case(cases["q__a__b"])


def test_the_command_says_what_has_no_truth(tmp_path):
    done = command(without_ct(tmp_path), tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "test: 1 subjects, 4 pairs, 4 records, 2 of them without truth" in done.stdout
    assert "note: 1 scans without ct (row 3 first) go into no records" in done.stdout
