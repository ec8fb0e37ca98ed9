#!/usr/bin/env bash
# EuroSAT with several backbones: a linear head on frozen features, then 10 epochs of finetuning; one table.
#
#   bash exp/eurosat.sh random supervised=exp/sn7_transfer/supervised/trained_model.pth
#   DATA=EuroSAT/2750 RUNS=exp/eurosat ARCH=resnet18 HOW=freeze bash exp/eurosat.sh random imagenet
#
# Each backbone is NAME=FILE, random or imagenet. TTA=1 also evaluates with eight rotations and flips. Started again, it
# resumes.
#
# Hardware: one CPU core, or a GPU.
# Time: ResNet18 at 64 pixels, fp32, batches of 32: finetuning takes 50 to 60 minutes of a core of an Intel Xeon machine
#   for each backbone. Freezing was not timed.
# Results: finetuned 0.9426 (random weights) to 0.9528 (VICReg on SN7), top-1; docs/results.md, "EuroSAT".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
data=${DATA:-data/EuroSAT/2750}
runs=${RUNS:-exp/eurosat}
protocols=${HOW:-freeze finetune}
arch=${ARCH:-resnet18} # of random and imagenet; files name theirs
lr=${LR:-0.002}
batch=${BATCH:-128}
size=${SIZE:-64}
precision=${PRECISION:-bf16}
seed=${SEED:-0}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
[ $# -gt 0 ] || { echo "eurosat: name backbones, such as: random vicreg=exp/sn7/trained_model.pth" >&2; exit 1; }

for how in $protocols; do
    for backbone in "$@"; do
        options=(${TTA:+--tta})
        case $backbone in random | imagenet) options+=(--arch "$arch") ;; esac
        echo "== $how ${backbone%%=*}"
        "$python" downstream/eurosat_landcover_clsf_task/train_eurosat.py --data-dir "$data" \
            --pretrained "${backbone#*=}" --weights "$how" --lr "$lr" --batch-size "$batch" --image-size "$size" \
            --precision "$precision" --seed "$seed" --exp-dir "$runs/${backbone%%=*}_$how" ${options[@]+"${options[@]}"}
    done
done
"$python" exp/report.py "$runs"
