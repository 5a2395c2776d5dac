"""What the tests of a cohort on disk share."""

from pathlib import Path

import pytest
from small_cohort import SMALL

from data_prep import make_virtual_cohort


@pytest.fixture(scope="session")
def cohort(tmp_path_factory) -> Path:
    """The small cohort; tests leave it as it is."""
    out = tmp_path_factory.mktemp("one") / "cohort"
    assert make_virtual_cohort.make_cohort(out, SMALL, workers=1) == 18
    return out
