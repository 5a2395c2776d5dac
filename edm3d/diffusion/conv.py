"""3x3x3 convolution with zero padding, chosen by platform in one place: `conv3d`.

Shapes: b batch, z y x voxels, i input channels, o output channels.

XLA's CPU backend runs three-dimensional convolutions far below the machine's rate. There `conv3d`
works on slices with their two neighbours stacked along channels, which makes it a two-dimensional
convolution with 3i channels, and takes the weight gradient as three matrix products. Results and
gradients equal `conv3d_lax`, which GPU and TPU keep. Figures: `benchmarks/conv.py`.
"""

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def conv3d(x: Array, kernel: Array) -> Array:
    """`[b, z, y, x, o]`: `x [b, z, y, x, i]` convolved with `kernel [3, 3, 3, i, o]`."""
    if jax.default_backend() == "cpu":
        return conv3d_cpu(x, kernel)
    return conv3d_lax(x, kernel)


def conv3d_lax(x: Array, kernel: Array) -> Array:
    """The same by XLA's own convolution, the reference for `conv3d_cpu`."""
    return lax.conv_general_dilated(
        x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC")
    )


@jax.custom_vjp
def conv3d_cpu(x: Array, kernel: Array) -> Array:
    """The same as one 2-D convolution over slices stacked with their neighbours in z."""
    b, z, *_, o = *x.shape[:-1], kernel.shape[-1]
    slices = _with_neighbours(x, axis=1)
    slices = slices.reshape(b * z, *slices.shape[2:])
    y = lax.conv_general_dilated(
        slices, _stack_depth(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(*x.shape[:-1], o)


def _forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return conv3d_cpu(x, kernel), (x, kernel)


def _backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dx = conv3d_cpu(dy, jnp.flip(kernel, (0, 1, 2)).swapaxes(3, 4))
    return dx, _kernel_gradient(x, dy)


conv3d_cpu.defvjp(_forward, _backward)


def _kernel_gradient(x: Array, dy: Array) -> Array:
    """`[3, 3, 3, i, o]`: sums of x times dy at the 27 offsets, nine by each of three products.

    Offsets along z are stacked on x and those along x on dy, so that the matrices are wide; the
    three along y are slices of a padded array.
    """
    i, o, rows = x.shape[-1], dy.shape[-1], dy.shape[2]
    xs = jnp.pad(_with_neighbours(x, axis=1), ((0, 0), (0, 0), (1, 1), (0, 0), (0, 0)))
    dys = _with_neighbours(dy, axis=3).reshape(-1, 3 * o)
    products = [xs[:, :, k : k + rows].reshape(-1, 3 * i).T @ dys for k in range(3)]
    # [ky, kz, i, kx reversed, o]: dy shifted by -k meets x shifted by +k.
    blocks = jnp.stack(products).reshape(3, 3, i, 3, o)[:, :, :, ::-1]
    return blocks.transpose(1, 0, 3, 2, 4)


def _with_neighbours(x: Array, axis: int) -> Array:
    """`x` with its predecessor and successor along `axis` stacked before and after its channels."""
    n = x.shape[axis]
    padded = jnp.pad(x, [(1, 1) if k == axis else (0, 0) for k in range(x.ndim)])
    return jnp.concatenate(
        [lax.slice_in_dim(padded, k, k + n, axis=axis) for k in range(3)], axis=-1
    )


def _stack_depth(kernel: Array) -> Array:
    """`[3, 3, 3i, o]` from `[3, 3, 3, i, o]`, in the channel order of `_with_neighbours`."""
    _, ky, kx, i, o = kernel.shape
    return kernel.transpose(1, 2, 0, 3, 4).reshape(ky, kx, 3 * i, o)
