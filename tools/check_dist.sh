#!/usr/bin/env bash
# Build the sdist and, from it, the wheel; check their metadata; install the wheel into an empty environment and use
# it there, far from this folder. What passes is left in dist/.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
constraints=$PWD/constraints.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

rm -rf dist
"$python" -m venv "$work/build"
"$work/build/bin/pip" install --quiet build twine
"$work/build/bin/python" -m build --outdir dist .
"$work/build/bin/twine" check --strict dist/*

"$python" -m venv "$work/empty"
"$work/empty/bin/pip" install --quiet "$(grep '^torch==' "$constraints")"
"$work/empty/bin/pip" install --quiet dist/*.whl -c "$constraints"
"$work/empty/bin/pip" check

wheel=$(ls dist/*.whl)
export PATH=$work/empty/bin:$PATH MINARI_DATASETS_PATH=$work/store OMP_NUM_THREADS=1
unset PYTHONPATH
cd "$work"
version=$(minari-distill --version)
[[ $(basename "$wheel") == "minari_distill-${version#minari-distill }-"* ]] || { echo "$wheel says it is $version" >&2; exit 1; }
python - <<'EOF'
import pathlib, sys
import minari_distill as md
assert pathlib.Path(md.__file__).is_relative_to(sys.prefix), md.__file__
missing = [name for name in md.__all__ if not hasattr(md, name)]
assert not missing, missing
EOF
minari-distill doctor --timeout 0.5
minari-distill distill demo/hopper-medium-replay-v0 -o check/hopper-v0 --objective dbc --n-syn 16 \
  --set initializer=random --set outer_steps=2 --set inner_steps=10 --set window=5 --set hidden_width=32
minari-distill show check/hopper-v0 --html page.html
test -s page.html
echo "$version: builds, installs and works"
