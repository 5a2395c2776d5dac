"""The equations of EDM: preconditioning, loss and noise levels (Karras et al. 2022).

Shapes: b batch, z y x voxels. `x` is `[b, z, y, x, 1]`, `sigma` is `[b]`. All in float32.
A `network` maps (scaled noisy x `[b, z, y, x, 1]`, c_noise `[b]`) to F `[b, z, y, x, 1]`; what it
is conditioned on is bound to it beforehand. Read next: `edm3d.diffusion.sampler`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Network = Callable[[Array, Array], Array]
Weight = Callable[[Array, float], Array]  # of sigma and sigma_data


def c_skip(sigma: Array, sigma_data: float) -> Array:
    """Weight of the noisy input in the denoised output (Table 1)."""
    return sigma_data**2 / (sigma**2 + sigma_data**2)


def c_out(sigma: Array, sigma_data: float) -> Array:
    """Scale of the network's output, so that its target has unit variance (Table 1)."""
    return sigma * sigma_data * jax.lax.rsqrt(sigma**2 + sigma_data**2)


def c_in(sigma: Array, sigma_data: float) -> Array:
    """Scale of the network's noisy input, so that it has unit variance (Table 1)."""
    return jax.lax.rsqrt(sigma**2 + sigma_data**2)


def c_noise(sigma: Array) -> Array:
    """What the network is told of the noise level (Table 1)."""
    return jnp.log(sigma) / 4


def denoise(network: Network, x: Array, sigma: Array, *, sigma_data: float) -> Array:
    """D(x; sigma), the denoised `[b, z, y, x, 1]` (equation 7)."""
    s = _per_sample(sigma, x)
    f = network(c_in(s, sigma_data) * x, c_noise(sigma)).astype(x.dtype)
    return c_skip(s, sigma_data) * x + c_out(s, sigma_data) * f


def guided(denoise: Network, free: Network, guidance: float) -> Network:
    """D + (guidance - 1) (D - D_free), classifier-free guidance of two denoisers.

    `free` knows less than `denoise`; 1 leaves `denoise` as it is. Ho and Salimans 2022, equation 6
    (whose w is guidance - 1), for denoisers: the score is (D - x) / sigma^2.
    """

    def combined(x: Array, sigma: Array) -> Array:
        d = denoise(x, sigma)
        return d + (guidance - 1) * (d - free(x, sigma))

    return combined


def loss_weight(sigma: Array, sigma_data: float) -> Array:
    """lambda(sigma), which makes the initial loss 1 at every noise level (Table 1)."""
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def min_snr_weight(sigma: Array, sigma_data: float, *, gamma: float = 5.0) -> Array:
    """min(SNR, gamma) / sigma_data^2 with SNR = (sigma_data / sigma)^2, for an error of D.

    Hang et al. 2023, "Efficient Diffusion Training via Min-SNR Weighting Strategy",
    for a prediction of the clean sample. lambda is (SNR + 1) / sigma_data^2: low noise levels
    weigh no more than `gamma` here, high ones fade as the SNR.
    """
    return jnp.minimum((sigma_data / sigma) ** 2, gamma) / sigma_data**2


def uniform_weight(sigma: Array, sigma_data: float) -> Array:
    """1 / sigma_data^2: the same error of D counts the same at every noise level."""
    return jnp.full_like(sigma, 1 / sigma_data**2)


def draw_sigma(keys: Array, *, p_mean: float, p_std: float) -> Array:
    """`[b]` noise levels for training, one a key, ln sigma ~ N(p_mean, p_std^2) (Table 1)."""
    return jnp.exp(p_mean + p_std * unit_noise(keys, ()))


def denoising_loss(
    network: Network,
    y: Array,
    sigma: Array,
    keys: Array,
    *,
    sigma_data: float,
    weight: Weight = loss_weight,
) -> Array:
    """`[b]` weighted squared errors of D(y + n; sigma), n ~ N(0, sigma^2) (equation 2).

    The noise of a sample is that of its own key in `keys [b]`.

    The published loss sums over voxels; this is their mean, so that its size does not depend on the
    patch: Adam's step is the same but for its epsilon.
    """
    n = _per_sample(sigma, y) * unit_noise(keys, y.shape[1:])
    error = denoise(network, y + n, sigma, sigma_data=sigma_data) - y
    return weight(sigma, sigma_data) * jnp.mean(error**2, axis=range(1, y.ndim))


def sigma_schedule(
    steps: int, *, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> np.ndarray:
    """`[steps + 1]` falling noise levels, the last of them 0 (equation 5)."""
    if steps < 2:
        raise ValueError(f"steps is {steps}; a schedule needs at least 2")
    ramp = np.arange(steps) / (steps - 1)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0)


def unit_noise(keys: Array, shape: tuple[int, ...]) -> Array:
    """`[b, *shape]` draws of N(0, 1); row k is a function of `keys[k]` alone."""
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)


def _per_sample(sigma: Array, x: Array) -> Array:
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))
