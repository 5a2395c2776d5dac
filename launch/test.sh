#!/usr/bin/env bash
# Installs what is missing and runs every check: lint, format, types, tests.
# EDM3D_REAL_DATA names a folder of real CT; tests that need it are skipped where it is unset.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

ruff check .
ruff format --check --quiet .
pyright
# A worker a core; the tests of one file stay together, since they share what was compiled.
pytest -q --numprocesses auto --dist loadfile "$@"
