"""Sampling a run: a volume depends on its seed, case and member alone, and lands on its prior."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import nibabel
import numpy as np
import pytest

from edm3d import experiment
from edm3d import sample as command
from edm3d.data.cases import read_cases, read_dataset_info
from edm3d.diffusion import sampler
from edm3d.errors import InputError
from edm3d.generation import Job, member_key, padded_shape
from edm3d.sample import poor_films
from tests.data_prep.film_cohorts import without_ct


def _sample(run, out, **changes):
    command.sample(command.Request(run=run, out=out, **{"batch": 8, "limit": 1, **changes}))


def _hu(path):
    return np.asarray(nibabel.load(path).dataobj)


@pytest.fixture(scope="module")
def drawn(tiny_run, tmp_path_factory):
    out = tmp_path_factory.mktemp("samples")
    _sample(tiny_run, out, members=3)
    return next(out.iterdir())


@pytest.fixture(scope="module")
def case(tiny_records):
    return read_cases(tiny_records, "test")[0]


def test_the_output_overlays_the_prior(drawn, case):
    image = nibabel.load(drawn / "generated.nii.gz")
    assert image.get_data_dtype() == np.int16
    ras_from_lps = np.diag([-1.0, -1.0, 1.0, 1.0])
    np.testing.assert_allclose(image.affine, ras_from_lps @ case.affine_lps, atol=1e-4)
    assert image.shape == case.prior_hu.shape[::-1]


def test_members_mean_and_spread_agree(drawn):
    members = np.stack([_hu(p) for p in sorted((drawn / "members").iterdir())]).astype(float)
    assert len(members) == 3
    assert np.abs(members[0] - members[1]).max() > 1
    np.testing.assert_array_equal(_hu(drawn / "generated.nii.gz"), np.round(members.mean(0)))
    np.testing.assert_allclose(_hu(drawn / "std.nii.gz"), members.std(0, ddof=1), atol=1e-3)


def test_case_json_says_how_to_draw_it_again(drawn, case):
    record = json.loads((drawn / "case.json").read_text())
    assert record["case_id"] == case.case_id == drawn.name
    assert (record["members"], record["nfe"], record["checkpoint_step"]) == (3, 5, 4)
    assert record["solver"]["churn"]["s_churn"] == 0.0
    assert len(record["input_sha256"]["prior_hu"]) == 64


def test_a_member_is_the_same_drawn_alone(tiny_run, tmp_path, drawn, case):
    _sample(tiny_run, tmp_path, members=1)
    alone = _hu(tmp_path / case.case_id / "generated.nii.gz")
    # one row of a batch of eight devices against another: float32 rounding, then whole HU
    np.testing.assert_allclose(alone, _hu(drawn / "members/000.nii.gz"), atol=1)


def test_another_seed_is_another_sample(tiny_run, tmp_path, drawn, case):
    _sample(tiny_run, tmp_path, seed=5)
    other = _hu(tmp_path / case.case_id / "generated.nii.gz")
    assert np.abs(other - _hu(drawn / "members/000.nii.gz")).max() > 1


def test_an_interrupted_batch_goes_on_where_it_stopped(tiny_run, tmp_path, capsys):
    _sample(tiny_run, tmp_path, limit=1)
    first = next(tmp_path.iterdir()) / "generated.nii.gz"
    stamp = first.stat().st_mtime_ns
    _sample(tiny_run, tmp_path, limit=2)
    assert "1 drawn before" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == stamp
    assert len(list(tmp_path.glob("*/case.json"))) == 2


def test_a_torn_case_is_drawn_again_whole(tiny_run, tmp_path):
    _sample(tiny_run, tmp_path, members=2)
    folder = next(tmp_path.iterdir())
    whole = {p.relative_to(folder) for p in folder.rglob("*.gz")}
    (folder / "case.json").unlink()
    (folder / "generated.nii.gz").write_bytes(b"torn")
    (folder / "members/007.nii.gz").write_bytes(b"of another draw")
    _sample(tiny_run, tmp_path, members=2)
    assert {p.relative_to(folder) for p in folder.rglob("*.gz")} == whole
    members = [_hu(p) for p in sorted((folder / "members").iterdir())]
    np.testing.assert_array_equal(_hu(folder / "generated.nii.gz"), np.round(np.mean(members, 0)))


def test_samples_of_other_weights_are_not_mixed(tiny_run, tmp_path):
    _sample(tiny_run, tmp_path)
    path = next(tmp_path.glob("*/case.json"))
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "weights_sha256": "0" * 64}))
    with pytest.raises(InputError, match="was drawn with weights_sha256 0000"):
        _sample(tiny_run, tmp_path)


def test_samples_of_other_settings_are_not_mixed(tiny_run, tmp_path):
    _sample(tiny_run, tmp_path)
    with pytest.raises(InputError, match="was drawn with seed 0, now it is 1"):
        _sample(tiny_run, tmp_path, seed=1)


def test_a_manifest_gives_the_same_case_as_its_records(tiny_run, tiny_records, tmp_path, drawn):
    manifest = tiny_records.parent / "scans.csv"
    info = read_dataset_info(tiny_records)
    from edm3d.data.records import cases_of_manifest

    cases = cases_of_manifest(manifest, info)
    whole = next(c for c in cases if c.case_id == drawn.name)
    recorded = next(c for c in read_cases(tiny_records, "test") if c.case_id == drawn.name)
    np.testing.assert_array_equal(whole.prior_hu, recorded.prior_hu)
    np.testing.assert_allclose(whole.xray_pa, recorded.xray_pa, rtol=1e-6)
    _sample(tiny_run, tmp_path, manifest=manifest, limit=2)
    assert len(list(tmp_path.glob("*/case.json"))) == 2


def test_a_target_that_has_films_alone_is_drawn(tiny_run, tmp_path):
    manifest = without_ct(tmp_path)
    _sample(tiny_run, tmp_path / "out", manifest=manifest, limit=1)
    (told,) = (tmp_path / "out").glob("*/case.json")
    record = json.loads(told.read_text())
    assert record["case_id"] == "p__a__b" and set(record["film_fits"]) == {"pa", "lat"}
    assert told.with_name("generated.nii.gz").is_file()
    _sample(tiny_run, tmp_path / "out", manifest=manifest, limit=1)  # it is known to be drawn


def test_a_run_of_an_earlier_version_is_refused_by_the_field_it_lacks(tiny_run, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    config = json.loads((tiny_run / "config.json").read_text())
    del config["edm"]["loss_weight"]
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json has no edm\.loss_weight, as a run of an e"):
        _sample(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_films_without_a_prior_beside_them_are_refused(tiny_run, tmp_path):
    manifest = without_ct(tmp_path)
    lines = manifest.read_text().splitlines()
    alone = next(line for line in lines if line.startswith("q,b"))
    other = [line for line in lines if not line.startswith("q,") or line == alone]
    manifest.write_text("\n".join(other) + "\n")
    with pytest.raises(InputError, match=r"row \d+: q/b has films only and no CT .*leave the row"):
        _sample(tiny_run, tmp_path / "out", manifest=manifest)
    assert not (tmp_path / "out").exists()


def test_a_film_that_hardly_fits_is_told_by_name(tiny_records):
    case = read_cases(tiny_records, "test")[0]
    fits = {"pa": {"correlation": 0.79}, "lat": {"correlation": 0.81}}
    (line,) = poor_films(dataclasses.replace(case, film_fits=fits))
    assert line.startswith(f"warning: {case.case_id}: the pa film correlates 0.79")


@pytest.mark.parametrize(
    ("flags", "match"),
    [
        ({"nfe": 200}, "--nfe is 200, but N steps of Heun make 2N - 1 calls.*use 199 or 201"),
        ({"nfe": 1}, "at least 3"),
        ({"nfe": 1, "second_order": False}, "at least 2"),
        ({"protocol": ("peep_4",)}, "--protocol is peep_4; choose of opposite_phase"),
        ({"checkpoint_step": 3}, r"checkpoint step 3 is not in .*choose one of \[2, 4\]"),
        ({"batch": 3}, "not divisible by 8 devices"),
        ({"records": Path("nowhere")}, "does not exist"),
        ({"records": Path("a"), "manifest": Path("b")}, "are both given; give one"),
    ],
)
def test_bad_flags_are_refused_and_nothing_is_written(tiny_run, tmp_path, flags, match):
    with pytest.raises(InputError, match=match):
        _sample(tiny_run, tmp_path / "out", **flags)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_trained_run_is_refused(tiny_run, tmp_path):
    with pytest.raises(InputError, match="no run folder"):
        _sample(tmp_path, tmp_path / "out")
    for name in ("config.json", "dataset.json"):
        (tmp_path / name).write_bytes((tiny_run / name).read_bytes())
    with pytest.raises(InputError, match="holds no checkpoint; train it first"):
        _sample(tmp_path, tmp_path / "out")


def test_records_of_another_spacing_are_refused(tiny_run, tiny_records, tmp_path):
    info = json.loads((tiny_records / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps({**info, "spacing_mm": 4.0}))
    with pytest.raises(InputError, match=r"spacing_mm 4\.0 mm, the run was trained with 8\.0 mm"):
        _sample(tiny_run, tmp_path / "out", records=tmp_path)


def test_euler_takes_the_calls_it_is_given(tiny_run):
    config = experiment.read_run_config(tiny_run)
    solver = command.solver_of(config, second_order=False, nfe=7, s_churn=2.0)
    assert (solver.nfe, solver.steps, solver.churn.s_churn) == (7, 7, 2.0)
    assert command.solver_of(config, second_order=True, nfe=7, s_churn=None).steps == 4


def test_volumes_are_padded_to_what_the_network_can_halve():
    assert padded_shape((30, 31, 40), patch=32, multiple=4) == (32, 32, 40)
    assert padded_shape((33, 20, 20), patch=16, multiple=8) == (40, 24, 24)


def _drawer(tiny_run, **changes):
    config = experiment.read_run_config(tiny_run)
    asked = {"second_order": True, "nfe": None, "s_churn": None, **changes}
    solver = command.solver_of(config, **asked)
    request = command.Request(run=tiny_run, batch=8)
    return command.load_drawer(request, config, read_dataset_info(tiny_run), solver)[0]


def _without_network(drawer):
    return dataclasses.replace(drawer, params=jax.tree.map(jnp.zeros_like, drawer.params))


def test_without_a_network_a_sample_is_the_prior_plus_shrunk_noise(tiny_run, case):
    """F = 0 is exact for a residual N(0, sigma_data^2): noise is scaled to that spread."""
    drawer = _without_network(_drawer(tiny_run, nfe=79))
    ((_, hu),) = drawer.draw([Job(case, 2)])
    shape = (*drawer.shape_of(case), 1)
    noise = sampler.standard_normal(member_key(0, case.case_id, 2)[None], 0, shape)
    sigma_data, sigma_max = drawer.objective.sigma_data, drawer.solver.sigma_max
    x = sigma_max * noise[0] * sigma_data / np.hypot(sigma_max, sigma_data)
    z, y, w = case.volume_shape_zyx
    residual = np.asarray(x)[:z, :y, :w, 0] / drawer.objective.conditioning.residual_scale * 1024
    low, high = drawer.objective.conditioning.window_hu
    exact = np.clip(np.clip(case.prior_hu, low, high) + residual, low, high)
    assert residual.std() > 20
    # Heun's error with 40 steps, and whole HU
    np.testing.assert_allclose(hu, exact, atol=2 + 0.02 * np.abs(residual).max())


@pytest.mark.parametrize(
    "change", [{"s_churn": 30.0}, {"second_order": False}, {"nfe": 9}], ids=str
)
def test_the_asked_solver_is_the_one_that_draws(tiny_run, case, change):
    volumes = [
        next(iter(_without_network(_drawer(tiny_run, **c)).draw([Job(case, 0)])))[1]
        for c in ({}, change)
    ]
    assert np.abs(np.subtract(*(v.astype(int) for v in volumes))).max() > 1


def test_a_sample_that_is_not_finite_is_refused_by_name(tiny_run, case, tmp_path):
    drawer = _drawer(tiny_run)
    broken = dataclasses.replace(
        drawer, params=jax.tree.map(lambda a: jnp.full_like(a, jnp.nan), drawer.params)
    )
    with pytest.raises(InputError, match=f"sample 1 of case {case.case_id} is not finite"):
        list(broken.draw([Job(case, 1)]))


def test_flags_make_the_request_they_name():
    values = command.flags.FlagValues()
    command.define_flags(values)
    values(
        "edm3d.sample --run=r --split=val --records=rec --out=o --protocol=a,b --limit=3"
        " --members=4 --batch=5 --solver=euler --nfe=6 --s_churn=7 --seed=8 --checkpoint_step=9"
        " --allow_outside".split()
    )
    assert command.request_of_flags(values) == command.Request(
        run=Path("r"),
        records=Path("rec"),
        split="val",
        allow_outside=True,
        out=Path("o"),
        protocol=("a", "b"),
        limit=3,
        members=4,
        batch=5,
        second_order=False,
        nfe=6,
        s_churn=7.0,
        seed=8,
        checkpoint_step=9,
    )


def test_jobs_of_a_short_last_batch_come_out_once(tiny_run, tiny_records, case):
    drawn = list(_drawer(tiny_run).draw(Job(case, m) for m in range(10)))
    assert [job.member for job, _ in drawn] == list(range(10))
    assert {hu.shape for _, hu in drawn} == {case.prior_hu.shape}
