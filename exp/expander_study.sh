#!/usr/bin/env bash
# Five expanders at a batch size of 256, otherwise one recipe.
#
#   bash exp/expander_study.sh                   on data/sn7 (make_sn7_csv.py, block split)
#   CSV_DIR=… RUNS=… EPOCHS=… bash exp/expander_study.sh
#
# 8192-8192-8192 is the default of the paper, for batches of 2048. It is also run with its covariance weight scaled by
# (N - 1) / D, which gives the covariance term the weight it has at D = N - 1.
#
# Hardware: one CPU core; 32-pixel patches of reduced mosaics (128 x 128).
# Time: on one core of an AMD EPYC machine, bf16, 250 pairs/s (256-256-256) to 51 pairs/s (8192-8192-8192), so 3 to 17
#   minutes of pretraining for each of the five.
# Results: linear top-1 0.501 (1024-1024-1024), 0.328 (8192-8192-8192); docs/results.md, "Expander width".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
patches=${CSV_DIR:-data/sn7}
runs=${RUNS:-exp/expander_study}
epochs=${EPOCHS:-3}
precision=${PRECISION:-bf16}

study() {  # name, then the options that differ
    local run=$runs/$1
    shift
    "$python" vicreg/main_vicreg_sn7.py --csv-dir "$patches" --exp-dir "$run" --arch resnet18 --positives neighbor \
        --augment patch_weak --image-size 32 --batch-size 256 --optimizer adamw --lr 0.001 --weight-decay 0.01 \
        --epochs "$epochs" --precision "$precision" --probe-every 0 "$@"
    "$python" vicreg/evaluate_sn7.py --csv-dir "$patches" --exp-dir "$run" --pretrained "$run/trained_model.pth" \
        --image-size 32 --weights freeze --views 2 --epochs 30 --lr-head 0.003 0.01 0.03 0.1 0.3 1 3 --knn 20
}

study w256 --mlp 256-256-256
study w1024 --mlp 1024-1024-1024
study w8192_narrow_end --mlp 8192-8192-256
study w8192 --mlp 8192-8192-8192
study w8192_cov_scaled --mlp 8192-8192-8192 --cov-coeff 0.03113
"$python" exp/report.py "$runs"
