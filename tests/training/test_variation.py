"""Identity pairs and missing conditions: drawn by each sample's key, in training alone."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.diffusion import edm
from edm3d.diffusion.absence import GROUPS
from edm3d.diffusion.conditioning import Conditioning, condition_channels, scaled_residual
from edm3d.diffusion.unet import UNet
from edm3d.training.objective import NULL, Objective
from edm3d.training.variation import draw_given, with_identity_pairs

BATCH, N = 8, 4
SPEC = Conditioning((-1024.0, 1024.0), residual_scale=2.0, xray_difference=True)
CHANCES = {"xrays": 0.5, "prior_ventilation": 0.25}


def _keys(count):
    return jax.random.split(jax.random.key(3), count)


def _batch(kind):
    rng = np.random.default_rng(0)
    images = [f"{p}{kind}_{v}" for p in ("", "prior_") for v in ("pa", "lat")]
    cone = {"beam": np.tile(np.array([600.0, 500.0, 1.0, 1.0], np.float32), (BATCH, 1))}
    return {
        **{
            f"{name}_hu": rng.integers(-900, 900, (BATCH, N, N, N)).astype(np.int16)
            for name in ("prior", "target")
        },
        **{name: rng.normal(size=(BATCH, N, N)).astype(np.float32) for name in images},
        "ventilation": rng.uniform(-1, 1, (BATCH, 6)).astype(np.float32),
        "start": np.zeros((BATCH, 3), np.float32),
        "volume_shape": np.full((BATCH, 3), N, np.float32),
        **(cone if kind == "film" else {}),
    }


@pytest.fixture(scope="module")
def batch():
    return _batch("xray")


@pytest.mark.parametrize("kind", ["xray", "film"])
def test_an_identity_pair_has_no_residual_no_difference_and_the_prior_s_settings(kind):
    given = _batch(kind)
    pairs = with_identity_pairs(given, _keys(BATCH), 0.5)
    residual = np.abs(scaled_residual(pairs, SPEC)).max(axis=(1, 2, 3, 4))
    identical = residual == 0
    assert 0 < identical.sum() < BATCH
    channels = np.asarray(condition_channels(pairs, SPEC))
    names = SPEC.channel_names
    for view in ("pa", "lat"):
        difference = np.abs(channels[..., names.index(f"xray_difference_{view}")])
        np.testing.assert_array_equal(difference.max(axis=(1, 2, 3)) == 0, identical)
    for scalar in ("peep", "tidal_volume", "phase"):
        now, before = (channels[:, 0, 0, 0, names.index(p + scalar)] for p in ("", "prior_"))
        np.testing.assert_array_equal(now == before, identical)
    for name, value in given.items():  # the others are left alone, priors always
        np.testing.assert_array_equal(pairs[name][~identical], value[~identical])
        if name.startswith("prior"):
            np.testing.assert_array_equal(pairs[name], value)


def test_shares_are_those_asked_for_and_groups_go_one_by_one():
    given = np.asarray(draw_given(_keys(20_000), CHANCES))
    # 20 000 draws: standard error 0.0035
    missing = 1 - given.mean(axis=0)
    np.testing.assert_allclose(missing, [0.5, 0, 0.25], atol=0.015)
    both = (~given[:, GROUPS.index("xrays")] & ~given[:, GROUPS.index("prior_ventilation")]).mean()
    assert both == pytest.approx(0.125, abs=0.015)
    tiny = {"prior_hu": jnp.zeros((20_000, 1), jnp.int16), "ventilation": jnp.zeros((20_000, 6))}
    tiny["target_hu"] = tiny["prior_hu"] + 1
    pairs = with_identity_pairs(tiny, _keys(20_000), 0.1)
    assert float((pairs["target_hu"] == 0).mean()) == pytest.approx(0.1, abs=0.01)


def test_a_sample_s_draw_is_its_key_s_alone(batch):
    keys = _keys(BATCH)
    np.testing.assert_array_equal(draw_given(keys, CHANCES)[3:5], draw_given(keys[3:5], CHANCES))
    whole = with_identity_pairs(batch, keys, 0.5)["target_hu"]
    rows = {name: value[3:5] for name, value in batch.items()}
    np.testing.assert_array_equal(
        whole[3:5], with_identity_pairs(rows, keys[3:5], 0.5)["target_hu"]
    )


@pytest.fixture(scope="module")
def plain(widths):
    model = UNet(widths.channels, widths.channel_mult, widths.blocks, (), dropout=0.0)
    return Objective(model, SPEC)


@pytest.fixture(scope="module")
def varied(plain):
    conditioning = dataclasses.replace(SPEC, droppable=tuple(CHANCES), learned_null=True)
    return dataclasses.replace(
        plain, conditioning=conditioning, condition_dropout=tuple(CHANCES.items())
    )


def _random(params):
    """At its initial scale of 1e-5 the output would show nothing of the input."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    drawn = [0.3 * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(tree, drawn)


