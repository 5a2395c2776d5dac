"""What a config can switch on: a run with all of it goes on and samples; nonsense is refused."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d import experiment, options
from edm3d import train as command
from edm3d.data.cases import read_cases, read_dataset_info
from edm3d.data.pipeline import whole_batch
from edm3d.errors import InputError
from edm3d.generation import Job, denoiser
from edm3d.sample import Request, load_drawer, sample, solver_of
from edm3d.told import Told, told_of
from edm3d.trainer import build_trainer
from edm3d.training.checkpoint import Checkpoints
from edm3d.training.objective import abstract_params
from edm3d.training.restore import read_ema
from tests.configurations import load_config, tiny_config


def _with_everything(widths, records, run):
    config = tiny_config(widths, records, run)
    config.patch_sizes = ((4, 0.5), (8, 0.5))
    config.condition_dropout.update(xrays=0.5, ventilation=0.25, null="learned")
    config.edm.loss_weight = "min_snr"
    config.ema_lengths = {"slow": {"half_life_samples": 64, "ramp": 9.0}}
    config.train.identity_share = 0.25
    config.model.flavour = "adm"
    config.model.channel_mult, config.model.attention_levels = (1, 1), ()
    return config


@pytest.fixture(scope="module")
def run(tiny_records, widths, tmp_path_factory):
    """A run folder after four updates with every option on."""
    config = _with_everything(widths, tiny_records, tmp_path_factory.mktemp("options") / "run")
    command.train(config)
    return config


def _final_state(config):
    objective = experiment.objective_of(config, read_dataset_info(config.records))
    checkpoints = Checkpoints(Path(config.run) / "checkpoints")
    state = checkpoints.restore(4, build_trainer(config, objective).abstract)
    checkpoints.close()
    return jax.device_get(state)


def test_a_run_with_every_option_goes_on_bit_for_bit(
    run, tiny_records, widths, tmp_path, monkeypatch
):
    config = _with_everything(widths, tiny_records, tmp_path / "run")
    line = command.progress_line

    def killing_line(step, *rest):
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return line(step, *rest)

    monkeypatch.setattr(command, "progress_line", killing_line)
    sides = []
    feed = command._feed

    def watched(*given):
        feeding = feed(*given)
        take = feeding.take

        def taking(*asked):
            batch = take(*asked)
            if batch is not None:
                sides.append(batch["prior_hu"].shape[-1])
            return batch

        feeding.take = taking
        return feeding

    monkeypatch.setattr(command, "_feed", watched)
    command.train(config)
    assert len(sides) == 1
    command.train(config)
    assert len(sides) == 4 and set(sides) == {4, 8}
    ended, undisturbed = _final_state(config), _final_state(run)
    jax.tree.map(np.testing.assert_array_equal, ended, undisturbed)
    assert set(ended.ema) == {"main", "slow"}


def test_an_average_that_is_asked_for_is_the_one_that_is_read(run):
    state = _final_state(run)
    objective = experiment.objective_of(run, read_dataset_info(run.records))
    abstract = build_trainer(run, objective).abstract.ema
    for name in ("main", "slow"):
        _, weights = read_ema(Path(run.run), abstract[name], average=name)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(weights), state.ema[name])
    kernels = [weights["conv_in"]["kernel"] for weights in (*state.ema.values(), state.params)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    # a half-life of eight updates, against 5 % of those made
    assert np.abs(kernels[1] - kernels[2]).max() > np.abs(kernels[0] - kernels[2]).max()


def test_sampling_says_what_it_went_without(run, tmp_path):
    asked = dict(ema="slow", without=("ventilation",), guidance=2.0, nfe=3, limit=1, batch=8)
    sample(Request(run=Path(run.run), out=tmp_path, **asked))
    (path,) = tmp_path.glob("*/case.json")
    record = json.loads(path.read_text())
    told = {"ema": "slow", "without": ["ventilation"], "guidance": 2.0}
    assert told.items() <= record.items()
    with pytest.raises(InputError, match=r"was drawn with without \['ventilation'\], now it is"):
        sample(Request(run=Path(run.run), out=tmp_path, **{**asked, "without": ()}))
    with pytest.raises(InputError, match="--ema is long; choose of main, slow"):
        sample(Request(run=Path(run.run), out=tmp_path, ema="long", batch=8))


def test_a_network_that_needs_everything_refuses_a_case_without(tiny_run, tmp_path):
    for asked, match in (
        (
            {"without": ("xrays",)},
            "was trained to do without nothing; train one with",
        ),
        ({"without": ("films",)}, "--without is films; choose of xrays, ventilation"),
        ({"guidance": 2.0}, "--guidance is 2, but there is nothing that the network is told and"),
    ):
        with pytest.raises(InputError, match=match):
            sample(Request(run=tiny_run, out=tmp_path / "out", batch=8, **asked))
    assert not (tmp_path / "out").exists()


def test_guidance_needs_something_left_to_be_guided_by(run):
    conditioning = experiment.objective_of(run, read_dataset_info(run.records)).conditioning
    assert told_of(conditioning, ("xrays",), 3) == Told(("xrays",), 3.0)
    assert (
        told_of(conditioning, ("xrays", "ventilation"), 1).given(2).tolist()
        == [[False, False, True]] * 2
    )
    with pytest.raises(InputError, match="there is nothing that the network is told"):
        told_of(conditioning, ("xrays", "ventilation"), 3)
    with pytest.raises(InputError, match="--guidance is -1; give 0 or more"):
        told_of(conditioning, (), -1)


def _random(params):
    """After four updates the output would show little of the input."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    drawn = [0.2 * jax.random.normal(k, s.shape) for k, s in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


