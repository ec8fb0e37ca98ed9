#!/usr/bin/env bash
# Compare a supervised and two VICReg backbones under two splits: validation locations in training (image) or not (block).
#
#   bash exp/sn7_splits.sh                       on data/sn7 (block) and data/sn7_image (image), both by make_sn7_csv.py
#   CSV_DIR=… RUNS=… SPLITS=block bash exp/sn7_splits.sh
#
# Every backbone is trained on the training part of the split that it is evaluated on. The recipe is that of
# sn7_resnet18.sh, with two views of one image (same) or of one location in two months (temporal).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
patches=${CSV_DIR:-data/sn7}
runs=${RUNS:-exp/sn7_splits}
views=(crop=resized "scale=0.3,1" vertical_flip=0.5 "jitter=0.1,0.1,0.1,0" gray_p=0 blur_p=0)

vicreg() {  # name, patch lists, positives
    "$python" vicreg/main_vicreg_sn7.py --csv-dir "$2" --exp-dir "$1" --arch resnet18 --positives "$3" \
        --augment temporal --aug-override "${views[@]}" --image-size 64 --mlp 1024-1024-1024 --batch-size 128 \
        --optimizer adamw --lr 0.002 --weight-decay 0.01 --precision "${PRECISION:-bf16}" --epochs "${EPOCHS:-4}" \
        --probe-every 0
}

for split in ${SPLITS:-block image}; do
    case $split in block) lists=$patches ;; *) lists=${patches}_$split ;; esac
    run=$runs/$split
    "$python" supervised/main_supervised_sn7.py --csv-dir "$lists" --exp-dir "$run/supervised" --arch resnet18 \
        --image-size 64 --augment temporal --aug-override "${views[@]}" --batch-size 128 --optimizer adamw --lr 0.001 \
        --weight-decay 0.01 --warmup-epochs 1 --precision "${PRECISION:-bf16}" --epochs "${SUPERVISED_EPOCHS:-6}"
    vicreg "$run/same" "$lists" same
    vicreg "$run/temporal" "$lists" temporal
    "$python" vicreg/evaluate_embeddings.py --csv-dir "$lists" --exp-dir "$run" --arch resnet18 --image-size 64 \
        --pretrained random stats "$run"/{supervised,same,temporal}/trained_model.pth --train-percent 1 10 --seeds 5
done
"$python" exp/split_table.py "$runs"
