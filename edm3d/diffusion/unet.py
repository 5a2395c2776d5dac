"""The network F: EDM's U-Net in three dimensions (Karras et al. 2022, appendix F.2).

Its blocks are those of DDPM++, or by `flavour` those of ADM (Dhariwal and Nichol 2021).

Shapes: b batch, z y x voxels, c channels, e embedding channels, t tokens.
Parameters are float32; `dtype` is that of convolutions and matrix products. GroupNorm statistics,
softmax and the noise embedding stay in float32.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from edm3d.diffusion.conv import conv3d
from edm3d.diffusion.flavour import DDPMPP, Flavour, scaled_xavier

Array = jax.Array
CONVOLUTION = "convolution"  # what remat="convolutions" keeps for the backward pass
REMAT = {
    "none": None,
    "blocks": jax.checkpoint_policies.nothing_saveable,
    "convolutions": jax.checkpoint_policies.save_only_these_names(CONVOLUTION),
}


def stride(levels: int) -> int:
    """By what every side of a volume must be divisible."""
    return 2 ** (levels - 1)


def downsample(x: Array) -> Array:
    """Mean over boxes of 2^3 voxels; a constant stays that constant."""
    b, z, y, w, c = x.shape
    return x.reshape(b, z // 2, 2, y // 2, 2, w // 2, 2, c).mean((2, 4, 6))


def upsample(x: Array) -> Array:
    """Every voxel repeated to 2^3; `downsample` undoes it exactly."""
    b, z, y, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None, :, None], (b, z, 2, y, 2, w, 2, c))
    return x.reshape(b, 2 * z, 2 * y, 2 * w, c)


def group_count(channels: int) -> int:
    """32 groups, fewer where they would have fewer than 4 channels or not divide `channels`."""
    return next(g for g in range(max(min(32, channels // 4), 1), 0, -1) if channels % g == 0)


def sinusoid(c_noise: Array, channels: int) -> Array:
    """`[b, channels]` sines and cosines of `c_noise [b]`, frequencies 1 to 1e-4."""
    frequency = 1e-4 ** jnp.linspace(0.0, 1.0, channels // 2)
    angle = c_noise[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class Conv(nn.Module):
    """Convolution of 3^3 or 1^3 voxels with bias."""

    features: int
    size: int = 3
    scale: float = 1.0
    dtype: jnp.dtype = jnp.float32
    conv3: Callable = conv3d
    initial: Callable = scaled_xavier

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.size,) * 3 + (x.shape[-1], self.features)
        kernel = self.param("kernel", self.initial(self.scale), shape).astype(self.dtype)
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype)
        y = x @ kernel[0, 0, 0] if self.size == 1 else self.conv3(x, kernel)
        return checkpoint_name(y + bias, CONVOLUTION)


class NormSiLU(nn.Module):
    """GroupNorm with float32 statistics, then SiLU."""

    dtype: jnp.dtype = jnp.float32
    silu: bool = True
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        # mean of squares minus square of the mean would cancel where the mean is large
        x = nn.GroupNorm(
            group_count(x.shape[-1]),
            epsilon=self.epsilon,
            dtype=self.dtype,
            use_fast_variance=False,
        )(x)
        return nn.silu(x) if self.silu else x


class Attention(nn.Module):
    """Residual self-attention over all voxels."""

    dtype: jnp.dtype = jnp.float32
    flavour: Flavour = DDPMPP

    @nn.compact
    def __call__(self, x: Array) -> Array:
        (b, *_, c), kind = x.shape, self.flavour
        conv = partial(Conv, size=1, dtype=self.dtype, initial=kind.initial)
        h = NormSiLU(self.dtype, silu=False, epsilon=kind.epsilon)(x)
        qkv = conv(3 * c, scale=kind.query)(h)
        n = kind.heads(c)
        q, k, v = (a.reshape(b, -1, n, c // n) for a in jnp.split(qkv, 3, axis=-1))
        h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)  # softmax in float32
        h = conv(c, scale=kind.closing)(h)
        return (x + h) * kind.skip_scale


class Dropout(nn.Module):
    """Sets a share of the numbers to 0, each row by its own key; does nothing without keys.

    Flax's own draws one mask for the batch: microbatches would then change what is drawn.
    """

    rate: float

    @nn.compact
    def __call__(self, x: Array, keys: Array | None) -> Array:
        if keys is None or not self.rate:
            return x
        layer = zlib.crc32("/".join(self.path).encode())

        def kept(key: Array) -> Array:
            return jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - self.rate, x.shape[1:])

        return jnp.where(jax.vmap(kept)(keys), x / (1 - self.rate), 0)


class Block(nn.Module):
    """Residual block with the noise embedding, optional resampling and attention."""

    features: int
    resample: Callable | None = None
    attention: bool = False
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    conv3: Callable = conv3d
    flavour: Flavour = DDPMPP

    @nn.compact
    def __call__(self, x: Array, embedding: Array, dropout_keys: Array | None = None) -> Array:
        kind = self.flavour
        conv = partial(
            Conv, self.features, dtype=self.dtype, conv3=self.conv3, initial=kind.initial
        )
        resample = self.resample or (lambda a: a)
        h = conv(name="conv0")(resample(NormSiLU(self.dtype, epsilon=kind.epsilon)(x)))
        h = self._with_noise_level(h, embedding)
        h = Dropout(self.dropout)(h, dropout_keys)
        h = conv(scale=kind.closing, name="conv1")(h)
        x, resized = resample(x), self.resample and kind.always_project
        if resized or x.shape[-1] != self.features:
            x = conv(size=1, name="skip")(x)
        x = (x + h) * kind.skip_scale
        return Attention(self.dtype, kind)(x) if self.attention else x

    def _with_noise_level(self, h: Array, embedding: Array) -> Array:
        """The second norm and SiLU, told of the noise level by a shift, or a scale and a shift."""
        kind = self.flavour
        dense = partial(nn.Dense, kernel_init=kind.initial())

        def everywhere(a: Array) -> Array:
            return a[:, None, None, None, :].astype(self.dtype)

        if not kind.adaptive:
            shift = dense(self.features, name="shift")(embedding)
            return NormSiLU(self.dtype, epsilon=kind.epsilon)(h + everywhere(shift))
        both = dense(2 * self.features, name="scale_shift")(embedding)
        scale, shift = map(everywhere, jnp.split(both, 2, axis=-1))
        h = NormSiLU(self.dtype, silu=False, epsilon=kind.epsilon)(h)
        return nn.silu(h * (1 + scale) + shift)


class UNet(nn.Module):
    """F(x, c_noise): `[b, z, y, x, 1]` float32 from `[b, z, y, x, c]` and `[b]`.

    Keys `[b]` switch dropout on.

    Attributes:
        channels: width of the first level; level k has `channels * channel_mult[k]`.
        blocks: blocks of an encoder level; a decoder level has one more.
        attention_levels: levels whose encoder blocks and last decoder block attend; level k works
            at 1 / 2^k of the input's resolution.
        remat: what the backward pass computes again: "none", everything of "blocks", or all but
            their "convolutions".
        flavour: `DDPMPP` or `ADM` of `edm3d.diffusion.flavour`.
    """

    channels: int = 64
    channel_mult: Sequence[int] = (1, 2, 2, 2)
    blocks: int = 4
    attention_levels: Sequence[int] = (3,)
    dropout: float = 0.13
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    conv3: Callable = conv3d
    flavour: Flavour = DDPMPP

    @nn.compact
    def __call__(self, x: Array, c_noise: Array, dropout_keys: Array | None = None) -> Array:
        embedding = self._embed(c_noise)
        kind = self.flavour
        conv = partial(Conv, dtype=self.dtype, conv3=self.conv3, initial=kind.initial)
        policy = REMAT[self.remat]
        block = partial(
            nn.remat(Block, policy=policy) if policy else Block,
            dropout=self.dropout,
            dtype=self.dtype,
            conv3=self.conv3,
            flavour=kind,
        )

        x = conv(self.channels, name="conv_in")(x)
        skips = [x]
        for level, width in enumerate(self._widths()):
            attend = level in self.attention_levels
            if level > 0:
                x = block(x.shape[-1], downsample, name=f"enc{level}_down")(
                    x, embedding, dropout_keys
                )
                skips.append(x)
            for k in range(self.blocks):
                name = f"enc{level}_block{k}"
                x = block(width, attention=attend, name=name)(x, embedding, dropout_keys)
                skips.append(x)

        x = block(x.shape[-1], attention=True, name="mid0")(x, embedding, dropout_keys)
        x = block(x.shape[-1], name="mid1")(x, embedding, dropout_keys)
        for level, width in reversed(list(enumerate(self._widths()))):
            for k in range(self.blocks + 1):
                attend = level in self.attention_levels and (
                    kind.attend_decoder or k == self.blocks
                )
                x = jnp.concatenate([x, skips.pop()], axis=-1)
                name = f"dec{level}_block{k}"
                x = block(width, attention=attend, name=name)(x, embedding, dropout_keys)
            if level > 0:
                x = block(width, upsample, name=f"dec{level}_up")(x, embedding, dropout_keys)

        x = NormSiLU(self.dtype, epsilon=kind.epsilon, name="norm_out")(x)
        return conv(1, scale=kind.closing, name="conv_out")(x).astype(jnp.float32)

    def _widths(self) -> list[int]:
        return [self.channels * m for m in self.channel_mult]

    def _embed(self, c_noise: Array) -> Array:
        """`[b, e]` float32 embedding of the noise level, e = 4 `channels`."""
        dense = partial(nn.Dense, 4 * self.channels, kernel_init=self.flavour.initial())
        e = nn.silu(dense(name="embed0")(sinusoid(c_noise, self.channels)))
        return nn.silu(dense(name="embed1")(e))
