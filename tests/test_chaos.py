"""A short form of `benchmarks/chaos.py`: struck at random, a training ends with the same bits."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import chaos
import chaos_faults


def test_a_training_struck_five_times_ends_as_one_left_alone(tmp_path):
    chaos.make_records(tmp_path)
    result = chaos.bit_exact(chaos.Bench(tmp_path, steps=80), faults=5, seed=3)
    assert {fault["kind"] for fault in result["faults"]} == set(chaos_faults.KINDS[:5])
    assert result["all_answered"], result["faults"]
    assert result["same_params"] and result["same_ema"] and result["same_losses"]


@pytest.mark.parametrize(
    "kind, moment, code, line, answered",
    [
        ("kill", "step", -9, "", True),
        ("kill", "step", 0, "", False),
        ("SIGTERM", "validation", 0, "", True),
        ("SIGTERM", "validation", -15, "", False),
        ("SIGTERM", "start-up", -15, "", True),
        ("full disk", "save", 2, "error: no space", True),
        ("full disk", "save", 1, "Traceback", False),
    ],
)
def test_a_fault_is_answered_by_the_exit_code_it_asks_for(kind, moment, code, line, answered):
    assert chaos_faults.Fault(kind, moment, exit_code=code, line=line).answered == answered


def test_weights_that_differ_in_one_bit_are_not_the_same():
    one = {"a": np.zeros(3, np.float32)}
    other = {"a": np.array([0.0, 0.0, -0.0], np.float32)}
    assert chaos.same_bits(one, one) and not chaos.same_bits(one, other)
