"""Layouts that do not fit are refused with what would."""

import jax
import numpy as np
import pytest

from edm3d.errors import InputError
from edm3d.training import mesh as meshes


def test_data_takes_what_space_leaves():
    assert dict(meshes.make_mesh(space=2).shape) == {"data": 4, "space": 2}


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    with pytest.raises(InputError, match="3 x 1, but there are 8 devices"):
        meshes.make_mesh(data=3)
    with pytest.raises(InputError, match="divides 8"):
        meshes.make_mesh(space=3)
    with pytest.raises(InputError, match="-1 x 0"):
        meshes.make_mesh(space=0)


def test_a_patch_whose_levels_space_does_not_divide_is_refused():
    meshes.check_patch(meshes.make_mesh(4, 2), 8, levels=3)
    with pytest.raises(InputError, match=r"use mesh\.space=1, or a patch divisible by 8"):
        meshes.check_patch(meshes.make_mesh(4, 2), 12, levels=3)
    with pytest.raises(InputError, match=r"use mesh\.space=2, or a patch divisible by 16"):
        meshes.check_patch(meshes.make_mesh(1, 8), 12, levels=2)


def test_an_uneven_batch_is_refused_with_what_would_fit():
    with pytest.raises(InputError, match=r"use 16 or 24, or a mesh\.space that leaves 4 of them"):
        meshes.microbatches(meshes.make_mesh(), 20)


def test_a_device_takes_turns_where_it_has_more_than_it_takes_at_once():
    one, eight = meshes.make_mesh(devices=jax.devices()[:1]), meshes.make_mesh()
    assert meshes.microbatches(one, 24, 3) == 8
    assert meshes.microbatches(eight, 24, 3) == 1
    assert meshes.microbatches(eight, 24, 0) == 1
    assert meshes.microbatches(eight, 16, 3) == 1
    with pytest.raises(InputError, match=r"does not divide the 4 patches .* use 2"):
        meshes.microbatches(eight, 32, 3)


def test_volumes_are_split_along_z_and_the_rest_is_not():
    mesh = meshes.make_mesh(4, 2)
    batch = {
        "prior_hu": np.zeros((8, 4, 3, 3), np.int16),
        "ventilation": np.zeros((8, 6), np.float32),
    }
    arrays = meshes.to_devices(mesh, batch)
    assert arrays["prior_hu"].sharding.shard_shape((8, 4, 3, 3)) == (2, 2, 3, 3)
    assert arrays["ventilation"].sharding.shard_shape((8, 6)) == (2, 6)