@pytest.fixture(scope="module")
def params(varied):
    return _random(jax.eval_shape(partial(varied.init, side=N), jax.random.key(0)))


def _losses(objective, params, batch, train):
    sigma = jnp.full(BATCH, 0.5)
    return jax.jit(partial(objective.losses, train=train))(params, batch, sigma, _keys(BATCH))


def test_training_hides_what_was_drawn_and_validation_nothing(varied, params, batch):
    everything = dict(batch, given=np.ones((BATCH, 3), bool))
    drawn = dict(batch, given=draw_given(_keys(BATCH), CHANCES))
    whole, hidden = (_losses(varied, params, b, False) for b in (everything, drawn))
    np.testing.assert_array_equal(_losses(varied, params, batch, False), whole)
    np.testing.assert_allclose(_losses(varied, params, batch, True), hidden, rtol=1e-5)
    changed = np.abs(np.asarray(whole - hidden)) > 1e-6
    np.testing.assert_array_equal(changed, ~np.asarray(drawn["given"]).all(axis=1))


def test_with_all_given_the_network_is_that_of_one_that_needs_all(plain, varied, params, batch):
    kernel = params["conv_in"]["kernel"]
    cut = kernel[..., : 1 + len(plain.conditioning.channel_names), :]
    same = {name: leaf for name, leaf in params.items() if name != NULL}
    same["conv_in"] = dict(params["conv_in"], kernel=cut)
    ours, theirs = _losses(varied, params, batch, False), _losses(plain, same, batch, False)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_values_of_missing_channels_are_learnt_from_samples_that_lack_them(
    varied, params, batch
):
    def total(p, given):
        sigma = jnp.full(BATCH, 0.5)
        rows = dict(batch, given=given)
        return varied.losses(p, rows, sigma, _keys(BATCH), train=False).sum()

    gradient = jax.jit(jax.grad(total))
    no_xrays = np.tile([False, True, True], (BATCH, 1))
    moved = np.abs(gradient(params, no_xrays)[NULL]) > 0
    np.testing.assert_array_equal(moved, [True] * 4 + [False] * 3)
    assert not np.abs(gradient(params, np.ones((BATCH, 3), bool))[NULL]).any()


def test_identity_pairs_are_of_training_alone(plain, params, batch):
    objective = dataclasses.replace(plain, identity_share=1.0)
    shapes = jax.eval_shape(partial(objective.init, side=N), jax.random.key(0))
    weights = jax.tree.map(lambda s: jnp.zeros(s.shape), shapes)
    validated = _losses(objective, weights, batch, False)
    np.testing.assert_array_equal(validated, _losses(plain, weights, batch, False))
    # F = 0 on y = 0: the error is c_skip n, the weighted loss c_skip^2 sigma^2 lambda = 1/2
    sure = _losses(objective, weights, batch, True)
    assert float(sure.mean()) == pytest.approx(0.5, rel=0.1)  # 512 draws of a square
    assert float(validated.mean()) > 2


def test_another_weight_trains_by_its_own_and_is_told_in_edm_s(plain, params, batch):
    objective = dataclasses.replace(plain, weight=edm.min_snr_weight)
    shapes = jax.eval_shape(partial(plain.init, side=N), jax.random.key(0))
    weights, sigma = _random(shapes), jnp.full(BATCH, 0.5)
    usual, other = (_losses(o, weights, batch, True) for o in (plain, objective))
    # SNR is 1 at sigma = sigma_data: 1 / sigma_data^2 against 2 / sigma_data^2
    np.testing.assert_allclose(other, usual / 2, rtol=1e-5)
    np.testing.assert_allclose(objective.in_edm_weight(other, sigma), usual, rtol=1e-5)
    np.testing.assert_array_equal(_losses(objective, weights, batch, False), usual)
