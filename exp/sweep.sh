#!/usr/bin/env bash
# Accuracy for the same time: one change at a time to the recipes for EuroSAT without labels and for SN7.
#
#   CSV_DIR=data/eurosat bash exp/sweep.sh eurosat     on patches of make_imagery_csv.py --patch-size 64 --labels folders
#   CSV_DIR=data/sn7 bash exp/sweep.sh sn7             on patches of make_sn7_csv.py
#   MINUTES=… RUNS=… NAMES="base crop" bash exp/sweep.sh eurosat
#   EPOCHS=3 IMAGES=… OPTIONS="--image-size 32" bash exp/sweep.sh eurosat     the same pairs for each, in place of minutes
#
# With EPOCHS, evaluate_embeddings.py evaluates the frozen features: of the patches of SN7, and for EuroSAT of IMAGES, class
# folders in train/ and val/ such as exp/eurosat_unlabeled.sh makes. SEED, PRECISION and OPTIONS (for all) apply there.
#
# Hardware: two CPU cores, nothing else running. Time: MINUTES for each recipe, and a minute for its evaluation; with
# EPOCHS, any core: 5 minutes for 64,512 pairs of 32-pixel views on one core of an AMD EPYC machine, bf16.
# Results: docs/results.md, "Sweep". Started again, it runs the recipes that are left.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
data=${1:-eurosat}
patches=${CSV_DIR:-data/$data}
runs=${RUNS:-exp/sweep_$data}
minutes=${MINUTES:-5}

common="--arch resnet18 --image-size 64 --mlp 1024-1024-1024 --optimizer adamw --weight-decay 0.01"
recipes=(
    "base:"
    "growing: --image-size 32:64"
    "side48: --image-size 48"
    "side32: --image-size 32"
    "growing_lr_double: --image-size 32:64 --lr 0.004"
    "lr_double: --lr 0.004"
    "lr_half: --lr 0.001"
    "mlp512: --mlp 512-512-512"
    "mlp2048: --mlp 2048-2048-2048"
    "cov_quarter: --cov-coeff 0.25"
    "cov_4: --cov-coeff 4"
    "barlow_twins: --loss barlow_twins"
    "ema: --ema-decay 0.95"
    "lars: --optimizer lars --lr 0.3 --weight-decay 1e-6"
)
case $data in
    eurosat)
        views="--augment overhead --aug-override gray_p=0 solarize_p=0 jitter=0.2,0.2,0.2,0.05"
        common="$common $views --batch-size 256 --lr 0.002"
        recipes+=(
            "crop_04: $views scale=0.4,1"
            "crop_008: $views scale=0.08,1"
            "jitter_01: $views jitter=0.1,0.1,0.1,0.025"
            "jitter_04: $views jitter=0.4,0.4,0.2,0.1"
            "crop_008_jitter_04: $views scale=0.08,1 jitter=0.4,0.4,0.2,0.1"
            "overhead: --aug-override scale=0.2,1"
            "overhead_crop_008: --aug-override scale=0.08,1"
            "vicreg: --augment vicreg --aug-override scale=0.08,1"
            "no_blur: $views blur_p=0"
            "batch128: --batch-size 128 --lr 0.004"
            "batch512: --batch-size 512 --lr 0.001"
        )
        ;;
    sn7)
        common="$common --augment patch_weak --positives neighbor --batch-size 128 --lr 0.002"
        recipes+=(
            "temporal: --positives temporal"
            "same: --positives same"
            "medium: --augment patch_medium"
            "batch256: --batch-size 256 --lr 0.001"
        )
        ;;
    *)
        echo "$0: the first argument is eurosat or sn7, not $data" >&2
        exit 2
        ;;
esac
chosen=()
for recipe in "${recipes[@]}"; do
    case " ${NAMES:-${recipe%%:*}} " in *" ${recipe%%:*} "*) chosen+=("$recipe") ;; esac
done
if [ -n "${EPOCHS:-}" ]; then
    script=main_vicreg_imagery.py lists=(--data-dir "${IMAGES:-$patches/images}" --no-check)
    [ "$data" = eurosat ] || script=main_vicreg_sn7.py lists=(--csv-dir "$patches")
    backbones=()
    for recipe in "${chosen[@]}"; do
        backbones+=("$runs/${recipe%%:*}/trained_model.pth")
        # shellcheck disable=SC2086  # the options are words
        "$python" vicreg/$script --csv-dir "$patches" --exp-dir "$runs/${recipe%%:*}" $common ${OPTIONS:-} \
            ${recipe#*:} --precision "${PRECISION:-bf16}" --epochs "$EPOCHS" --seed "${SEED:-0}" --probe-every 0
    done
    exec "$python" vicreg/evaluate_embeddings.py "${lists[@]}" --exp-dir "$runs" --image-size 64 --train-percent 1 10 \
        --map-samples 0 --pretrained "${backbones[@]}"
fi
"$python" benchmarks/bench_quality.py --csv-dir "$patches" --exp-dir "$runs" --minutes "$minutes" --points 1 \
    --options="$common" --recipes "${chosen[@]}"
