#!/usr/bin/env bash
# Measure on one GPU what only a GPU can show, in 5 to 10 minutes, and print the lines of a table.
#
#   bash benchmarks/gpu_suite.sh [OUT_FILE]     default: gpu_suite.txt
#   TOY=1 bash benchmarks/gpu_suite.sh          seconds on a CPU: shows that everything runs
#
# Each part prints its settings, the device and the version of PyTorch. A part that fails does not stop the others.
set -uo pipefail
out=$(realpath -m -- "${1:-gpu_suite.txt}")
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
workers=${WORKERS:-$(nproc)}
: > "$out"
failed=0

part() {  # title, command
    printf '\n== %s\n' "$1" | tee -a "$out"
    shift
    "$@" 2>&1 | tee -a "$out" || failed=1
}

if [ -n "${TOY:-}" ]; then
    resnet18=test_resnet resnet50=test_resnet small="--image-size 32 --batch-size 8 --mlp 32-32 --device cpu"
    large=$small wide=$small steps="--steps 2" precision="--precision fp32" compile=
    whole="--image-size 32 --patch-size 36 --batch-size 8 --mlp 32-32 --patches 32 --device cpu"
    variants="cached torchrun"
else
    resnet18=resnet18 resnet50=resnet50 small="--image-size 64 --batch-size 256 --mlp 1024-1024-1024"
    large="--image-size 224 --batch-size 256 --mlp 1024-1024-1024"
    wide="--image-size 224 --batch-size 256 --mlp 8192-8192-8192"
    steps="--steps 40" precision="--precision bf16" compile=--compile whole=
    variants="cached loader deterministic torchrun"
fi
step="$python benchmarks/bench_pretrain.py --separate --workers $workers $steps $precision"
run="$python benchmarks/bench_run.py $whole --workers $workers"
recipes="--recipes ours network"
"$python" -c "import lightly" > /dev/null 2>&1 && recipes="$recipes lightly"

# shellcheck disable=SC2086 # lists of options
{
    part "ResNet18, large views: this repository, the bare network, lightly" $step --arch $resnet18 $large $recipes
    part "ResNet50, large views, wide expander" $step --arch $resnet50 $wide --recipes ours network
    part "ResNet18, small views" $step --arch $resnet18 $small $recipes
    part "ResNet18, large views, compiled" $step --arch $resnet18 $large --recipes ours network $compile
    part "parts of a step, ResNet18, large views" $step --arch $resnet18 $large --profile
    part "parts of a step, ResNet18, small views" $step --arch $resnet18 $small --profile
    part "whole runs" $run --arch $resnet18 --variants $variants
}
exit "$failed"
