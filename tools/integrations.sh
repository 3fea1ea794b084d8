#!/usr/bin/env bash
# Each codebase that a synset or a policy can be exported to, in an environment of its own (their pins conflict), with its tests run
# for real. `tools/integrations.sh` does all of them, `tools/integrations.sh torchrl tianshou` some.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" RAY_USAGE_STATS_ENABLED=0
python="${PYTHON:-python3}"

# What pip installs beside the extra of the same name: the versions that docs/exporters.md speaks of.
declare -A versions=(
  [d3rlpy]="d3rlpy==2.8.1"
  [torchrl]="torchrl==0.14.1"
  [imitation]="stable-baselines3==2.9.2"
  [stable_baselines3]="stable-baselines3==2.9.2"
  [tianshou]="tianshou==2.0.1"
  [rllib]="ray[rllib]==2.60.0"
  [onnx]="onnxruntime==1.31.1"
)
order=(d3rlpy torchrl imitation stable_baselines3 tianshou rllib onnx)

for name in "${@:-${order[@]}}"; do
  if [[ -z "${versions[$name]:-}" ]]; then
    echo "No codebase '$name'. Choose of: ${order[*]}." >&2
    exit 2
  fi
  bin=".venv/integrations/$name/bin"
  if [[ ! -e "$bin/../installed" || pyproject.toml -nt "$bin/../installed" ]]; then
    "$python" -m venv ".venv/integrations/$name"
    "$bin/pip" install --quiet torch==2.13.0
    "$bin/pip" install --quiet torch==2.13.0 "${versions[$name]}" -e ".[${name//_/-}]" "pytest>=8" "pytest-timeout>=2.3" "hypothesis>=6"
    # imitation 1.0.1 asks for gymnasium 0.29, and runs on later ones.
    if [[ "$name" == imitation ]]; then "$bin/pip" install --quiet --no-deps imitation==1.0.1; fi
    touch "$bin/../installed"
  fi
  echo "== $name"
  module="${name/rllib/ray}"
  "$bin/python" -c "import $module"  # a codebase that is missing would only be skipped below
  "$bin/python" -m pytest $(ls tests/integrations/test_*"$name".py) -s
done
