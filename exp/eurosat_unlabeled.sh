#!/usr/bin/env bash
# The effect of pretraining on unlabeled images: VICReg on EuroSAT without labels, then 1, 10 and 100 % of the labels.
#
#   DATA=EuroSAT/2750 bash exp/eurosat_unlabeled.sh
#   SIZE=32 PRECISION=bf16 EPOCHS=3 SEEDS="0 1 2" FINETUNE= DATA=EuroSAT/2750 bash exp/eurosat_unlabeled.sh     on a CPU
#
# SIZE is the side of the views of pretraining; everything is evaluated at 64 pixels. FINETUNE lists percentages of the
# labels, each with its epochs; OTHERS, further backbones whose frozen features are evaluated beside these.
#
# Hardware: one NVIDIA H200 with 16 CPU cores. Time: about 5 minutes; on two CPU cores, allow a day. The second command
# takes one CPU core: 8 minutes for each of six backbones and 4 for their evaluation, on a shared AMD EPYC machine.
# Results: linear top-1 with 1 % of the labels, frozen VICReg: 0.735 on the GPU; on the CPU 0.636, and
# 0.617 with Barlow Twins, means of three seeds.
# docs/results.md, "EuroSAT without labels" and "Without labels on a CPU, three seeds". Started again, it resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
data=$(cd -- "${DATA:-data/EuroSAT/2750}" > /dev/null && pwd)
patches=${PATCHES:-data/eurosat_unlabeled}
runs=${RUNS:-exp/eurosat_unlabeled}
epochs=${EPOCHS:-31}
size=${SIZE:-64}
views=${VIEWS:---augment overhead --aug-override jitter=0.2,0.2,0.2,0.05 gray_p=0 solarize_p=0}
precision=${PRECISION:-auto}
seeds=${SEEDS:-${SEED:-0}}
finetune=${FINETUNE-1:100 10:40 100:20}
batch=${BATCH:-128}
task=downstream/eurosat_landcover_clsf_task

# Four fifths of each class to train, one fifth to validate; pretraining reads the images of the first part alone.
if [ ! -f "$patches/meta.json" ]; then
    "$python" preprocessing/make_imagery_csv.py --data-dir "$data" --patch-size 64 --labels folders --val-fraction 0.2 \
        --out-dir "$patches"
fi
for part in train val; do
    "$python" -c 'import csv, sys; print(*(row["image_id"] for row in csv.DictReader(sys.stdin)), sep="\n")' \
        < "$patches/$part.csv" > "$patches/$part.txt"
    while IFS= read -r image; do
        link=$patches/images/$part/$image
        [ -d "${link%/*}" ] || mkdir -p "${link%/*}"
        [ -e "$link" ] || ln -sf "$data/$image" "$link"
    done < "$patches/$part.txt"
done

backbones=()
for loss in ${LOSSES-vicreg barlow_twins}; do
    for seed in $seeds; do
        backbones+=("$runs/${loss}_$seed/trained_model.pth")
        # shellcheck disable=SC2086  # the options are words
        "$python" vicreg/main_vicreg_imagery.py --csv-dir "$patches" --exp-dir "$runs/${loss}_$seed" --arch resnet18 \
            --loss "$loss" --image-size "$size" $views --mlp 1024-1024-1024 --batch-size 256 --optimizer adamw --lr 0.002 \
            --weight-decay 0.01 --epochs "$epochs" --precision "$precision" --probe-every 0 --cache-on-device --seed "$seed"
    done
done

# shellcheck disable=SC2086  # OTHERS lists files
"$python" vicreg/evaluate_embeddings.py --data-dir "$patches/images" --exp-dir "$runs/frozen" --arch resnet18 \
    --image-size 64 --train-percent 1 10 --seeds 5 --no-check --pretrained random stats ${OTHERS:-} "${backbones[@]}"

scratch=()
for seed in $seeds; do
    scratch+=("random_$seed")
done
for backbone in "${scratch[@]}" "${backbones[@]}"; do
    name=$backbone pretrained=random
    [ "$name" = "${name#random_}" ] && name=$(basename "$(dirname "$backbone")") && pretrained=$backbone
    for labels in $finetune; do
        "$python" "$task/train_eurosat.py" --data-dir "$data" --train-list "$patches/train.txt" \
            --val-list "$patches/val.txt" --exp-dir "$runs/${name}_${labels%:*}_percent" --pretrained "$pretrained" \
            --arch resnet18 --weights finetune --optimizer adamw --lr 0.001 --weight-decay 0.05 --batch-size "$batch" \
            --image-size 64 --train-percent "${labels%:*}" --epochs "${labels#*:}" --seed "${name##*_}"
    done
done
"$python" exp/report.py "$runs"
