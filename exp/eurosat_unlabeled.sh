#!/usr/bin/env bash
# What pretraining on your own unlabeled images buys: VICReg on EuroSAT without labels, then 1, 10 and 100 % of the labels.
#
#   DATA=EuroSAT/2750 bash exp/eurosat_unlabeled.sh
#
# Hardware: one NVIDIA H200 with 16 CPU cores. Time: about 5 minutes; on two CPU cores, allow a day.
# Results: docs/results.md, "EuroSAT without labels". Started again, it resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
data=$(cd -- "${DATA:-data/EuroSAT/2750}" > /dev/null && pwd)
patches=${PATCHES:-data/eurosat_unlabeled}
runs=${RUNS:-exp/eurosat_unlabeled}
epochs=${EPOCHS:-31}
seed=${SEED:-0}
task=downstream/eurosat_landcover_clsf_task

# Four fifths of each class to train, one fifth to validate; pretraining reads the images of the first part alone.
if [ ! -f "$patches/meta.json" ]; then
    "$python" preprocessing/make_imagery_csv.py --data-dir "$data" --patch-size 64 --labels folders --val-fraction 0.2 \
        --out-dir "$patches"
fi
for part in train val; do
    tail -n +2 "$patches/$part.csv" | cut -d, -f2 > "$patches/$part.txt"
    while IFS= read -r image; do
        link=$patches/images/$part/$image
        [ -d "${link%/*}" ] || mkdir -p "${link%/*}"
        [ -e "$link" ] || ln -sf "$data/$image" "$link"
    done < "$patches/$part.txt"
done

backbones=()
for loss in ${LOSSES:-vicreg barlow_twins}; do
    backbones+=("$runs/$loss/trained_model.pth")
    "$python" vicreg/main_vicreg_imagery.py --csv-dir "$patches" --exp-dir "$runs/$loss" --arch resnet18 --loss "$loss" \
        --image-size 64 --augment overhead --aug-override jitter=0.2,0.2,0.2,0.05 gray_p=0 solarize_p=0 \
        --mlp 1024-1024-1024 --batch-size 256 --optimizer adamw --lr 0.002 --weight-decay 0.01 --epochs "$epochs" \
        --probe-every 0 --cache-on-device --seed "$seed"
done

"$python" vicreg/evaluate_embeddings.py --data-dir "$patches/images" --exp-dir "$runs/frozen" --arch resnet18 \
    --image-size 64 --train-percent 1 10 --seeds 5 --no-check \
    --pretrained random stats "${backbones[@]}"

finetune() {  # name, backbone, percent of the labels, epochs
    "$python" "$task/train_eurosat.py" --data-dir "$data" --train-list "$patches/train.txt" \
        --val-list "$patches/val.txt" --exp-dir "$runs/$1_$3_percent" --pretrained "$2" --arch resnet18 \
        --weights finetune --optimizer adamw --lr 0.001 --weight-decay 0.05 --batch-size 128 --image-size 64 \
        --train-percent "$3" --epochs "$4" --seed "$seed"
}
for backbone in random "${backbones[@]}"; do
    name=random
    [ "$backbone" = random ] || name=$(basename "$(dirname "$backbone")")
    finetune "$name" "$backbone" 1 100
    finetune "$name" "$backbone" 10 40
    finetune "$name" "$backbone" 100 20
done
"$python" exp/report.py "$runs"