def test_what_a_sample_goes_without_is_hidden_from_the_network(run):
    request, config = Request(run=Path(run.run), batch=8), experiment.read_run_config(Path(run.run))
    solver = solver_of(config, second_order=False, nfe=2, s_churn=None)
    drawer, _ = load_drawer(request, config, read_dataset_info(run.records), solver)
    case = read_cases(run.records, "test")[0]
    other = dataclasses.replace(case, xray_pa=case.xray_pa + 9, xray_lat=case.xray_lat + 9)

    def drawn(case, *without):
        changes = dict(params=_random(drawer.params), told=Told(without))
        ((_, hu),) = dataclasses.replace(drawer, **changes).draw([Job(case, 0)])
        return hu.astype(int)

    assert np.abs(drawn(case) - drawn(other)).max() > 1
    np.testing.assert_array_equal(drawn(case, "xrays"), drawn(other, "xrays"))
    assert np.abs(drawn(case) - drawn(case, "xrays")).max() > 1


def test_guidance_is_between_and_beyond_what_is_known_with_and_without_conditions(run):
    info = read_dataset_info(run.records)
    objective = experiment.objective_of(run, info)
    case = read_cases(run.records, "test")[0]
    batch = whole_batch(
        case, info, padded_shape_zyx=tuple(n + n % 2 for n in case.volume_shape_zyx)
    )
    params = _random(abstract_params(objective))
    x = jax.random.normal(jax.random.key(1), (*batch["prior_hu"].shape, 1))
    without = np.array([[False, False, True]])

    @jax.jit
    def all_of(batch):
        def d(guidance, **changes):
            return denoiser(objective, params, {**batch, **changes}, guidance)(x, jnp.ones(1))

        return d(1.0), d(1.0, given=without), d(3.0), d(3.0, given=without)

    knows, less, guided, nothing = all_of(batch)
    assert float(jnp.abs(knows - less).max()) > 1e-3
    np.testing.assert_allclose(guided, less + 3 * (knows - less), atol=1e-4)
    np.testing.assert_allclose(nothing, less, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("condition_dropout.xrays", 1.5, "condition_dropout.xrays is 1.5; give a share between"),
        ("condition_dropout.null", "mean", "condition_dropout.null is 'mean'; use one of zero,"),
        ("train.identity_share", -0.1, "train.identity_share is -0.1; give a share between"),
        ("edm.loss_weight", "snr", "edm.loss_weight is 'snr'; use one of edm, min_snr, uniform"),
        ("edm.min_snr_gamma", 0.0, "edm.min_snr_gamma is 0.0; give a number above 0"),
        ("model.flavour", "ddpm", "model.flavour is 'ddpm'; use one of ddpmpp, adm"),
        ("patch_sizes", ((64, 0.5), (128, 0.4)), "patch_sizes has shares that sum to 0.9; make"),
        ("patch_sizes", (64, 128), "patch_sizes has 64; give pairs of a side and its share"),
        ("patch_sizes", ((64, 0.0), (8, 1.0)), r"patch_sizes has \(64, 0.0\); give a whole side"),
        ("patch_sizes", ((64, 0.5), (64, 0.5)), "a side twice; add up its shares"),
        ("ema.ramp", 0.0, "ema is .*; give numbers above 0"),
        ("ema_lengths", {"main": {"half_life_samples": 1, "ramp": 1.0}}, "has a 'main'; use anoth"),
        ("ema_lengths", {"a/b": {"half_life_samples": 1, "ramp": 1.0}}, "has a 'a/b'; use another"),
        ("ema_lengths", {"long": {"ramp": 1.0}}, "ema_lengths.long is .*; give half_life_samples"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(field, value, says):
    config = load_config("ards.py")
    assert not options.option_faults(config)
    section, _, name = field.rpartition(".")
    setattr(config[section] if section else config, name, value)
    with pytest.raises(InputError, match=says) as caught:
        experiment.check_numbers(config)
    assert "\n" not in str(caught.value)


def test_the_prior_s_settings_cannot_be_dropped_where_they_are_not_given():
    config = load_config("ards.py")
    config.conditioning.prior_ventilation = False
    config.condition_dropout.prior_ventilation = 0.1
    with pytest.raises(InputError, match=r"but conditioning\.prior_ventilation is False"):
        experiment.check_numbers(config)


def test_options_are_off_by_default():
    config = load_config("ards.py")
    assert options.dropout_of(config.condition_dropout) == ()
    assert list(options.averages_of(config)) == ["main"]
    assert options.patches_of(config) == ((128, 1.0),)
    assert config.train.identity_share == 0
    assert options.weight_of(config.edm) is experiment.Objective.weight


def test_a_patch_size_that_the_network_cannot_halve_is_refused(tiny_records, widths, tmp_path):
    config = _with_everything(widths, tiny_records, tmp_path / "run")
    config.patch_sizes = ((8, 0.5), (9, 0.5))
    with pytest.raises(InputError, match="patch 9 is not divisible by 2"):
        command.train(config)
    config.patch_sizes, config.mesh.space = ((4, 0.5), (8, 0.5)), 4
    with pytest.raises(InputError, match=r"patch 4 cannot be halved 1 times and split over"):
        command.train(config)
