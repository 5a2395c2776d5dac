import contextlib
import fcntl

import pytest

from edm3d.data.share import Share, held
from edm3d.errors import InputError


@contextlib.contextmanager
def flocked(path, how):
    with path.open("a+") as file:
        fcntl.flock(file, how | fcntl.LOCK_NB)
        yield


def test_two_parts_that_probe_a_left_over_lock_at_once_do_not_refuse(tmp_path):
    left_over = tmp_path / "1-of-3.lock"
    with flocked(left_over, fcntl.LOCK_SH), held(tmp_path, Share(1, 2)):
        pass


def test_a_part_of_another_division_that_is_at_work_is_refused(tmp_path):
    with held(tmp_path, Share(1, 3)):
        with pytest.raises(InputError, match=r"in use .*part 1/3, this is 1/2"):
            with held(tmp_path, Share(1, 2)):
                pass


def test_the_same_part_twice_is_refused_and_its_siblings_are_not(tmp_path):
    with held(tmp_path, Share(1, 2)), held(tmp_path, Share(2, 2)):
        with pytest.raises(InputError, match=r"in use .*part 1/2"):
            with held(tmp_path, Share(1, 2)):
                pass
