#!/usr/bin/env bash
# Segment FloodNet's ten classes with one backbone, at a size that one CPU core trains in minutes.
#
#   FLOODNET=/path/to/floodnet bash exp/floodnet.sh                                  # random weights
#   FLOODNET=/path/to/floodnet PRETRAINED=exp/sn7_resnet18/trained_model.pth bash exp/floodnet.sh exp/floodnet_vicreg
#
# SEED chooses the held-out images, the initial weights of the decoder, the order and the crops.
# Started again, it resumes. For full-size images leave out --image-size, --crop and --precision.
#
# Hardware: one CPU core.
# Time: 2.5 minutes on one core of an AMD EPYC machine, for an excerpt of 60 pairs.
# Results on the excerpt, mean of three seeds: mean IoU 0.304 (random weights), 0.368 (VICReg on EuroSAT without labels);
# docs/results.md, "Floods".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
data=${FLOODNET:-data/FloodNet}
run=${1:-exp/floodnet_random}
pretrained=${PRETRAINED:-random}
epochs=${EPOCHS:-10}
seed=${SEED:-0}
cache=${CACHE:-data/floodnet_256}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

arch=()
case $pretrained in random | imagenet) arch=(--arch resnet18) ;; esac
"$python" downstream/FloodNet_segmentation_task/train_floodnet.py --data-dir "$data" --task floodnet \
    --pretrained "$pretrained" ${arch[@]+"${arch[@]}"} --exp-dir "$run" --image-size 256 --crop 128 --repeats 4 \
    --epochs "$epochs" --batch-size 8 --lr 5e-4 --schedule cosine --precision bf16 --workers 0 --device cpu \
    --cache-dir "$cache" --seed "$seed"
