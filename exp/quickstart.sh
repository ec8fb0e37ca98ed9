#!/usr/bin/env bash
# The whole pipeline in minutes: mosaics -> patch lists -> VICReg ResNet18 with temporal positives -> probes -> a table.
#
#   make quickstart                          on a synthetic sample of 12 AOIs
#   make quickstart SN7_DIR=/path/to/train   on real SpaceNet-7 mosaics
#
# It writes to data/quickstart* and exp/quickstart. Started again, it resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
run=exp/quickstart
patches=data/quickstart
tree=${SN7_DIR:-data/quickstart_sample/train}

mkdir -p "$run" data
if [ -f "$run/source.txt" ] && [ "$(cat "$run/source.txt")" != "$tree" ]; then
    echo "quickstart: $run contains a run on $(cat "$run/source.txt"); move it away to start one on $tree" >&2
    exit 1
fi
echo "$tree" > "$run/source.txt"

if [ -z "${SN7_DIR:-}" ] && [ ! -d "$tree" ]; then
    "$python" preprocessing/make_sn7_sample.py --out data/quickstart_sample --aois 12 --months 6 --size 256
fi
if [ ! -f "$patches/meta.json" ] || [ ! -f "$run/trained_model.pth" ]; then
    "$python" preprocessing/make_sn7_csv.py --data-dir "$tree" --out-dir "$patches"
fi

# A small batch needs a narrow expander; temporal positives need mild color augmentation (docs/hyperparameters.md).
"$python" vicreg/main_vicreg_sn7.py --csv-dir "$patches" --exp-dir "$run" --arch resnet18 --positives temporal \
    --augment temporal --aug-override crop=resized scale=0.3,1 jitter=0.2,0.2,0.1,0 gray_p=0 blur_p=0 \
    --image-size 32 --mlp 512-512-128 --batch-size 64 --lr 4 --epochs 12 --probe-every 4 --workers 0

# kNN and a linear probe on patches without augmentation; its learning rate is chosen on a tenth of the training patches.
for backbone in random stats "$run/trained_model.pth"; do
    name=$(basename "$backbone" .pth)
    echo
    echo "== $name"
    "$python" vicreg/evaluate_sn7.py --csv-dir "$patches" --exp-dir "$run/$name" --pretrained "$backbone" --arch resnet18 \
        --weights freeze --views 1 --epochs 50 --lr-head 0.1 1 10 --image-size 32 --workers 0
done
"$python" exp/report.py "$run"
