#!/usr/bin/env bash
# Segment FloodNet's ten classes with one backbone, at a size that one CPU core trains in minutes:
#   FLOODNET=/path/to/floodnet bash exp/floodnet.sh                                  # random weights
#   FLOODNET=/path/to/floodnet PRETRAINED=exp/sn7_resnet18/trained_model.pth bash exp/floodnet.sh exp/floodnet_vicreg
# Started again, it resumes. For full-size images leave out --image-size, --crop and --precision.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
FLOODNET=${FLOODNET:-data/FloodNet}
PRETRAINED=${PRETRAINED:-random}
OUT=${1:-exp/floodnet_random}
ARCH=()
[ "$PRETRAINED" != random ] && [ "$PRETRAINED" != imagenet ] || ARCH=(--arch resnet18)
OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} "$python" downstream/FloodNet_segmentation_task/train_floodnet.py \
    --data-dir "$FLOODNET" --task floodnet --pretrained "$PRETRAINED" ${ARCH[@]+"${ARCH[@]}"} --exp-dir "$OUT" \
    --image-size 256 --crop 128 --repeats 4 --epochs "${EPOCHS:-10}" --batch-size 8 --lr 5e-4 --schedule cosine \
    --precision bf16 --workers 0 --device cpu --cache-dir "${CACHE:-data/floodnet_256}"
