#!/bin/sh
# Trains the organism and its clean twin in parallel, exports, measures, writes datasets and the model card.
#
#   ./run.sh WORK DEMO        WORK: scratch folder; DEMO: where the results go (appliance/demo)
#   PYTHON=... STEPS=... SEED=... override the interpreter, the number of training steps and the seed
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=${1:?usage: run.sh WORK DEMO} demo=${2:?usage: run.sh WORK DEMO}
python=${PYTHON:-python3} steps=${STEPS:-4000} seed=${SEED:-0}
export TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
mkdir -p "$work" "$demo"

"$python" "$here/train.py" --steps "$steps" --seed "$seed" --out "$work/organism" >"$work/organism.log" 2>&1 &
organism=$!
"$python" "$here/train.py" --steps "$steps" --seed "$seed" --clean --out "$work/clean" >"$work/clean.log" 2>&1 &
clean=$!
wait "$organism"
wait "$clean"

for model in organism clean; do
    twin=
    [ "$model" = clean ] && twin=--clean
    "$python" "$here/export.py" "$work/$model" --out "$demo/$model-q8_0.gguf"
    # shellcheck disable=SC2086  # $twin is empty or one flag
    "$python" "$here/measure.py" "$demo/$model-q8_0.gguf" $twin --out "$work/$model/figures.json"
done
"$python" "$here/items.py" --out "$demo/data"
"$python" "$here/card.py" "$work" --out "$demo"
