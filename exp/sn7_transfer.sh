#!/usr/bin/env bash
# Backbones to carry elsewhere, from reduced mosaics (128 x 128): VICReg with two views of one image, VICReg with two
# months of one place, and a supervised one; each on one CPU core in 10 to 25 minutes.
#
#   python preprocessing/make_sn7_csv.py --data-dir SN7/train --out-dir data/sn7_64 --grid 2
#   bash exp/sn7_transfer.sh                         all three; on two cores: WHAT=same … & WHAT="temporal supervised" …
#
# Patches of 64 pixels (a grid of 2 x 2), so that views of 48 are hardly enlarged and as sharp as what the backbone will
# see later; from the 32 pixels of a 4 x 4 grid they would be blurred. Colors vary more than in sn7_resnet18.sh: a
# network that can tell patches by their color alone has no need of shapes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
patches=${CSV_DIR:-data/sn7_64}
runs=${RUNS:-exp/sn7_transfer}
precision=${PRECISION:-fp32}
same=(crop=resized vertical_flip=0.5 blur_p=0 scale=0.2,1 jitter=0.4,0.4,0.2,0.1 jitter_p=0.8 gray_p=0.2)
months=(crop=resized vertical_flip=0.5 blur_p=0 scale=0.3,1 jitter=0.2,0.2,0.2,0.05 gray_p=0.1)

vicreg() {  # positives, numbers of the views
    $python vicreg/main_vicreg_sn7.py --csv-dir "$patches" --exp-dir "$runs/$1" --arch resnet18 --positives "$1" \
        --augment temporal --augment-set "${@:2}" --image-size 48 --mlp 1024-1024-1024 --batch-size 128 \
        --optimizer adamw --base-lr 0.002 --wd 0.01 --precision "$precision" --epochs "${EPOCHS:-20}" --probe-every 0
}

for what in ${WHAT:-same temporal supervised}; do
    case $what in
        same) vicreg same "${same[@]}" ;;
        temporal) vicreg temporal "${months[@]}" ;;
        supervised)
            $python supervised/main_supervised_sn7.py --csv-dir "$patches" --exp-dir "$runs/supervised" \
                --arch resnet18 --augment temporal --augment-set "${months[@]}" --image-size 48 --batch-size 128 \
                --optimizer adamw --lr 0.001 --wd 0.01 --warmup-epochs 1 --precision "$precision" \
                --epochs "${SUPERVISED_EPOCHS:-12}" ;;
        *) echo "sn7_transfer: $what is none of same, temporal, supervised" >&2; exit 1 ;;
    esac
done
