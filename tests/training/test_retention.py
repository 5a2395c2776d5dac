"""What stays of a run's checkpoints, and what is noted of each for it."""

import numpy as np
import pytest

from edm3d.training.retention import Saved, best, is_good, kept, last_good
from edm3d.training.tally import Culprits, Tally


def steady(steps, **changes):
    return [Saved(step, loss=1.0, lowest_loss=1.0, **changes) for step in steps]


def test_the_newest_stay():
    assert kept(steady(range(1, 8)), newest=3) == {5, 6, 7}


def test_one_of_every_so_many_updates_stays_even_where_saves_miss_the_multiples():
    assert kept(steady([40, 90, 110, 190, 210, 250, 260]), newest=1, every=100) == {110, 210, 260}


def test_what_stays_once_for_its_updates_stays_for_good():
    everything = steady(range(7, 400, 7))
    there: list[Saved] = []
    for saved in everything:
        there = [*there, saved]
        stay = kept(there, newest=2, every=50)
        there = [s for s in there if s.step in stay]
    assert {s.step for s in there} == kept(everything, newest=2, every=50)


def test_the_best_by_validation_loss_stays_and_unscored_ones_are_not_it():
    scores = {1: 0.9, 2: 0.4, 3: None, 4: 0.4, 5: 0.7, 6: 0.8}
    saved = [Saved(s, 1.0, 1.0, validation_loss=v) for s, v in scores.items()]
    assert best(saved) == saved[3]  # the newer of two equals
    assert kept(saved, newest=1) == {4, 6}


def test_good_means_nothing_skipped_and_a_loss_near_the_lowest_of_the_run():
    assert is_good(Saved(1, loss=1.9, lowest_loss=1.0))
    assert not is_good(Saved(1, loss=2.1, lowest_loss=1.0))
    assert not is_good(Saved(1, loss=1.0, lowest_loss=1.0, skipped=1))
    assert not is_good(Saved(1))


@pytest.mark.parametrize("growth", [1.2, 1.9, 5.0, None])
def test_a_diverging_run_cannot_rotate_its_last_good_checkpoint_away(growth):
    """Its loss grows from save to save by a factor, or (None) nothing is finite any more."""
    tally, there = Tally(), []
    for step in range(1, 41):
        bad = step > 10
        value = 1.0 if not bad else np.nan if growth is None else growth ** (step - 10)
        tally.add({"loss": value, "skipped_in_a_row": int(np.isnan(value))})
        there.append(tally.saved(step))
        stay = kept(there, newest=2)
        there = [s for s in there if s.step in stay]
    good = last_good(there)
    # a loss that creeps still counts as good up to twice the lowest
    assert good is not None and good.step == {1.2: 13, 1.9: 11}.get(growth, 10)
    assert good.loss < 2
    assert [s.step for s in there] == [good.step, 39, 40]


def test_a_tally_goes_on_with_the_lowest_loss_of_the_run_that_is_resumed():
    tally = Tally(Saved(7, loss=0.9, lowest_loss=0.5))
    for loss in (0.6, 1.0, np.nan):
        tally.add({"loss": loss, "skipped_in_a_row": int(np.isnan(loss))})
    assert tally.saved(10, 0.3) == Saved(10, 0.8, 0.5, skipped=1, validation_loss=0.3)
    assert tally.saved(11) == Saved(11, None, 0.5)


def measured(losses, sigma, in_a_row):
    return {"losses": np.array(losses), "sigma": np.array(sigma), "skipped_in_a_row": in_a_row}


def test_a_lost_run_names_noise_levels_and_examples_of_the_last_streak_alone():
    nan, culprits = np.nan, Culprits()
    culprits.add([measured([nan, 1], [0.1, 0.1], 1), measured([1, 1], [9, 9], 0)], last_step=2)
    culprits.add([measured([1, nan], [0.01, 5.0], 1)], last_step=3)
    culprits.add([measured([nan, nan], [0.3, 7.0], 2)], last_step=4)
    assert culprits.told() == (
        "rows without a finite loss by sigma: 0.2-0.8 (1), 3.2-inf (2); "
        "their examples: 5 (step 3), 6 (step 4), 7 (step 4)"
    )


def test_a_streak_with_finite_losses_says_where_the_fault_must_lie():
    culprits = Culprits()
    culprits.add([measured([1.0, 2.0], [1, 1], 1)], last_step=1)
    assert "every loss was finite" in culprits.told()
