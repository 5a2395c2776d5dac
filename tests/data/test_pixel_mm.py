"""A film's own pixel size against the one that a person gives."""

import numpy as np
import pytest

from edm3d.data.radiograph import Film
from edm3d.data.target_xray import check_pixel_mm
from edm3d.errors import InputError

FILM = Film("a.dcm", np.zeros((16, 16), np.float32), (0.5, 0.5))


def test_a_pixel_size_within_a_hundredth_of_the_film_s_agrees():
    for given in (None, 0.4955, 0.5045):
        check_pixel_mm(FILM, given, "--pixel_mm")


@pytest.mark.parametrize("given", [0.494, 0.506])
def test_a_pixel_size_just_more_than_a_hundredth_off_is_refused(given):
    with pytest.raises(InputError, match=r"--pixel_mm is 0\.\d+, but X-ray a\.dcm states"):
        check_pixel_mm(FILM, given, "--pixel_mm")
