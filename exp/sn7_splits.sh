#!/usr/bin/env bash
# Compare a supervised and three VICReg backbones under two splits: validation locations in training (image) or not (block).
#
#   bash exp/sn7_splits.sh                       on data/sn7 (block) and data/sn7_image (image), both by make_sn7_csv.py
#   CSV_DIR=… RUNS=… SPLITS=block bash exp/sn7_splits.sh
#
# Every backbone is trained on the training part of the split that it is evaluated on. The recipe is that of
# sn7_resnet18.sh, with two views of one image (same), of one location in two months (temporal), or of neighboring patches
# (neighbor). POSITIVES chooses among them. SIZE is the side of the views, EVAL_SIZE that of the evaluation. SEEDS="0 1 2"
# trains each backbone three times; the folders of other seeds than 0 end with the seed.
#
# Hardware: one CPU core; 32-pixel patches of reduced mosaics (128 x 128).
# Time: on one core of an AMD EPYC machine, bf16, 15 minutes for each VICReg and 10 for each supervised backbone. With
#   SIZE=32 EVAL_SIZE=64 EPOCHS=2 SUPERVISED_EPOCHS=4 on a core that is shared, 5 minutes each and 22 of evaluation.
# Results, block split: linear top-1 0.369 (random), 0.418 (statistics), 0.595 (supervised), 0.524 and 0.499 (VICReg,
#   same and temporal); at 32 pixels 0.496, 0.476 and 0.496 (same, temporal, neighbor; means of three seeds);
#   docs/results.md, "The same backbones under two splits" and "With neighboring patches, 32-pixel views, three seeds".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
patches=${CSV_DIR:-data/sn7}
runs=${RUNS:-exp/sn7_splits}
splits=${SPLITS:-block image}
epochs=${EPOCHS:-4}
supervised_epochs=${SUPERVISED_EPOCHS:-6}
precision=${PRECISION:-bf16}
size=${SIZE:-64}
eval_size=${EVAL_SIZE:-$size}
seeds=${SEEDS:-${SEED:-0}}

for split in $splits; do
    case $split in block) lists=$patches ;; *) lists=${patches}_$split ;; esac
    run=$runs/$split
    backbones=()
    for seed in $seeds; do
        suffix=_$seed
        [ "$seed" != 0 ] || suffix=
        for method in supervised ${POSITIVES:-same temporal neighbor}; do
            backbones+=("$run/$method$suffix/trained_model.pth")
            common=(
                --csv-dir "$lists" --exp-dir "$run/$method$suffix" --arch resnet18 --augment patch_weak
                --image-size "$size" --batch-size 128 --optimizer adamw --weight-decay 0.01 --precision "$precision"
                --seed "$seed"
            )
            if [ "$method" = supervised ]; then
                "$python" supervised/main_supervised_sn7.py "${common[@]}" --lr 0.001 --warmup-epochs 1 \
                    --epochs "$supervised_epochs"
            else
                "$python" vicreg/main_vicreg_sn7.py "${common[@]}" --positives "$method" --lr 0.002 \
                    --mlp 1024-1024-1024 --epochs "$epochs" --probe-every 0
            fi
        done
    done
    "$python" vicreg/evaluate_embeddings.py --csv-dir "$lists" --exp-dir "$run" --arch resnet18 \
        --image-size "$eval_size" --pretrained random stats "${backbones[@]}" --train-percent 1 10 --seeds 5
done
"$python" exp/report.py "$runs"
