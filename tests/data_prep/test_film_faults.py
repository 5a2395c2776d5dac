"""When a film that fits better otherwise is an error, and when a warning."""

from types import SimpleNamespace

import pytest

from data_prep.dataset_check.film_faults import _faults
from data_prep.dataset_check.films import FilmSeen
from data_prep.dataset_check.judge import FATAL, WARNING


@pytest.mark.parametrize(
    "given, other, level", [(0.5, 0.65, FATAL), (0.75, 0.9, FATAL), (0.85, 0.9, WARNING)]
)
def test_a_far_better_other_view_is_fatal_however_low_it_is(given, other, level):
    fit = SimpleNamespace(correlation=given, detail_correlation=0.9)
    film = FilmSeen("pa", fit, {"as the other view": other}, "p/a")  # pyright: ignore
    ((found, text),) = _faults(film, own_ct=True)
    assert found == level and "as the other view" in text
