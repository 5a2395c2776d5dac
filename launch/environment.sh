# Makes .venv in the repository with edm3d and the pinned packages; sourced by the other scripts.
# Installs again only when pyproject.toml or the pins have changed. PYTHON names another Python,
# EXTRAS other optional parts than dev: cuda, tpu.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
stamp=".venv/installed-$(cat pyproject.toml launch/constraints.txt | sha256sum | cut -c1-16)${EXTRAS:+-$EXTRAS}"
if [ ! -e "$stamp" ]; then
    echo "installing edm3d into .venv"
    python=${PYTHON:-python3}
    rm -f .venv/installed-*
    # Debian's bare Python lacks ensurepip; then the pip beside it fills the environment.
    if "$python" -c "import ensurepip" 2>/dev/null; then
        "$python" -m venv .venv
    else
        "$python" -m venv --without-pip .venv
        "$python" -m pip --python .venv/bin/python install --quiet pip
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --constraint launch/constraints.txt --editable ".[${EXTRAS:-dev}]"
    touch "$stamp"
fi
export PATH="$PWD/.venv/bin:$PATH"
