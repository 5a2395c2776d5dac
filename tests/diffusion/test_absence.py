"""What is missing cannot be seen, is not taken for zero, and nothing else changes."""

import jax.numpy as jnp
import numpy as np
import pytest

from edm3d.diffusion.absence import GROUPS, group_of
from edm3d.diffusion.conditioning import Conditioning, condition_channels

SHAPE = (2, 3, 4)
PLAIN = Conditioning((-1024.0, 1024.0), residual_scale=4.0, xray_difference=True)
SPEC = Conditioning(
    (-1024.0, 1024.0), residual_scale=4.0, xray_difference=True, droppable=GROUPS, learned_null=True
)
NULL = jnp.arange(1.0, 11.0)


@pytest.fixture
def batch():
    rng, (z, y, x) = np.random.default_rng(0), SHAPE
    images = {f"{p}xray_{v}": n for p in ("", "prior_") for v, n in (("pa", x), ("lat", y))}
    return {
        "prior_hu": rng.integers(-1024, 1024, (2, *SHAPE)).astype(np.int16),
        **{name: rng.normal(size=(2, z, n)).astype(np.float32) for name, n in images.items()},
        "ventilation": rng.uniform(-1, 1, (2, 6)).astype(np.float32),
        "start": np.zeros((2, 3), np.float32),
        "volume_shape": np.array([SHAPE] * 2, np.float32),
    }


def _channels(batch, given, spec=SPEC, null=NULL):
    return np.asarray(condition_channels(batch, spec, given=given, null=null))


def _only(group):
    """Row 0 has everything, row 1 all but `group`."""
    return jnp.array([[True] * 3, [g != group for g in GROUPS]])


def test_every_channel_that_can_be_missing_belongs_to_one_group():
    groups = {name: group_of(name) for name in PLAIN.channel_names}
    assert [n for n, g in groups.items() if g == "xrays"] == [
        "xray_pa",
        "xray_lat",
        "xray_difference_pa",
        "xray_difference_lat",
    ]
    assert [n for n, g in groups.items() if g == "ventilation"] == ["peep", "tidal_volume", "phase"]
    assert [n for n, g in groups.items() if g is None] == [
        "prior",
        "coordinate_z",
        "coordinate_y",
        "coordinate_x",
    ]
    assert SPEC.null_count == len(NULL) and PLAIN.null_count == 0


@pytest.mark.parametrize("group", GROUPS)
def test_a_missing_group_shows_its_null_values_and_says_so_and_the_rest_stays(batch, group):
    plain, hidden = condition_channels(batch, PLAIN), _channels(batch, _only(group))
    names, count = SPEC.channel_names, len(PLAIN.channel_names)
    np.testing.assert_array_equal(hidden[0, ..., :count], plain[0])
    np.testing.assert_array_equal(hidden[0, ..., count:], 0)
    values = iter(NULL.tolist())
    for k, name in enumerate(PLAIN.channel_names):
        null = next(values) if group_of(name) else None
        if group_of(name) == group:
            np.testing.assert_array_equal(hidden[1, ..., k], null)
        else:
            np.testing.assert_array_equal(hidden[1, ..., k], plain[1, ..., k])
    told = [float(hidden[1, 0, 0, 0, names.index(f"absent_{g}")]) for g in GROUPS]
    assert told == [float(g == group) for g in GROUPS]


def test_missing_differs_from_zero(batch):
    zero = dict(batch, ventilation=np.zeros((2, 6), np.float32))
    given = _only("ventilation")
    hidden = _channels(zero, given, null=None)
    peep = SPEC.channel_names.index("peep")
    np.testing.assert_array_equal(hidden[0, ..., peep], hidden[1, ..., peep])
    assert np.abs(hidden[0] - hidden[1])[..., -3:].max() == 1


@pytest.mark.parametrize("group", GROUPS)
def test_what_is_missing_may_hold_anything(batch, group):
    """Not even what is not a number comes through, nor by the differences to the prior."""
    columns = {"ventilation": slice(0, 3), "prior_ventilation": slice(3, 6)}
    rubbish = {name: value.copy() for name, value in batch.items()}
    if group == "xrays":
        for view in ("pa", "lat"):
            rubbish[f"xray_{view}"][1] = np.nan
    else:
        rubbish["ventilation"][1, columns[group]] = np.nan
    given = _only(group)
    np.testing.assert_array_equal(_channels(rubbish, given), _channels(batch, given))


def test_without_a_mask_everything_is_given(batch):
    everything = jnp.ones((2, 3), bool)
    np.testing.assert_array_equal(_channels(batch, None), _channels(batch, everything))


def test_a_network_that_needs_everything_takes_no_mask(batch):
    with pytest.raises(ValueError, match="nothing of the conditions is droppable"):
        condition_channels(batch, PLAIN, given=jnp.ones((2, 3), bool))
