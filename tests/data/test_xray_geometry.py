import json

import pytest

from edm3d.data.xray_geometry import Bedside, Cone, Geometry, check_geometry, geometry_of
from edm3d.errors import InputError

DATA = {"mu_water_per_mm": 0.0206}


@pytest.mark.parametrize("cone", [None, Cone(source_to_detector_mm=1000.0)])
@pytest.mark.parametrize("bedside", [None, Bedside(seed=7)])
def test_a_geometry_survives_dataset_json(cone, bedside):
    geometry = Geometry(0.02, cone, bedside)
    content = json.loads(json.dumps(geometry.to_json()))
    assert Geometry.from_json(content) == geometry and content == geometry.to_json()


def test_parallel_and_clean_is_stored_as_ever():
    assert Geometry(0.0206).to_json() == {"kind": "parallel", "mu_water_per_mm": 0.0206}


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "fan", "mu_water_per_mm": 0.02},
        {"kind": "parallel"},
        {"kind": "cone", "mu_water_per_mm": 0.02, "cone": {"focus_mm": 1.0}},
    ],
)
def test_a_stored_geometry_that_is_none_is_refused(content):
    with pytest.raises(InputError, match=r"geometry of dataset.json is .*build the records again"):
        Geometry.from_json(content)


def test_a_config_asks_for_parallel_and_clean_unless_it_says_else():
    assert geometry_of(DATA, seed=3) == Geometry(0.0206)
    asked = {**DATA, "geometry": "cone", "xray": "bedside", "cone": {"detector_pitch_mm": 4}}
    geometry = geometry_of(asked, seed=3)
    assert geometry == Geometry(0.0206, Cone(detector_pitch_mm=4.0), Bedside(3))
    assert geometry.settings["geometry"] == "cone" and geometry.settings["xray"] == "bedside"
    assert geometry.settings["cone"]["detector_pitch_mm"] == 4.0


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"geometry": "fan"}, "data.geometry is 'fan'; use parallel or cone"),
        ({"xray": "dirty"}, "data.xray is 'dirty'; use clean or bedside"),
    ],
)
def test_names_that_are_none_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        geometry_of({**DATA, **changes}, seed=0)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"source_to_detector_mm": -1.0}, "source_to_detector_mm is -1.0; give a positive"),
        ({"detector_size_mm": (430.0, float("nan"))}, r"detector_size_mm\[1\] is nan"),
        ({"detector_size_mm": (430.0,)}, "give rows, columns"),
        ({"source_to_isocentre_mm": 1500.0}, "is 1500, not below"),
        ({"detector_pitch_mm": 0.2}, "2150 x 2150 cells"),
    ],
)
def test_a_unit_that_cannot_be_built_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        check_geometry(Geometry(0.02, Cone(**changes)))
