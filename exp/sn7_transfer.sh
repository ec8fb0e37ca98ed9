#!/usr/bin/env bash
# Backbones for transfer to other tasks, from reduced mosaics (128 x 128): VICReg with two views of one image, VICReg with
# two months of one location, and a supervised one.
#
#   python preprocessing/make_sn7_csv.py --data-dir SN7/train --out-dir data/sn7_64 --grid 2
#   bash exp/sn7_transfer.sh                         all three; on two cores: WHAT=same … & WHAT="temporal supervised" …
#
# Patches have 64 pixels (a grid of 2 x 2), so that views of 48 are hardly enlarged and as sharp as the images of later
# tasks; from the 32 pixels of a 4 x 4 grid they would be blurred. Color augmentation is stronger than in
# sn7_resnet18.sh: a network that can recognize patches by color alone does not learn shapes.
#
# Hardware: one CPU core for each backbone.
# Time: on one core of an Intel Xeon machine, fp32, 24 minutes for each VICReg backbone and 9 for the supervised one.
# Results on EuroSAT, frozen: linear top-1 0.781, 0.777 (VICReg) and 0.777 (supervised); docs/results.md, "EuroSAT".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
patches=${CSV_DIR:-data/sn7_64}
runs=${RUNS:-exp/sn7_transfer}
what=${WHAT:-same temporal supervised}
epochs=${EPOCHS:-20}
supervised_epochs=${SUPERVISED_EPOCHS:-12}
precision=${PRECISION:-fp32}

for backbone in $what; do
    case $backbone in
        same | temporal)
            case $backbone in same) augment=patch_strong ;; *) augment=patch_medium ;; esac
            "$python" vicreg/main_vicreg_sn7.py --csv-dir "$patches" --exp-dir "$runs/$backbone" --arch resnet18 \
                --positives "$backbone" --augment "$augment" --image-size 48 --mlp 1024-1024-1024 --batch-size 128 \
                --optimizer adamw --lr 0.002 --weight-decay 0.01 --precision "$precision" --epochs "$epochs" \
                --probe-every 0 ;;
        supervised)
            "$python" supervised/main_supervised_sn7.py --csv-dir "$patches" --exp-dir "$runs/supervised" \
                --arch resnet18 --augment patch_medium --image-size 48 --batch-size 128 --optimizer adamw --lr 0.001 \
                --weight-decay 0.01 --warmup-epochs 1 --precision "$precision" --epochs "$supervised_epochs" ;;
        *) echo "sn7_transfer: $backbone is not one of same, temporal, supervised" >&2; exit 1 ;;
    esac
done
