"""One of two processes of two devices: `one_of_two.py CASE`, and JAX_* as of --distributed=env.

Checks how rows are shared out and how a stop is agreed, then fails as CASE says.
"""

import os
import signal
import sys

import jax
import numpy as np

from edm3d import command
from edm3d.errors import InputError
from edm3d.training import distributed
from edm3d.training import mesh as meshes
from edm3d.training.agreement import FLAG, Agreement


def check_rows() -> None:
    """Every device holds its part of the global batch, from the rows that its process read."""
    d = jax.devices()
    in_turn = [d[0], d[2], d[1], d[3]]  # as a topology may ask for
    batch = {"prior_hu": np.arange(4 * 4).reshape(4, 4), "start": np.arange(4) * 10}
    layouts = [((4, 1), d), ((4, 1), in_turn), ((2, 2), d), ((2, 2), in_turn), ((1, 4), d)]
    for shape, devices in layouts:
        mesh = meshes.make_mesh(*shape, devices=devices)
        rows = meshes.rows_here(mesh, 4)
        local = {name: array[rows] for name, array in batch.items()}
        for name, array in meshes.rows_to_devices(mesh, local, rows=rows, batch=4).items():
            for shard in array.addressable_shards:
                np.testing.assert_array_equal(shard.data, batch[name][shard.index])
        print(shape, rows.tolist(), file=sys.stderr)


def check_agreement(index: int) -> None:
    """Process 1 alone is asked to stop, and both learn it."""
    asked = [False]
    agreed = Agreement(meshes.make_mesh(), lambda: asked[0])
    assert not agreed.now()
    asked[0] = index == 1
    assert not agreed.alone() and agreed.now()
    (mine,) = {int(s.data[0]) for s in agreed.flagged({})[FLAG].addressable_shards}
    assert mine == asked[0]


def main(case: str) -> None:
    place = distributed.place_of("env", os.environ)
    assert place is not None
    with distributed.joined(place, start_timeout_s=50, errors=command.bad_input_exits_2()):
        print("told by", place.index)
        check_rows()
        check_agreement(place.index)
        distributed.wait_for_all("checked")
        if case == "input" and place.index == 1:
            raise InputError("record 7 is damaged")
        if case == "kill" and place.index == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if case != "well":
            distributed.wait_for_all("never met")


if __name__ == "__main__":
    main(sys.argv[1])
