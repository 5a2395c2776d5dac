"""The preconditioning has the properties it was derived from; the schedule its end points."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.diffusion import edm

SIGMA_DATA = 0.5
SIGMAS = jnp.array([0.002, 0.05, 0.5, 3.0, 80.0])


def _data_and_noise(count=400_000):
    y, n = jax.random.normal(jax.random.key(1), (2, count))
    return SIGMA_DATA * y, n


@pytest.mark.parametrize("sigma", SIGMAS.tolist())
def test_network_sees_and_predicts_unit_variance(sigma):
    y, n = _data_and_noise()
    x = y + sigma * n
    seen = edm.c_in(jnp.float32(sigma), SIGMA_DATA) * x
    wanted = (y - edm.c_skip(jnp.float32(sigma), SIGMA_DATA) * x) / edm.c_out(
        jnp.float32(sigma), SIGMA_DATA
    )
    # 400 000 draws: the standard error of a variance is 0.0022
    assert float(jnp.var(seen)) == pytest.approx(1, abs=0.01)
    assert float(jnp.var(wanted)) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("sigma", SIGMAS.tolist())
def test_zero_network_loss_is_one_at_every_sigma(sigma):
    y = SIGMA_DATA * jax.random.normal(jax.random.key(2), (4, 32, 32, 32, 1))
    losses = edm.denoising_loss(
        lambda x, c_noise: jnp.zeros_like(x),
        y,
        jnp.full(4, sigma),
        jax.random.split(jax.random.key(3), 4),
        sigma_data=SIGMA_DATA,
    )
    # 32^3 voxels: standard error sqrt(2 / 32768) = 0.008 a sample
    np.testing.assert_allclose(losses, 1, atol=0.04)


def test_perfect_network_denoises_exactly():
    y, n = _data_and_noise(1000)
    sigma = jnp.full(1000, 2.0)
    x = y + 2.0 * n

    def perfect(scaled, c_noise):
        return (y - edm.c_skip(sigma, SIGMA_DATA) * x) / edm.c_out(sigma, SIGMA_DATA)

    got = edm.denoise(perfect, x, sigma, sigma_data=SIGMA_DATA)
    np.testing.assert_allclose(got, y, atol=1e-5)


def test_network_is_told_a_quarter_of_the_log_of_sigma():
    seen = []
    edm.denoise(
        lambda x, c_noise: seen.append(c_noise) or jnp.zeros_like(x),
        jnp.zeros((5, 2, 2, 2, 1)),
        SIGMAS,
        sigma_data=SIGMA_DATA,
    )
    np.testing.assert_allclose(jnp.exp(4 * seen[0]), SIGMAS, rtol=1e-5)


def test_training_sigmas_are_log_normal():
    keys = jax.random.split(jax.random.key(4), 100_000)
    drawn = np.log(edm.draw_sigma(keys, p_mean=-1.2, p_std=1.2))
    assert drawn.mean() == pytest.approx(-1.2, abs=0.02)
    assert drawn.std() == pytest.approx(1.2, abs=0.02)
    # science: P(sigma > 10) = 0.18 %
    assert (drawn > np.log(10)).mean() == pytest.approx(0.0018, abs=0.0005)


def test_schedule_falls_from_sigma_max_to_sigma_min_and_zero():
    sigmas = edm.sigma_schedule(18)
    assert sigmas.shape == (19,)
    assert np.all(np.diff(sigmas) < 0)
    np.testing.assert_allclose(sigmas[[0, 17, 18]], [80, 0.002, 0], rtol=1e-12)


def test_schedule_is_even_in_the_rho_th_root():
    roots = edm.sigma_schedule(9, rho=7.0)[:-1] ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots, 2), 0, atol=1e-12)


def test_schedule_of_one_step_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        edm.sigma_schedule(1)


def test_min_snr_weighs_low_levels_no_more_than_gamma_and_high_ones_by_their_snr():
    """Hang et al. 2023: for a prediction of the clean sample, min(SNR, gamma)."""
    sigma = SIGMA_DATA * jnp.array([1e-3, 0.1, 0.45, 2.0, 100.0])  # SNR 1e6, 100, 4.94, 1/4, 1e-4
    weight = edm.min_snr_weight(sigma, SIGMA_DATA, gamma=5.0) * SIGMA_DATA**2
    np.testing.assert_allclose(weight, [5, 5, 1 / 0.45**2, 0.25, 1e-4], rtol=1e-5)


def test_min_snr_approaches_edm_where_only_the_snr_is_large():
    """lambda is (SNR + 1) / sigma_data^2: with a gamma out of reach, 1 / SNR apart."""
    sigma = jnp.array([0.005, 0.05])
    ratio = edm.min_snr_weight(sigma, SIGMA_DATA, gamma=1e9) / edm.loss_weight(sigma, SIGMA_DATA)
    np.testing.assert_allclose(ratio, [1 / 1.0001, 1 / 1.01], rtol=1e-5)


def test_uniform_weight_is_the_same_at_every_level_and_one_over_the_variance():
    np.testing.assert_allclose(edm.uniform_weight(SIGMAS, SIGMA_DATA), 4.0)


def test_guidance_moves_away_from_the_denoiser_that_knows_less():
    x, sigma = jnp.full((2, 2, 2, 2, 1), 3.0), jnp.ones(2)
    knows, less = (lambda x, sigma: x + 1), (lambda x, sigma: x - 1)
    for guidance, expected in ((0.0, 2.0), (1.0, 4.0), (2.5, 7.0)):
        got = edm.guided(knows, less, guidance)(x, sigma)
        np.testing.assert_allclose(got, expected)
