#!/usr/bin/env bash
# Backbones for transfer to other tasks, from reduced mosaics (128 x 128): VICReg with two views of one image, VICReg with
# two months of one location, and a supervised one; each on one CPU core in 10 to 25 minutes.
#
#   python preprocessing/make_sn7_csv.py --data-dir SN7/train --out-dir data/sn7_64 --grid 2
#   bash exp/sn7_transfer.sh                         all three; on two cores: WHAT=same … & WHAT="temporal supervised" …
#
# Patches have 64 pixels (a grid of 2 x 2), so that views of 48 are hardly enlarged and as sharp as the images of later
# tasks; from the 32 pixels of a 4 x 4 grid they would be blurred. Color augmentation is stronger than in
# sn7_resnet18.sh: a network that can recognize patches by color alone does not learn shapes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
patches=${CSV_DIR:-data/sn7_64}
runs=${RUNS:-exp/sn7_transfer}
precision=${PRECISION:-fp32}
same=(crop=resized vertical_flip=0.5 blur_p=0 "scale=0.2,1" "jitter=0.4,0.4,0.2,0.1" jitter_p=0.8 gray_p=0.2)
months=(crop=resized vertical_flip=0.5 blur_p=0 "scale=0.3,1" "jitter=0.2,0.2,0.2,0.05" gray_p=0.1)

vicreg() {  # positives, augmentation overrides
    "$python" vicreg/main_vicreg_sn7.py --csv-dir "$patches" --exp-dir "$runs/$1" --arch resnet18 --positives "$1" \
        --augment temporal --aug-override "${@:2}" --image-size 48 --mlp 1024-1024-1024 --batch-size 128 \
        --optimizer adamw --lr 0.002 --weight-decay 0.01 --precision "$precision" --epochs "${EPOCHS:-20}" --probe-every 0
}

for what in ${WHAT:-same temporal supervised}; do
    case $what in
        same) vicreg same "${same[@]}" ;;
        temporal) vicreg temporal "${months[@]}" ;;
        supervised)
            "$python" supervised/main_supervised_sn7.py --csv-dir "$patches" --exp-dir "$runs/supervised" \
                --arch resnet18 --augment temporal --aug-override "${months[@]}" --image-size 48 --batch-size 128 \
                --optimizer adamw --lr 0.001 --weight-decay 0.01 --warmup-epochs 1 --precision "$precision" \
                --epochs "${SUPERVISED_EPOCHS:-12}" ;;
        *) echo "sn7_transfer: $what is not one of same, temporal, supervised" >&2; exit 1 ;;
    esac
done
