"""The virtual pigs stay where the literature puts them; the measures are those of the benchmark.

Bands are as wide as other pigs of like severity need and as the literature's spread allows.
`benchmarks/calibration.py` prints all anchors over ten pigs.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from calibration_anchors import ANCHORS
from calibration_measures import (
    Bench,
    View,
    element_hu,
    healthy_mechanics,
    reinflated,
    rendered,
)

from data_prep.virtual_pig.pig import build_pig

SEED, SPACING_MM = 101, 5.0
PIGS = (0, 3, 6, 9)  # severity 1.12, 0.99, 0.96 and 0.84: near the cohort's mean of 1
MISSED = {  # anchors known not to be met, with what the benchmark found over ten pigs
    "healthy P-V d, cmH2O": 8.9,
    "healthy P-V upper inflection c + 2 d, cmH2O": 40,
    "healthy supine non, % of mass": 0.963,
    "stabilised supine V_T 9 PEEP 5 plateau, cmH2O": 24.3,
    "stabilised prone V_T 10 PEEP 6 plateau, cmH2O": 27.7,
    "healthy prone over supine lung elastance": 1.01,
    "healthy prone over supine specific elastance": 1.21,
    "early prone over supine PEEP of best lung compliance": 0.787,
}
RESULT = Path(__file__).resolve().parents[2] / "benchmarks/results/calibration.json"


@pytest.fixture(scope="module")
def benches() -> list[Bench]:
    return [Bench(build_pig(SEED, index)) for index in PIGS]


@pytest.fixture(scope="module")
def healthy(benches) -> dict[str, float]:
    """Figures of the healthy pigs, mean over pigs."""
    tables = [healthy_mechanics(bench) for bench in benches]
    return {name: float(np.mean([t[name] for t in tables])) for name in tables[0]}


def anchor(name: str):
    return next(a for a in ANCHORS if a.figure == name)


def prone_reinflates(bench: Bench, stage: str, peep: float) -> tuple[float, float]:
    """% of lung mass, element by element and net."""
    supine, prone = (bench.ventilate(stage, p, peep, 8.0) for p in (False, True))
    return reinflated(element_hu(supine), element_hu(prone))


@pytest.mark.parametrize(
    "name",
    [
        "healthy lung mass, g/kg",
        "healthy supine FRC, ml/kg",
        "healthy prone FRC over supine, %",
        "healthy TLC at 45 cmH2O, ml/kg",
        "healthy supine specific elastance, cmH2O",
        "healthy prone specific elastance, cmH2O",
        "healthy supine lung elastance x kg, cmH2O kg/l",
        "healthy prone lung elastance x kg, cmH2O kg/l",
    ],
)
def test_healthy_pigs_stand_within_the_published_range(healthy, name):
    assert anchor(name).low <= healthy[name] <= anchor(name).high


def test_healthy_volumes_and_plateau_stay_where_they_were_fitted(healthy):
    """FRC 18.1 and prone 21 % are the published means; TLC 55 (63.4) and plateau 15.1 (16) not."""
    assert healthy["healthy supine FRC, ml/kg"] == pytest.approx(18.1, abs=2)
    assert healthy["healthy prone FRC over supine, %"] == pytest.approx(21, abs=4)
    assert healthy["healthy TLC at 45 cmH2O, ml/kg"] == pytest.approx(55, abs=3.5)
    assert healthy["healthy supine V_T 10 PEEP 3 plateau, cmH2O"] == pytest.approx(15.1, abs=1.6)


def test_the_benchmark_misses_the_known_anchors_by_what_is_known_and_no_others():
    verdicts = json.loads(RESULT.read_text())["anchors"]
    found = {v["figure"]: v["mean"] for v in verdicts if v["missed_by"]}
    assert found == pytest.approx(MISSED, rel=0.02)


def test_the_missed_pressure_volume_curve_is_as_wide_as_known(healthy):
    for name in (n for n in MISSED if "P-V" in n):
        assert healthy[name] > anchor(name).high
        assert healthy[name] == pytest.approx(MISSED[name], rel=0.08)


def test_healthy_compartments_shift_from_poor_to_normal_when_prone(benches):
    """Supine 59 ± 17 % normal and 36 ± 17 % poor of mass; prone 68 and 30 (Santini 2015)."""
    rows = {
        prone: [rendered(b, View("healthy", prone, 0, "expiration"), SPACING_MM) for b in benches]
        for prone in (False, True)
    }
    mean = {
        (prone, name): np.mean([row[f"{name}_mass_percent"] for row in rows[prone]])
        for prone in rows
        for name in ("hyper", "normal", "poor", "non")
    }
    assert mean[False, "normal"] == pytest.approx(60, abs=8)
    assert mean[False, "poor"] == pytest.approx(38, abs=8)
    assert mean[True, "normal"] == pytest.approx(72, abs=6)
    assert mean[True, "normal"] - mean[False, "normal"] > 6
    for prone in rows:
        assert mean[prone, "non"] < 5 and mean[prone, "hyper"] < 0.5


def test_prone_reinflates_less_at_24_hours_than_at_2(benches):
    """18.9 ± 5.2 and 7.3 ± 1.5 % of lung mass, by tissue unit (Xin 2021)."""
    early, late = (
        np.mean([prone_reinflates(b, stage, 5)[0] for b in benches])
        for stage in ("early", "stabilised")
    )
    assert early == pytest.approx(17, abs=3)
    assert late == pytest.approx(7.5, abs=1.3)


def test_prone_recruits_less_the_higher_the_peep(benches):
    """11.4 to 8.9 % of mass from 5 to 10 cmH2O in five pigs (Xin 2020): a mean over animals."""
    for stage in ("early", "stabilised"):
        low, high = (
            np.array([prone_reinflates(bench, stage, peep)[1] for bench in benches])
            for peep in (5, 13)
        )
        assert low.mean() > high.mean()
        assert min(low.min(), high.min()) > 0.5


def test_peep_recruits_and_the_breath_little(benches):
    """From PEEP 3 to 13, where these pigs stood; tidal under 7 % at 24 h (PMC7017942).

    No published figure is of these steps: from 5 to 45 cmH2O it is 7 to 21 % (Cressoni 2014).
    """
    for stage, expected in (("early", 17), ("stabilised", 12)):
        gained, tidal = [], []
        for bench in benches:
            low, high = (bench.ventilate(stage, False, peep, 8.0) for peep in (3, 13))
            gained.append(reinflated(element_hu(low), element_hu(high))[1])
            tidal.append(reinflated(element_hu(low), element_hu(low, "inspiration"))[0])
        assert np.mean(gained) == pytest.approx(expected, abs=3.5)
        assert np.mean(tidal) < 9
    assert np.mean(tidal) < 7  # at 24 h, more than 40 % is atelectatic


def test_compliance_falls_from_control_over_early_to_24_hours(benches, healthy):
    """0.77 in control pigs and 0.41 to 0.53 ml/cmH2O/kg once injured (J Nucl Med)."""
    early, late = (
        np.mean([b.ventilate(s, False, 5, 9).breath.compliance_ml_cmh2o / b.kg for b in benches])
        for s in ("early", "stabilised")
    )
    assert healthy["healthy supine V_T 10 PEEP 3 C_rs, ml/cmH2O/kg"] > early + 0.1
    assert 0.60 < early < 0.77
    assert 0.40 < late < 0.54


def test_plateau_at_24_hours_is_near_the_published_settings(benches):
    """27, 27 and 25 cmH2O (J Nucl Med), of unknown spread."""
    for ml_kg, peep, prone, published in ((9, 5, False, 27), (7, 12, False, 27), (10, 6, True, 25)):
        found = [b.ventilate("stabilised", prone, peep, ml_kg).breath for b in benches]
        assert np.mean([b.plateau_cmh2o for b in found]) == pytest.approx(published, abs=4)


def test_superimposed_pressure_and_mass_grow_with_the_disease(benches):
    """12 to 13 cmH2O in ARDS (Cressoni 2014); 560 g of lung (Xin 2020) from 15 g/kg."""
    for bench in benches:
        breaths = [bench.ventilate(s, False, 3, 8.0) for s in ("early", "stabilised")]
        weight = [c.breath.superimposed_max_cmh2o for c in breaths]
        assert 8 < weight[0] < weight[1] < 16
        early, late = (c.elements.mass_g / bench.kg for c in breaths)
        assert 16 < early < 21 and early * 1.08 < late < 25


def test_pigs_differ_in_the_way_the_literature_spreads(benches, healthy):
    """Coefficients of variation of a few to a tenth, not copies of one animal."""
    mass = [b.pig.traits.healthy_lung_g / b.kg for b in benches]
    late = [b.ventilate("stabilised", False, 5, 9).breath.plateau_cmh2o for b in benches]
    assert 0.01 < np.std(mass) / np.mean(mass) < 0.15
    assert 0.02 < np.std(late) / np.mean(late) < 0.35
