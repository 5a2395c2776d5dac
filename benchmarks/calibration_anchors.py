"""What the literature says of ventilated pigs, as ranges (science notes 1.1).

A range is the published mean ± one SD where there is one; otherwise `literature` says whose choice
it is. Humans stand in where no swine figure was found, and are named.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Anchor:
    figure: str  # as `calibration` names it
    low: float
    high: float
    literature: str
    source: str


_HEALTHY_73 = "PMC4679691"  # 73 healthy pigs, 21.4 kg
_SANTINI = "Santini 2015 ICMx 3:17"  # 10 healthy pigs, 345 g of lung
_HCL = "J Nucl Med, table 72287"  # tidal settings of HCl pigs; no spread: ± 2 cmH2O chosen
_XIN20 = "Xin 2020 Anesthesiology 133:1093"  # HCl 2 ml/kg
_XIN21 = "Xin 2021 CCM, PMC8448902"  # HCl 3.5 ml/kg, the paper's group; tissue units registered
_CRESSONI = "Cressoni 2014, human"


def _around(figure: str, mean: float, sd: float, source: str) -> Anchor:
    return Anchor(figure, mean - sd, mean + sd, f"{mean:g} ± {sd:g}", source)


def _plateau(stage: str, rest: str, value: float) -> Anchor:
    return Anchor(f"{stage} {rest} plateau, cmH2O", value - 2, value + 2, f"{value:g}", _HCL)


_HEALTHY = (
    _around("healthy lung mass, g/kg", 15.0, 1.9, _HEALTHY_73),
    _around("healthy supine FRC, ml/kg", 18.1, 4.3, _HEALTHY_73),
    Anchor("healthy prone FRC over supine, %", 12, 30, "+21 (SE 8.5 of two means)", _SANTINI),
    _around("healthy TLC at 45 cmH2O, ml/kg", 63.4, 10.5, _HEALTHY_73),
    _around("healthy P-V upper inflection c + 2 d, cmH2O", 29.8, 4.7, _HEALTHY_73),
    Anchor("healthy P-V c, cmH2O", 14.3, 23.7, "19.0, SD of the inflection", _HEALTHY_73),
    Anchor("healthy P-V d, cmH2O", 4.2, 6.6, "5.4, SD of the elastance", _HEALTHY_73),
    _around("healthy supine specific elastance, cmH2O", 6.7, 3.1, _HEALTHY_73),
    Anchor("healthy prone specific elastance, cmH2O", 3.4, 9.6, "6.5, SD of supine", _SANTINI),
    Anchor("healthy supine V_T 10 PEEP 3 plateau, cmH2O", 14, 18, "16", _HCL),
    _around("healthy supine normal, % of mass", 59, 17, _HEALTHY_73),
    _around("healthy supine poor, % of mass", 36, 17, _HEALTHY_73),
    _around("healthy supine non, % of mass", 5, 3, _HEALTHY_73),
    Anchor("healthy supine hyper, % of mass", 0, 0.5, "0", _HEALTHY_73),
    Anchor("healthy prone normal, % of mass", 58, 78, "68 (± 10 chosen)", _SANTINI),
    Anchor("healthy prone poor, % of mass", 20, 40, "30 (± 10 chosen)", _SANTINI),
    Anchor("healthy prone non, % of mass", 0, 3, "1 (± 2 chosen)", _SANTINI),
    Anchor("healthy supine lung elastance x kg, cmH2O kg/l", 330, 610, "20.5 x 23 kg", _SANTINI),
    Anchor("healthy prone lung elastance x kg, cmH2O kg/l", 250, 460, "15.5 x 23 kg", _SANTINI),
)
_INJURED = (
    _around("early prone reinflates at PEEP 5, % of mass", 18.9, 5.2, _XIN21),
    _around("stabilised prone reinflates at PEEP 5, % of mass", 7.3, 1.5, _XIN21),
    _around("early prone recruits net at PEEP 5, % of mass", 11.4, 6.7, _XIN20),
    _plateau("stabilised", "supine V_T 9 PEEP 5", 27),
    _plateau("stabilised", "supine V_T 7 PEEP 12", 27),
    _plateau("stabilised", "prone V_T 10 PEEP 6", 25),
    # The published animals were later in injury than 2 h: between control and them.
    Anchor(
        "early supine V_T 9 PEEP 5 C_rs, ml/cmH2O/kg",
        0.41,
        0.77,
        "between 0.41 (injured) and 0.77 (control)",
        _HCL,
    ),
    Anchor("early lung mass, g", 500, 640, "560", _XIN20),
    Anchor("early hyper at most, % of mass", 0, 1, "< 1", "Anesthesiology Fig 4"),
    Anchor("stabilised hyper at most, % of mass", 0, 1, "< 1", "Anesthesiology Fig 4"),
    Anchor("stabilised tidal recruitment at PEEP 5, % of mass", 0, 7, "< 7", "PMC7017942"),
    Anchor(
        "stabilised supine superimposed pressure max at PEEP 3, cmH2O",
        9,
        16,
        "12-13 ± 1-3",
        _CRESSONI,
    ),
    Anchor("early PEEP 3 to 13 recruits, % of mass", 7, 21, "15 (7-21), 5 to 45", _CRESSONI),
    Anchor("stabilised PEEP 3 to 13 recruits, % of mass", 7, 21, "15 (7-21), 5 to 45", _CRESSONI),
    _around(
        "early supine PEEP of best lung compliance, cmH2O", 11.0, 4.2, "PMC5789120, lavaged swine"
    ),
    _around(
        "early prone PEEP of best lung compliance, cmH2O", 12.8, 2.4, "PMC5789120, lavaged swine"
    ),
)
# Both positions may stand in wide ranges while the change goes the wrong way; 1 is no change.
_DIRECTIONS = (
    Anchor(
        "healthy prone over supine lung elastance",
        0.55,
        0.95,
        "15.5 / 20.5 = 0.76 (band chosen below 1)",
        _SANTINI,
    ),
    Anchor(
        "healthy prone over supine specific elastance",
        0.80,
        1.0,
        "6.5 / 7.0 = 0.93 (band chosen up to 1)",
        _SANTINI,
    ),
    Anchor(
        "early prone over supine PEEP of best lung compliance",
        1.0,
        1.4,
        "12.8 / 11.0 = 1.16 (band chosen from 1)",
        "PMC5789120, lavaged swine",
    ),
)
ANCHORS = _HEALTHY + _INJURED + _DIRECTIONS
