"""Memory that a gradient needs, from its jaxpr: what is alive at the worst moment.

Operations are taken in the order of the program. What XLA fuses takes no memory of its own: a value
made number by number (a norm's scaling, an activation, a change of type) is computed where it is
used, unless what it is made of is larger. What goes into or comes out of a convolution, a matrix
product, a sum or a recomputed block lies in memory. Padding, the convolutions' workspaces and
fragmentation are not counted: `XLA_NEEDS` allows for them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from edm3d.training.costs import sub_jaxprs

# XLA's CPU compiler took 1.1 to 1.3 times the estimate for networks without remat
# (`tests/training/test_memory.py`); with remat it cannot be asked, since it undoes it.
XLA_NEEDS = 1.3

_RECOMPUTED = {"checkpoint", "remat2", "remat"}
_INLINED = _RECOMPUTED | {"jit", "pjit", "closed_call", "core_call"}
_INLINED |= {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}
# XLA reads the operands of these from memory, and writes the results of all of them there.
_WHOLE = {"conv_general_dilated", "dot_general", "scan", "while", "cond", "shard_map", "barrier"}
_MADE = _WHOLE | {"random_bits", "reduce_sum", "reduce_max", "reduce_min", "psum", "all_gather"}


@dataclass
class _Value:
    """An array: its size, when it is made and last read, and what it is computed from if fused."""

    size: int
    made_at: int
    in_memory: bool
    sources: frozenset[int] = frozenset()
    last_use: int = -1


@dataclass(frozen=True)
class _Operation:
    name: str
    ins: list[int]
    outs: list[int]
    workspace: int  # bytes alive within its body


@dataclass
class _Program:
    """A jaxpr with the bodies of its calls inlined: values by number, operations in order."""

    values: list[_Value] = field(default_factory=list)
    operations: list[_Operation] = field(default_factory=list)

    def new(self, variable: Any, *, in_memory: bool) -> int:
        self.values.append(_Value(_size(variable.aval), len(self.operations), in_memory))
        return len(self.values) - 1

    def sources(self, numbers: list[int]) -> frozenset[int]:
        """What lies in memory that these values are, or are computed from."""
        values = [(n, self.values[n]) for n in numbers]
        return frozenset().union(*({n} if v.in_memory else v.sources for n, v in values))


def peak_bytes(function: Callable, *args: Any) -> int:
    """Bytes alive at the worst moment of `function`: its results among them, its arguments not."""
    return jaxpr_peak_bytes(jax.make_jaxpr(function)(*args).jaxpr)


def tree_bytes(tree: Any) -> int:
    """Bytes of a tree of arrays or shapes."""
    return sum(_size(leaf) for leaf in jax.tree.leaves(tree))


def jaxpr_peak_bytes(jaxpr: core.Jaxpr) -> int:
    """The same of a jaxpr."""
    program = _Program()
    given = [program.new(v, in_memory=True) for v in (*jaxpr.constvars, *jaxpr.invars)]
    results = _inline(program, jaxpr, given)
    _place(program, results)
    return _peak(program, set(given))


def _inline(program: _Program, jaxpr: core.Jaxpr, given: list[int]) -> list[int]:
    """Appends a jaxpr's operations; the numbers of its results."""
    number: dict[Any, int] = dict(zip((*jaxpr.constvars, *jaxpr.invars), given, strict=True))

    def read(atom: Any) -> int:
        literal = isinstance(atom, core.Literal)
        return program.new(atom, in_memory=False) if literal else number[atom]

    for eqn in jaxpr.eqns:
        name, ins, bodies = eqn.primitive.name, [read(a) for a in eqn.invars], [*sub_jaxprs(eqn)]
        if name in _INLINED and len(bodies) == 1:
            if name in _RECOMPUTED:
                program.operations.append(_Operation("barrier", ins, [], 0))
            outs = _inline(program, bodies[0], ins)
        else:
            made = name in _MADE or bool(bodies)
            outs = [program.new(v, in_memory=made) for v in eqn.outvars]
            workspace = max((jaxpr_peak_bytes(body) for body in bodies), default=0)
            program.operations.append(_Operation(name, ins, outs, workspace))
        number.update(zip(eqn.outvars, outs, strict=True))
    return [read(a) for a in jaxpr.outvars]


def _place(program: _Program, results: list[int]) -> None:
    """Decides which values lie in memory, and until when."""
    values, operations = program.values, program.operations
    for operation in operations:
        if operation.name in _WHOLE:
            for n in operation.ins:
                values[n].in_memory = True
    for n in results:
        values[n].in_memory = True
    for operation in operations:
        sources = program.sources(operation.ins)
        made_of = sum(values[s].size for s in sources)
        for n in operation.outs:
            values[n].in_memory |= made_of > values[n].size
            values[n].sources = sources
    for t, operation in enumerate(operations):
        for s in program.sources(operation.ins):
            values[s].last_use = t
    for n in results:
        values[n].last_use = len(operations)


def _peak(program: _Program, given: set[int]) -> int:
    change = np.zeros(len(program.operations) + 2, np.int64)
    for n, value in enumerate(program.values):
        if value.in_memory and n not in given and value.last_use >= value.made_at:
            change[value.made_at] += value.size
            change[value.last_use + 1] -= value.size
    alive = np.cumsum(change)[:-1]
    alive[:-1] += np.array([o.workspace for o in program.operations], np.int64)
    return int(alive.max(initial=0))


def _size(array: Any) -> int:
    key = jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
    return math.prod(array.shape) * (8 if key else np.dtype(array.dtype).itemsize)
