#!/usr/bin/env bash
# What needs a GPU, measured and tested in three calls of under eight minutes each. `make gpu` calls it.
#
#     benchmarks/gpu.sh [SHARDS] [OUT] [WHEELS]
#
# SHARDS: a folder with train-*.tar and validation-*.tar of 128×160 frames; without it, or if it is "", they are
# generated. OUT: where results.jsonl (a line or more a measurement) and the logs go; runs/gpu by default. WHEELS: a
# folder of wheels to unpack first, for a machine without network.
# Runs from a plain tree. Python needs torch, torchvision, lightning and pydantic; pytest for the tests; ruamel.yaml,
# pandas and safetensors for the probe. What is missing is said, and the rest is measured.
# In the environment: PART=2 measures what takes minutes before its first step: torch.compile. PART=3 runs the tests,
# and compares whole runs: interrupted or not, in bf16 and in float32. ONLY="loader probe" measures these alone, of any
# part. CPU=1 tries the script without a GPU, on small networks: its figures mean nothing.
#
# A measurement may take its own seconds and what those before it have left of theirs. The seconds of a part are 480 at
# most. The status is 0 only if every measurement has ended well.
set -uo pipefail
shards=${1:+$(realpath "$1")} out=$(realpath -m "${2:-$(dirname "$0")/../runs/gpu}") wheels=${3:+$(realpath "$3")}
cd "$(dirname "$0")/.."
mkdir -p "$out"
export PYTHONUNBUFFERED=1 # what was printed before a measurement is cut is kept
export REQUIRE_CUDA=1
python=${PYTHON:-python3} part=${PART:-1} only=${ONLY:-} device=cuda
due=20 # seconds, for what comes before the measurements
troubles=()
if [ -n "$wheels" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$out/packages" "$wheels"/*.whl || exit 1
    export PYTHONPATH="$out/packages${PYTHONPATH:+:$PYTHONPATH}"
fi
small=() smallest_in_bf16=() few=() # what comes last on a command line counts
if [ -n "${CPU:-}" ]; then
    device=cpu due=320 # in no hurry
    small=(--size 32x32 --channels 8) smallest_in_bf16=(--size 64x64 --channels 4 --batch 2 --steps 10)
    few=(--batch 2 --turns 1 --steps 1 --workers 1)
    export CUDA_VISIBLE_DEVICES=
    "$python" -c 'import lightning, pydantic, torchvision' || exit 1
else
    "$python" -c 'import lightning, pydantic, torchvision, torch; raise SystemExit(0 if torch.cuda.is_available() else "benchmarks/gpu.sh: torch sees no GPU (CPU=1 tries it without)")' || exit 1
fi
if [ -z "$shards" ]; then
    shards="$out/shards"
    make_shards=(--out "$shards") && [ "$device" = cpu ] && make_shards+=(--videos 8 --frames 30 --size 64x64)
    "$python" -m benchmarks.make_shards "${make_shards[@]}" >"$out/make_shards.log" 2>&1 || { cat "$out/make_shards.log"; exit 1; }
fi
: >"$out/results.jsonl"

say() { # NAME TEXT: that it has not ended well
    troubles+=("$1")
    echo "{\"$1\": \"$2\"}" | tee -a "$out/results.jsonl"
}
measure() { # PART NAME SECONDS MODULE ARGUMENTS…: the figures that it prints, and what became of it
    local its_part=$1 name=$2 seconds=$3
    shift 3
    if [ -n "$only" ]; then
        [[ " $only " == *" $name "* ]] || return
    else
        [ "$its_part" = "$part" ] || return
    fi
    due=$((due + seconds))
    local left=$((due - SECONDS)) log=$out/$name.err code
    if [ "$left" -lt 5 ]; then
        say "$name" "not begun: no time was left"
        return
    fi
    if [ "$1" = pytest ] && ! "$python" -c 'import pytest' 2>/dev/null; then
        say "$name" "not run: there is no pytest"
        return
    fi
    # What torch.compile has cached here before, or left unfinished when it was cut, is not used.
    rm -rf "$out/compiled"
    TORCHINDUCTOR_CACHE_DIR=$out/compiled timeout --kill-after=5 "$left" "$python" -m "$@" >"$out/$name.log" 2>"$out/$name.err"
    code=$?
    if [ "$1" = pytest ]; then
        log=$out/$name.log
        tail -n 1 "$log" | sed -n "s/^=* *\([0-9]* [a-z]*.* in [^=]*[^= ]\) *=*$/{\"$name\": \"\1\"}/p" | tee -a "$out/results.jsonl"
    else
        sed -n "s/^{.*/{\"$name\": &}/p" "$out/$name.log" | tee -a "$out/results.jsonl"
    fi
    case $code in
    0) ;;
    124 | 137) say "$name" "cut after $left s" ;;
    *)
        say "$name" "failed with $code; see $log"
        tail -n 5 "$log"
        ;;
    esac
}
train() { # PART NAME SECONDS ARGUMENTS…
    measure "$1" "$2" "$3" benchmarks.train "${@:4}" "${small[@]}" "${few[@]}"
}
wide=(--size 128x160) narrow=(--size 64x96) brief=(--turns 3 --steps 10 --kernels)

# Most of a training measurement is cuDNN's timing of its algorithms, about half a minute for the shapes of a model.
train 1 lvln 90 --model lvln "${wide[@]}" --batch 16 "${brief[@]}" --shards "$shards"
train 1 full_res_one_frame 75 --model full_res one_frame "${narrow[@]}" --batch 16 "${brief[@]}"
train 1 match_warp 80 --model lvln_match lvln_warp "${wide[@]}" --batch 16 "${brief[@]}" --no-plain
measure 1 loader 20 benchmarks.loader --shards "$shards" --batches 40
if [ "$device" = cuda ]; then
    measure 1 probe 50 benchmarks.probe ucf101 --device cuda --clips 16 --heads 12
else
    measure 1 probe 40 benchmarks.probe tiny --clips 1 --steps 1 --heads 2
fi
measure 1 evaluate 20 benchmarks.evaluate --shards "$shards" --model lvln_warp "${wide[@]}" "${small[@]}"
train 1 match_warp_narrow 65 --model lvln_match lvln_warp "${narrow[@]}" --batch 8 "${brief[@]}" --no-plain
train 1 lvln_64 55 --model lvln "${wide[@]}" --batch 64 "${brief[@]}" --no-plain

train 2 lvln_compiled 180 --model lvln "${wide[@]}" --batch 16 --compile true "${brief[@]}"
train 2 one_frame_compiled 85 --model one_frame "${narrow[@]}" --batch 16 --compile true "${brief[@]}"
measure 2 tests_compiled 60 pytest -v -rfEP tests/test_gpu.py -m slow -k "compiled and on_$device"

measure 3 tests 150 pytest -v -rfEP tests/test_gpu.py -k "on_$device"
measure 3 resume 150 benchmarks.resume --shards "$shards" "${narrow[@]}" --batch 16 "${small[@]}"
measure 3 precision 150 benchmarks.precision --shards "$shards" "${narrow[@]}" --batch 16 "${smallest_in_bf16[@]}"

[ -s "$out/results.jsonl" ] || { echo "nothing is called ${only:-part $part}"; exit 2; }
echo "all in $SECONDS s; results in $out/results.jsonl"
[ ${#troubles[@]} = 0 ] || { echo "did not end well: ${troubles[*]}"; exit 1; }
