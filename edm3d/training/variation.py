"""What training changes in its samples by chance: pairs without a change, missing conditions.

Shapes: b batch, g groups of conditions (`edm3d.diffusion.absence`). All is drawn from a sample's
own key, in streams apart from its noise: neither microbatches nor devices change what is drawn.
"""

import zlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from edm3d.diffusion.absence import GROUPS

Array = jax.Array
Batch = dict[str, Array]
_IDENTITY, _GIVEN = (zlib.crc32(name) for name in (b"identity pairs", b"given conditions"))
_PRIOR = {
    "target_hu": "prior_hu",
    **{f"{kind}_{v}": f"prior_{kind}_{v}" for kind in ("xray", "film") for v in ("pa", "lat")},
}


def with_identity_pairs(batch: Batch, keys: Array, share: float) -> Batch:
    """The batch with about `share` of its targets replaced by their priors.

    CT, X-rays or films, and ventilator settings become those of the prior: nothing has changed.
    """
    chosen = _chances(keys, _IDENTITY, 1)[:, 0] < share

    def replaced(name: str, prior: Array) -> Array:
        rows = chosen.reshape(-1, *(1,) * (prior.ndim - 1))
        return jnp.where(rows, prior, batch[name])

    settings = batch["ventilation"]
    same = jnp.concatenate([settings[:, 3:], settings[:, 3:]], axis=1)
    pairs = {t: replaced(t, batch[prior]) for t, prior in _PRIOR.items() if t in batch}
    return {**batch, **pairs, "ventilation": replaced("ventilation", same)}


def draw_given(keys: Array, dropout: Mapping[str, float]) -> Array:
    """`[b, g]` bool: which groups each sample keeps; each goes by its own chance in `dropout`."""
    chances = jnp.array([dropout.get(group, 0.0) for group in GROUPS])
    return _chances(keys, _GIVEN, len(GROUPS)) >= chances


def _chances(keys: Array, stream: int, n: int) -> Array:
    """`[b, n]` uniform draws in [0, 1)."""
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, stream), (n,)))(keys)
