#!/usr/bin/env bash
# Everything about training speed that needs a GPU, in one call of under ten minutes.
#
#     benchmarks/gpu.sh [SHARDS] [OUT] [WHEELS]
#
# SHARDS: a folder with train-*.tar and validation-*.tar of 128×160 frames; without it, or if it is "", they are
# generated. OUT: where results.jsonl (a line a measurement) and the logs go; runs/gpu by default. WHEELS: a folder of
# wheels to unpack first, for a machine without network. Runs from a plain checkout: Python with torch, torchvision,
# lightning and pydantic is all it needs.
set -uo pipefail
shards=${1:+$(realpath "$1")} out=$(realpath -m "${2:-$(dirname "$0")/../runs/gpu}") wheels=${3:+$(realpath "$3")}
cd "$(dirname "$0")/.."
mkdir -p "$out"
python=${PYTHON:-python3}
if [ -n "$wheels" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$out/packages" "$wheels"/*.whl || exit 1
    export PYTHONPATH="$out/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
"$python" -c 'import lightning, pydantic, torchvision, torch; raise SystemExit(0 if torch.cuda.is_available() else "benchmarks/gpu.sh: torch sees no GPU")' || exit 1
started=$SECONDS

if [ -z "$shards" ]; then
    shards="$out/shards"
    "$python" -m benchmarks.make_shards --out "$shards" >"$out/make_shards.log" 2>&1
fi

: >"$out/results.jsonl"
measure() { # NAME LIMIT_S MODULE ARGUMENTS…: the last line of its output, or that it failed
    local name=$1 limit=$2
    shift 2
    if timeout "$limit" "$python" -m "$@" >"$out/$name.log" 2>"$out/$name.err"; then
        echo "{\"$name\": $(tail -n 1 "$out/$name.log")}" | tee -a "$out/results.jsonl"
    else
        echo "{\"$name\": \"failed or over $limit s; see $out/$name.err\"}" | tee -a "$out/results.jsonl"
        tail -n 5 "$out/$name.err"
    fi
}
# About half a minute of each is cuDNN's timing of its algorithms.
measure lvln_16 100 benchmarks.train --model lvln --size 128x160 --batch 16 --shards "$shards"
measure one_frame_16 70 benchmarks.train --model one_frame --size 64x96 --batch 16
measure lvln_64 90 benchmarks.train --model lvln --size 128x160 --batch 64 --turns 3
measure full_res_16 70 benchmarks.train --model full_res --size 64x96 --batch 16
measure loader 25 benchmarks.loader --shards "$shards" --batches 40
measure resume 120 benchmarks.resume --shards "$shards" --size 64x96 --batch 16
measure lvln_warp_16 100 benchmarks.train --model lvln_warp --size 128x160 --batch 16
echo "all in $((SECONDS - started)) s; results in $out/results.jsonl"
