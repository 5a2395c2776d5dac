"""Which of the paper's questions a prior/target pair answers (paper section 3).

A protocol is a name and a predicate over the two ventilator settings; a new one is a new entry.
"""

from collections.abc import Callable

from edm3d.data.cases import Case, Ventilation

_SAME_PEEP_CMH2O = 0.25  # ventilators are set in steps of 0.5 or 1 cmH2O
_SAME_TIDAL_VOLUME_ML_KG = 0.1


def _same(first: float, second: float, tolerance: float) -> bool:
    return abs(first - second) <= tolerance


def _same_peep(prior: Ventilation, target: Ventilation) -> bool:
    return _same(prior.peep_cmh2o, target.peep_cmh2o, _SAME_PEEP_CMH2O)


def _same_tidal_volume(prior: Ventilation, target: Ventilation) -> bool:
    return _same(prior.tidal_volume_ml_kg, target.tidal_volume_ml_kg, _SAME_TIDAL_VOLUME_ML_KG)


def _opposite_phase(prior: Ventilation, target: Ventilation) -> bool:
    alike = _same_peep(prior, target) and _same_tidal_volume(prior, target)
    return alike and prior.phase != target.phase


def _peep_step(start: float, end: float) -> Callable[[Ventilation, Ventilation], bool]:
    def steps(prior: Ventilation, target: Ventilation) -> bool:
        from_start = _same(prior.peep_cmh2o, start, _SAME_PEEP_CMH2O)
        to_end = _same(target.peep_cmh2o, end, _SAME_PEEP_CMH2O)
        same_phase = prior.phase == target.phase
        return from_start and to_end and same_phase and _same_tidal_volume(prior, target)

    return steps


PROTOCOLS: dict[str, Callable[[Ventilation, Ventilation], bool]] = {
    "opposite_phase": _opposite_phase,
    "peep_3_to_8": _peep_step(3.0, 8.0),
    "peep_3_to_13": _peep_step(3.0, 13.0),
}


def protocols_of(case: Case) -> tuple[str, ...]:
    """Names of the protocols that the case belongs to, in the order of `PROTOCOLS`."""
    prior, target = case.prior_ventilation, case.target_ventilation
    return tuple(name for name, holds in PROTOCOLS.items() if holds(prior, target))
