"""The sampler is Algorithm 2: against a float64 loop, an exact solution, and its own order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.diffusion import edm
from edm3d.diffusion.sampler import Churn, evaluations, sample, standard_normal

SIGMA_DATA = 0.5
CHURN = Churn(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)
SHAPE = (3, 2)


def _keys(count=4):
    return jax.random.split(jax.random.key(0), count)


def _gaussian_denoiser(x, sigma):
    """The posterior mean of N(0, sigma_data^2) data: what a zero network gives."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return x * SIGMA_DATA**2 / (SIGMA_DATA**2 + s**2)


def _bent_denoiser(x, sigma):
    """Nonlinear in x and sigma, the same in NumPy and JAX."""
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    tanh = np.tanh if isinstance(x, np.ndarray) else jnp.tanh
    return tanh(x) / (1 + s**2)


def _float64_loop(denoise, noise, sigmas, churn):
    """Algorithm 2 as a plain loop; `noise[k]` is what step k - 1 adds, `noise[0]` the latent."""
    n = len(sigmas) - 1
    full = lambda t: np.full(noise.shape[1], t)  # noqa: E731
    x = sigmas[0] * noise[0]
    for i in range(n):
        t, t_next = sigmas[i], sigmas[i + 1]
        inside = churn.s_min <= t <= churn.s_max
        gamma = min(churn.s_churn / n, 2**0.5 - 1) if inside else 0.0
        t_hat = t + gamma * t
        x_hat = x + (t_hat**2 - t**2) ** 0.5 * churn.s_noise * noise[i + 1]
        d = (x_hat - denoise(x_hat, full(t_hat))) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if t_next > 0:
            d_next = (x - denoise(x, full(t_next))) / t_next
            x = x_hat + (t_next - t_hat) * (d + d_next) / 2
    return x


@pytest.mark.parametrize("churn", [Churn(), CHURN, Churn(s_churn=1e6)])
def test_sampler_equals_a_float64_loop(churn):
    sigmas = edm.sigma_schedule(12)
    noise = np.stack([standard_normal(_keys(), i, SHAPE) for i in range(13)]).astype(np.float64)
    want = _float64_loop(_bent_denoiser, noise, sigmas, churn)
    got = jax.jit(lambda keys: sample(_bent_denoiser, keys, SHAPE, sigmas, churn=churn))(_keys())
    # float32 rounding of numbers up to sigma_max = 80 that shrink to order 1
    np.testing.assert_allclose(got, want, atol=2e-4)


def test_scan_equals_python_loop():
    sigmas = edm.sigma_schedule(6)
    scanned = sample(_bent_denoiser, _keys(), SHAPE, sigmas, churn=CHURN)
    with jax.disable_jit():
        looped = sample(_bent_denoiser, _keys(), SHAPE, sigmas, churn=CHURN)
    np.testing.assert_allclose(scanned, looped, rtol=1e-5, atol=1e-5)


def _error(steps, second_order):
    """Relative error against the exact flow of the Gaussian denoiser, from sigma_max to 0."""
    sigmas = edm.sigma_schedule(steps)
    keys = _keys(1)
    x0 = sigmas[0] * standard_normal(keys, 0, SHAPE)
    exact = x0 * SIGMA_DATA / np.sqrt(sigmas[0] ** 2 + SIGMA_DATA**2)
    got = sample(_gaussian_denoiser, keys, SHAPE, sigmas, second_order=second_order)
    return float(jnp.abs(got / exact - 1).max())


def test_zero_network_oracle_is_reached():
    assert _error(256, second_order=True) < 1e-3


def test_heun_is_second_order():
    assert _error(24, second_order=True) / _error(48, second_order=True) == pytest.approx(
        4, abs=0.6
    )


def test_euler_is_first_order():
    ratio = _error(64, second_order=False) / _error(128, second_order=False)
    assert ratio == pytest.approx(2, abs=0.25)


@pytest.mark.parametrize("churn", [Churn(), CHURN])
def test_samples_have_the_variance_of_the_data(churn):
    keys = _keys(256)
    got = jax.jit(
        lambda k: sample(_gaussian_denoiser, k, (64,), edm.sigma_schedule(64), churn=churn)
    )(keys)
    # 16 384 draws: standard error 0.6 %; Heun's own error at 64 steps is below 1 %
    assert float(jnp.std(got)) == pytest.approx(SIGMA_DATA, rel=0.03)


def test_churn_changes_the_sample_and_no_churn_does_not():
    plain, zero, churned = (
        sample(_bent_denoiser, _keys(), SHAPE, edm.sigma_schedule(8), churn=churn)
        for churn in (Churn(), Churn(s_churn=0.0, s_noise=9.0), CHURN)
    )
    np.testing.assert_array_equal(plain, zero)
    assert float(jnp.abs(plain - churned).max()) > 1e-3


def test_no_churn_at_a_level_is_not_nan_in_float32():
    churn = Churn(s_churn=40.0, s_min=1.0, s_max=2.0)  # gamma is 0 at most levels
    got = jax.jit(lambda k: sample(_bent_denoiser, k, SHAPE, edm.sigma_schedule(20), churn=churn))(
        _keys()
    )
    assert bool(jnp.isfinite(got).all())


def test_a_sample_depends_on_its_own_key_alone():
    keys = _keys(5)
    together = sample(_bent_denoiser, keys, SHAPE, edm.sigma_schedule(8), churn=CHURN)
    alone = sample(_bent_denoiser, keys[3:4], SHAPE, edm.sigma_schedule(8), churn=CHURN)
    np.testing.assert_allclose(alone[0], together[3], rtol=1e-6, atol=1e-6)


def test_the_paper_s_200_calls_are_199():
    assert evaluations(100) == 199


@pytest.mark.parametrize(("second_order", "steps", "calls"), [(True, 8, 15), (False, 8, 8)])
def test_a_sample_takes_the_stated_calls(second_order, steps, calls):
    count = [0]

    def counting(x, sigma):
        count[0] += 1
        return _gaussian_denoiser(x, sigma)

    with jax.disable_jit():
        sample(counting, _keys(1), (1,), edm.sigma_schedule(steps), second_order=second_order)
    assert count[0] == calls == evaluations(steps, second_order=second_order)
