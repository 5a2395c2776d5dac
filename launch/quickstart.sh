#!/usr/bin/env bash
# The main job end to end on a virtual cohort: scans, records, training, sampling, report.
# Run again after an interruption, it goes on where it stopped; remove runs/quickstart to start anew.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
out=runs/quickstart
config=configs/quickstart.py
# Two devices made of the CPU's cores; results are equal to those of one.
export JAX_NUM_CPU_DEVICES=${JAX_NUM_CPU_DEVICES:-2}
started=$SECONDS

# A training stopped by a signal has saved and ends well; what follows it must wait for the rest.
trap 'exit 130' INT
trap 'exit 143' TERM

step() { printf '\n== %s\n' "$*"; }

step "1/5 a virtual cohort of ventilated ARDS pigs"
[ -d $out/cohort ] ||
    python data_prep/make_virtual_cohort.py --out=$out/cohort --pigs=20 --scans_per_pig=6 --spacing=5
step "2/5 paired records on the working grid"
[ -d $out/records ] ||
    python data_prep/build_records.py --manifest=$out/cohort/scans.csv --out=$out/records --config=$config
step "3/5 training"
python -m edm3d.train --config=$config
step "4/5 sampling the test pigs"
python -m edm3d.sample --run=$out/run --protocol=opposite_phase,peep_3_to_8,peep_3_to_13 \
    --members=3 --batch=8
step "5/5 evaluation"
python -m edm3d.evaluate --samples=$out/run/samples --records=$out/records --out=$out/report \
    --masks=classical --virtual_cohort --overwrite
echo "took $(((SECONDS - started) / 60)) min $(((SECONDS - started) % 60)) s after installation"
