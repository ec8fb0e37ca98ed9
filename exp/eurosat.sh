#!/usr/bin/env bash
# EuroSAT with several backbones: a linear head on frozen features, then 10 epochs of finetuning; one table.
#
#   bash exp/eurosat.sh random supervised=exp/sn7_transfer/supervised/trained_model.pth
#   DATA=EuroSAT/2750 RUNS=exp/eurosat ARCH=resnet18 HOW=freeze bash exp/eurosat.sh random imagenet
#
# Each backbone is NAME=FILE, random or imagenet. TTA=1 also evaluates with eight rotations and flips. Started again, it
# resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
runs=${RUNS:-exp/eurosat}
data=${DATA:-data/EuroSAT/2750}
[ $# -gt 0 ] || { echo "eurosat: name backbones, such as: random vicreg=exp/sn7/trained_model.pth" >&2; exit 1; }

for how in ${HOW:-freeze finetune}; do
    for backbone in "$@"; do
        arch=()
        case $backbone in random | imagenet) arch=(--arch "${ARCH:-resnet18}") ;; esac
        echo "== $how ${backbone%%=*}"
        OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$python" downstream/eurosat_landcover_clsf_task/train_eurosat.py \
            --data-dir "$data" --pretrained "${backbone#*=}" "${arch[@]}" --weights "$how" \
            --lr "${LR:-0.002}" --batch-size "${BATCH:-128}" --image-size "${SIZE:-64}" \
            --precision "${PRECISION:-bf16}" --seed "${SEED:-0}" \
            ${TTA:+--tta} --exp-dir "$runs/${backbone%%=*}_$how"
    done
done
"$python" exp/report.py "$runs"
