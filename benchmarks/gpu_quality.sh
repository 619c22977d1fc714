#!/usr/bin/env bash
# Trains lvln_warp and lvln_match for eight minutes on a GPU, at full width, and scores them: ten minutes in all.
#
#     benchmarks/gpu_quality.sh SHARDS [OUT] [ENCODER] [WHEELS]
#
# SHARDS: the decode stage's shards (data/shards, a folder a rate), of 64×96 pixels or more. OUT: where
# evaluate_<model>.json, the model files, curves, pictures and logs go; runs/gpu_quality by default. ENCODER: path of a
# ResNet-18 state dict; without it the encoder is random. WHEELS: a folder of wheels to unpack first, for a machine
# without network. Runs from a plain checkout: needs Python with torch, torchvision, lightning, pydantic and
# safetensors; opencv-python-headless for the flow baselines, pillow for the pictures. What is skipped for want of one
# is said.
# In the environment: MODELS ("lvln_warp lvln_match"), MINUTES (4) a model, SIZE (64x96) of the frames, RATES ("10") of
# the curriculum in order, CPU=1 to try it without a GPU.
set -uo pipefail
[ -d "${1:-}" ] || { echo "usage: benchmarks/gpu_quality.sh SHARDS [OUT] [ENCODER] [WHEELS]"; exit 2; }
shards=$(realpath "$1") out=$(realpath -m "${2:-$(dirname "$0")/../runs/gpu_quality}")
encoder=${3:+$(realpath "$3")} wheels=${4:+$(realpath "$4")}
cd "$(dirname "$0")/.."
mkdir -p "$out"
python=${PYTHON:-python3} minutes=${MINUTES:-4} size=${SIZE:-64x96}
if [ -n "$wheels" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$out/packages" "$wheels"/*.whl || exit 1
    export PYTHONPATH="$out/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
[ -n "${CPU:-}" ] ||
    "$python" -c 'import torch; raise SystemExit(0 if torch.cuda.is_available() else "benchmarks/gpu_quality.sh: torch sees no GPU (CPU=1 trains on the CPU)")' || exit 1

status=0
for model in ${MODELS:-lvln_warp lvln_match}; do
    limit=$("$python" -c "print(int(60 * $minutes + 60))") # a minute to score
    timeout "$limit" "$python" -m benchmarks.quality --model "$model" --shards "$shards" --out "$out" \
        --size "$size" --minutes "$minutes" --rates ${RATES:-10} --encoder "${encoder:-random}" >"$out/$model.log" 2>&1
    code=$?
    if [ "$code" = 0 ]; then
        grep "^$model: " "$out/$model.log"
    else
        echo "$model: failed with $code (124: over $limit s); the end of $out/$model.log:"
        tail -c 2000 "$out/$model.log"
        status=1
    fi
done
exit $status
