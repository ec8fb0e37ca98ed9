#!/usr/bin/env bash
# The README's result: ResNet18 with VICReg on SN7 patches, beside random weights and channel statistics.
#
#   bash exp/sn7_resnet18.sh                     on data/sn7 (make_sn7_csv.py, block split)
#   CSV_DIR=… RUN=… EPOCHS=… bash exp/sn7_resnet18.sh
#
# Views of 32 pixels whatever the patch's size: the reduced mosaics of the README's table have patches of 32. Colours
# are nearly left alone, because they tell places apart; the expander is no wider than twice the batch (see the floor).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
patches=${CSV_DIR:-data/sn7}
run=${RUN:-exp/sn7_resnet18}

$python vicreg/main_vicreg_sn7.py --csv-dir "$patches" --exp-dir "$run" --arch resnet18 --positives same \
    --augment temporal --augment-set crop=resized scale=0.2,1 vertical_flip=0.5 jitter=0.1,0.1,0.1,0 grey_p=0 blur_p=0 \
    --image-size 32 --mlp 1024-1024-256 --batch-size 128 --base-lr 2 --epochs "${EPOCHS:-10}" --probe-every 5

for backbone in random stats "$run/trained_model.pth"; do
    $python vicreg/evaluate_sn7.py --csv-dir "$patches" --exp-dir "$run/$(basename "$backbone" .pth)" \
        --pretrained "$backbone" --arch resnet18 --image-size 32 --weights freeze --views 4 --epochs 50 \
        --lr-head 0.003 0.01 0.03 0.1 0.3 1 3 10 30 100 --knn 20 200
done
$python exp/report.py "$run"
