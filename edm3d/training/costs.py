"""What the network costs, counted from its jaxpr: nothing is compiled, no accelerator is needed.

A FLOP is one floating-point multiplication or addition. Convolutions and matrix products alone are
counted, as is usual for the utilisation of an accelerator; norms, activations and the optimiser are
below 1 % of them. A convolution's zero padding counts as work. Read next: `edm3d.training.memory`.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from edm3d.diffusion.conv import conv3d_lax
from edm3d.training.objective import Objective, abstract_params

BACKWARD = 2.0  # the gradients by input and by weights cost one forward pass each


def forward_flops(objective: Objective, patch: int) -> float:
    """FLOPs of the network on one `patch`^3, forward: what every device must do, whatever its way.

    A training patch takes three times as many, a recomputing one (`remat`) up to four times.
    """
    model, conditions = objective.model, len(objective.conditioning.channel_names)
    model = model.clone(conv3=conv3d_lax, remat="none")
    x = jax.ShapeDtypeStruct((1, patch, patch, patch, 1 + conditions), jnp.float32)
    c_noise = jax.ShapeDtypeStruct((1,), jnp.float32)
    return flops(lambda params, *inputs: model.apply({"params": params}, *inputs))(
        abstract_params(objective), x, c_noise
    )


def training_flops(objective: Objective, patch: int) -> float:
    """FLOPs that the gradient of one `patch`^3 needs, without what is computed again."""
    return (1 + BACKWARD) * forward_flops(objective, patch)


def as_on_accelerators(objective: Objective) -> Objective:
    """With XLA's own 3-D convolution, whatever this host is."""
    return replace(objective, model=objective.model.clone(conv3=conv3d_lax))


def flops(function: Callable) -> Callable[..., float]:
    """A function that counts `function`'s FLOPs for arguments or their shapes."""
    return lambda *args: jaxpr_flops(jax.make_jaxpr(function)(*args).jaxpr)


def jaxpr_flops(jaxpr: core.Jaxpr) -> float:
    """FLOPs of one run of a jaxpr; inside of `shard_map` those of one device.

    Raises:
        ValueError: a loop of unknown length does convolutions or matrix products.
    """
    return sum(_equation_flops(eqn) for eqn in jaxpr.eqns)


def _equation_flops(eqn: core.JaxprEqn) -> float:
    name = eqn.primitive.name
    if name == "conv_general_dilated":
        return _convolution_flops(eqn)
    if name == "dot_general":
        return _product_flops(eqn)
    inner = [jaxpr_flops(sub) for sub in sub_jaxprs(eqn)]
    if name == "scan":
        return eqn.params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if name == "while" and sum(inner):
        raise ValueError("a while loop's FLOPs are unknown; write it as a scan")
    return sum(inner)


def _convolution_flops(eqn: core.JaxprEqn) -> float:
    """An output sums over a kernel's window and input channels; spread-out inputs are mostly 0."""
    kernel, out = _shape(eqn.invars[1]), _shape(eqn.outvars[0])
    rhs = eqn.params["dimension_numbers"].rhs_spec
    taps = math.prod(kernel[axis] for axis in rhs[1:])
    return 2.0 * math.prod(out) * taps / math.prod(eqn.params["lhs_dilation"])


def _product_flops(eqn: core.JaxprEqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    summed = math.prod(_shape(eqn.invars[0])[axis] for axis in contracted)
    return 2.0 * math.prod(_shape(eqn.outvars[0])) * summed


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape


def sub_jaxprs(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The jaxprs that an equation runs: bodies of jit, scan, remat, shard_map, custom gradients."""
    for value in eqn.params.values():
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def halo_bytes(jaxpr: core.Jaxpr) -> float:
    """What the convolutions of a program send where z is split over devices, a device.

    A window of three reaches one plane into either neighbour, so each 3-D convolution of windows,
    forward or for a gradient, receives two planes of its input.
    """
    return sum(_equation_halo_bytes(eqn) for eqn in jaxpr.eqns)


def _equation_halo_bytes(eqn: core.JaxprEqn) -> float:
    if eqn.primitive.name == "conv_general_dilated":
        volume: Any = eqn.invars[0].aval
        planes = volume.shape[eqn.params["dimension_numbers"].lhs_spec[2]]
        return 2 * math.prod(volume.shape) // planes * volume.dtype.itemsize
    rounds = eqn.params["length"] if eqn.primitive.name == "scan" else 1
    return rounds * sum(halo_bytes(sub) for sub in sub_jaxprs(eqn))
