"""How the virtual pigs stand against the literature on ventilated and HCl-injured swine.

    python benchmarks/calibration.py --pigs=10

Prints the states and the anchors with their source and writes benchmarks/results/calibration.json.
The parameters were fitted on pigs of the seeds 11 and 101; the default seed is another one.
Compartments are those of noise-free scans at 4 mm. A model set beside published figures says
nothing about real pigs. What is measured: `calibration_measures`; the literature:
`calibration_anchors`.
"""

import argparse
import statistics
import time

import numpy as np
from calibration_anchors import ANCHORS, Anchor
from calibration_measures import SPACING_MM, Numbers, measure
from provenance import origin, write_result


def spread(values: list[float]) -> dict[str, float]:
    """Mean and SD over pigs."""
    sd = statistics.stdev(values) if len(values) > 1 else 0.0
    return {"mean": round(statistics.fmean(values), 3), "sd": round(sd, 3)}


def over_pigs(tables: list[Numbers]) -> dict[str, dict[str, float]]:
    return {name: spread([table[name] for table in tables]) for name in tables[0]}


def verdict(anchor: Anchor, found: dict[str, float]) -> dict:
    """The anchor beside what was found, and by how much it is missed (0: inside)."""
    mean = found["mean"]
    missed = min(mean - anchor.low, 0) + max(mean - anchor.high, 0)
    return {
        "figure": anchor.figure,
        **found,
        "literature": anchor.literature,
        "range": [anchor.low, anchor.high],
        "missed_by": round(missed, 3),
        "source": anchor.source,
    }


def show_rows(rows: dict[str, dict[str, dict[str, float]]]) -> None:
    columns = list(next(iter(rows.values())))
    print(" " * 33 + " ".join(f"{name.rsplit('_percent')[0][:13]:>13}" for name in columns))
    for name, row in rows.items():
        cells = (f"{row[c]['mean']:.4g}±{row[c]['sd']:.2g}" for c in columns)
        print(f"{name:<33}" + " ".join(f"{cell:>13}" for cell in cells))


def show_verdicts(verdicts: list[dict]) -> None:
    for v in verdicts:
        low, high = v["range"]
        state = "inside" if v["missed_by"] == 0 else f"off by {v['missed_by']:+.3g}"
        value = f"{v['mean']:.3g} ± {v['sd']:.2g}"
        print(
            f"{v['figure']:<60} {value:>14}  [{low:g}, {high:g}] {state:<14}"
            f" {v['literature']}  {v['source']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pigs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=7)
    pigs, seed = (arguments := parser.parse_args()).pigs, arguments.seed
    about = origin(("numpy", "scipy")) | {"seed": seed, "pigs": pigs, "spacing_mm": SPACING_MM}
    start = time.perf_counter()
    measured = [measure(seed, index) for index in range(pigs)]
    states = {name: over_pigs([m[0][name] for m in measured]) for name in measured[0][0]}
    figures = over_pigs([m[1] for m in measured])
    volumes = np.concatenate([m[2] for m in measured])
    design = {"least": volumes.min(), "most": volumes.max(), "mean": volumes.mean()}
    figures |= {
        f"design lung volume {n}, ml": {"mean": round(float(v), 1), "sd": 0.0}
        for n, v in design.items()
    }
    verdicts = [verdict(a, figures[a.figure]) for a in ANCHORS]
    show_rows(states)
    show_verdicts(verdicts)
    anchored = {a.figure for a in ANCHORS}
    for name, found in figures.items():
        if name not in anchored:
            print(f"{name:<60} {found['mean']:>6.3g} ± {found['sd']:.2g}  (no anchor)")
    seconds = round(time.perf_counter() - start, 1)
    print(f"{sum(v['missed_by'] == 0 for v in verdicts)} of {len(verdicts)} inside, {seconds} s")
    content = {"seconds": seconds, "states": states, "anchors": verdicts, "figures": figures}
    write_result("calibration", about | content)


if __name__ == "__main__":
    main()
