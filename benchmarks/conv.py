"""How much faster the CPU's 3-D convolution is than XLA's own, forward and with gradients.

    python benchmarks/conv.py

The two take turns within a round, so that other load meets both alike; medians and their ratio are
printed and written to benchmarks/results/conv.json. Only the ratios travel between machines.
"""

import argparse
import statistics
import time

import jax
from provenance import origin, write_result

from edm3d.diffusion.conv import conv3d_cpu, conv3d_lax

# batch, side, input channels, output channels: the quickstart's levels and wider ones
SHAPES = ((8, 24, 16, 16), (8, 24, 32, 16), (8, 12, 16, 16), (8, 6, 64, 64), (2, 32, 32, 32))


def gradients(convolution):
    """The convolution's forward and both gradients as one jitted function."""

    def run(x, kernel, dy):
        y, back = jax.vjp(convolution, x, kernel)
        return y, *back(dy)

    return jax.jit(run)


def seconds(function, *operands) -> float:
    """Wall seconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(function(*operands))
    return time.perf_counter() - start


def measure(shape: tuple[int, int, int, int], rounds: int) -> dict:
    """Median milliseconds of both, and their ratio, for one layer."""
    b, n, i, o = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (b, n, n, n, i))
    kernel = jax.random.normal(keys[1], (3, 3, 3, i, o))
    dy = jax.random.normal(keys[2], (b, n, n, n, o))
    row = {"batch": b, "side": n, "in": i, "out": o}
    for what, build, operands in (
        ("forward", jax.jit, (x, kernel)),
        ("gradients", gradients, (x, kernel, dy)),
    ):
        ours, lax = build(conv3d_cpu), build(conv3d_lax)
        jax.block_until_ready((ours(*operands), lax(*operands)))
        times = [(seconds(ours, *operands), seconds(lax, *operands)) for _ in range(rounds)]
        row[f"{what}_ms"] = round(1000 * statistics.median(t for t, _ in times), 2)
        row[f"{what}_lax_ms"] = round(1000 * statistics.median(t for _, t in times), 2)
        row[f"{what}_ratio"] = round(statistics.median(b / a for a, b in times), 2)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    about = origin(("jax", "jaxlib", "edm3d")) | {"device": jax.devices()[0].device_kind}
    rows = []
    for shape in SHAPES:
        rows.append(measure(shape, rounds))
        if len(rows) == 1:
            print(" ".join(f"{name:>18}" for name in rows[0]))
        print(" ".join(f"{value!s:>18}" for value in rows[-1].values()), flush=True)
    print(f"written to {write_result('conv', {**about, 'rows': rows})}")


if __name__ == "__main__":
    main()
