"""Layouts that do not fit are refused with what would."""

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


def test_a_patch_that_space_does_not_divide_is_refused():
    with pytest.raises(InputError, match=r"patch 9 is not divisible by mesh\.space=2"):
        meshes.check_batch(meshes.make_mesh(4, 2), 8, patch=9)


def test_an_uneven_batch_is_refused_with_what_would_fit():
    with pytest.raises(InputError, match="use 16 or 24"):
        meshes.check_batch(meshes.make_mesh(), 20, patch=8)


def test_volumes_are_split_along_z_and_the_rest_is_not():
    mesh = meshes.make_mesh(4, 2)
    batch = {
        "prior_hu": np.zeros((8, 4, 3, 3), np.int16),
        "ventilation": np.zeros((8, 6), np.float32),
    }
    arrays = meshes.to_devices(mesh, batch)
    assert arrays["prior_hu"].sharding.shard_shape((8, 4, 3, 3)) == (2, 2, 3, 3)
    assert arrays["ventilation"].sharding.shard_shape((8, 6)) == (2, 6)
