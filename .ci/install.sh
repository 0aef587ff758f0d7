#!/bin/sh
# The environment in .venv, from the lock; done again only when the lock or this file changes.
set -eu
python="${PYTHON:-python3.11}"
stamp=".venv/.installed"
wanted=$(cat requirements.lock pyproject.toml .ci/install.sh | cksum)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then exit 0; fi
echo "installing the environment into .venv (2.3 GB with the CPU build of torch, once)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check uv
# uv does not read pip's variable; it may name a folder that holds a CPU build of torch.
if [ -n "${PIP_FIND_LINKS:-}" ]; then UV_FIND_LINKS="$PIP_FIND_LINKS"; export UV_FIND_LINKS; fi
VIRTUAL_ENV="$PWD/.venv"; export VIRTUAL_ENV
.venv/bin/python -m uv pip install --quiet --python .venv/bin/python -r requirements.lock
.venv/bin/python -m uv pip install --quiet --python .venv/bin/python --no-deps -e .
echo "$wanted" > "$stamp"
