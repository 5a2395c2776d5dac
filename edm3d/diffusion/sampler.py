"""Algorithm 2 of Karras et al. 2022 as one `lax.scan`, deterministic and stochastic.

Shapes: b batch, z y x voxels. `sample` is the algorithm; everything else here serves it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from edm3d.diffusion.edm import unit_noise

Array = jax.Array
Denoiser = Callable[[Array, Array], Array]


@dataclass(frozen=True)
class Churn:
    """How much noise each step adds back; `s_churn = 0` is the deterministic sampler."""

    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = float("inf")
    s_noise: float = 1.0

    def gamma(self, sigmas: np.ndarray) -> np.ndarray:
        """`[n]` relative rise of the noise level at each of the n levels `sigmas`."""
        rise = min(self.s_churn / len(sigmas), np.sqrt(2) - 1)
        return np.where((self.s_min <= sigmas) & (sigmas <= self.s_max), rise, 0.0)


def evaluations(steps: int, *, second_order: bool = True) -> int:
    """Denoiser calls of one sample: the last step needs no correction."""
    return 2 * steps - 1 if second_order else steps


def sample(
    denoise: Denoiser,
    keys: Array,
    shape: tuple[int, ...],
    sigmas: np.ndarray,
    *,
    churn: Churn = Churn(),
    second_order: bool = True,
) -> Array:
    """`[b, *shape]` samples, one for each of the keys `[b]`, from noise to sigma = 0.

    Args:
        denoise: D(x, sigma) for `x [b, *shape]` and `sigma [b]`.
        keys: typed PRNG keys; a sample depends on its own key alone.
        sigmas: `[n + 1]` falling levels that end in 0, of `edm.sigma_schedule`.
        second_order: Heun's correction (2n - 1 denoiser calls), else Euler (n calls).
    """
    gammas = churn.gamma(sigmas[:-1])
    stochastic = bool(np.any(gammas > 0))

    def raise_noise(x: Array, i: Array, t: Array, gamma: Array) -> tuple[Array, Array]:
        if not stochastic:
            return x, t
        # t_hat^2 - t^2 = t^2 gamma (2 + gamma), which cannot round to below 0
        added = t * jnp.sqrt(gamma * (2 + gamma)) * churn.s_noise
        return x + added * standard_normal(keys, i, shape), t * (1 + gamma)

    def slope(x: Array, t: Array) -> Array:
        return (x - denoise(x, jnp.full(len(keys), t))) / t

    def step(x: Array, level: tuple[Array, ...]) -> tuple[Array, None]:
        i, t, t_next, gamma = level
        x_hat, t_hat = raise_noise(x, i, t, gamma)
        d_cur = slope(x_hat, t_hat)
        x_next = x_hat + (t_next - t_hat) * d_cur
        if second_order:
            d_prime = slope(x_next, t_next)
            x_next = x_hat + (t_next - t_hat) * (d_cur + d_prime) / 2
        return x_next, None

    # index 0 is the latent's own stream; step i adds noise of stream i + 1
    i = jnp.arange(1, len(sigmas))
    t, gamma = (jnp.asarray(a, jnp.float32) for a in (sigmas[:-1], gammas))
    x = t[0] * standard_normal(keys, 0, shape)
    x, _ = jax.lax.scan(step, x, (i[:-1], t[:-1], t[1:], gamma[:-1]))
    # The step to sigma = 0 by Euler's rule is the denoiser's own output.
    x_hat, t_hat = raise_noise(x, i[-1], t[-1], gamma[-1])
    return denoise(x_hat, jnp.full(len(keys), t_hat))


def standard_normal(keys: Array, stream: int | Array, shape: tuple[int, ...]) -> Array:
    """`[b, *shape]` unit noise; row k is a function of `keys[k]` and `stream` alone."""
    return unit_noise(jax.vmap(jax.random.fold_in, (0, None))(keys, stream), shape)
