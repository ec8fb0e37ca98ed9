#!/usr/bin/env bash
# Five expanders at a batch size of 256, otherwise one recipe.
#
#   bash exp/expander_study.sh                   on data/sn7 (make_sn7_csv.py, block split)
#   CSV_DIR=… RUNS=… EPOCHS=… bash exp/expander_study.sh
#
# 8192-8192-8192 is the default of the paper, for batches of 2048. It is also run with its covariance weight scaled by
# (N - 1) / D, which gives the covariance term the weight it has at D = N - 1.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
patches=${CSV_DIR:-data/sn7}
runs=${RUNS:-exp/expander_study}

study() {  # name, then the options that differ
    local run=$runs/$1
    shift
    "$python" vicreg/main_vicreg_sn7.py --csv-dir "$patches" --exp-dir "$run" --arch resnet18 --positives neighbor \
        --augment temporal --aug-override crop=resized scale=0.3,1 vertical_flip=0.5 jitter=0.1,0.1,0.1,0 gray_p=0 \
        blur_p=0 --image-size 32 --batch-size 256 --optimizer adamw --lr 0.001 --weight-decay 0.01 \
        --epochs "${EPOCHS:-3}" --precision "${PRECISION:-bf16}" --probe-every 0 "$@"
    "$python" vicreg/evaluate_sn7.py --csv-dir "$patches" --exp-dir "$run" --pretrained "$run/trained_model.pth" \
        --image-size 32 --weights freeze --views 2 --epochs 30 --lr-head 0.003 0.01 0.03 0.1 0.3 1 3 --knn 20
}

study w256 --mlp 256-256-256
study w1024 --mlp 1024-1024-1024
study w8192_narrow_end --mlp 8192-8192-256
study w8192 --mlp 8192-8192-8192
study w8192_cov_scaled --mlp 8192-8192-8192 --cov-coeff 0.03113
"$python" exp/report.py "$runs"
