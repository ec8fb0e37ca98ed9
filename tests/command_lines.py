"""Every script's smallest command line that runs, the toy inputs that it names, and what else it takes."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from tests.conftest import ROOT, call_script, write_tif, write_tiny_tree
from tests.floodnet_fixtures import write_harvey, write_labeled

EUROSAT, FLOODS = "downstream/eurosat_landcover_clsf_task", "downstream/FloodNet_segmentation_task"
CROWDAI = "downstream/detectron2_crowdai_detection_task"
TOY = "--arch test_resnet --batch-size 8 --image-size 16 --epochs 1 --workers 0 --device cpu --exp-dir {out}"
PRETRAIN = f"{TOY} --mlp 8-8 --max-steps 1 --probe-every 0"
EVALUATE = (
    "--pretrained {backbone.pth} --batch-size 8 --image-size 16 --epochs 1 --workers 0 --device cpu --exp-dir {out}"
)

# script -> command line; {name} is an input of ``write_inputs``, {out} or {out.suffix} is an output
VALID = {
    "vicreg/main_vicreg_sn7.py": f"{PRETRAIN} --csv-dir {{sn7}}",
    "vicreg/main_vicreg_fmow.py": f"{PRETRAIN} --csv-dir {{fmow}} --data-dir {{fmow_tree}}",
    "vicreg/main_vicreg_unchanged.py": f"{PRETRAIN} --data-dir {{images}}",
    "vicreg/evaluate.py": f"{EVALUATE} --data-dir {{images}}",
    "vicreg/evaluate_sn7.py": f"{EVALUATE} --csv-dir {{sn7}}",
    "vicreg/evaluate_fmow.py": f"{EVALUATE} --csv-dir {{fmow}} --data-dir {{fmow_tree}}",
    "vicreg/evaluate_embeddings.py": "--pretrained {backbone.pth} --csv-dir {sn7} --exp-dir {out} --epochs 1 "
    "--device cpu --map-samples 0 --resamples 2 --image-size 16 --lr 0.1 --knn 5",
    "vicreg/main_vicreg_imagery.py": f"{PRETRAIN} --csv-dir {{imagery}}",
    "vicreg/evaluate_imagery.py": f"{EVALUATE} --csv-dir {{imagery}}",
    "vicreg/embed.py": "--pretrained {backbone.pth} --csv-dir {sn7} --image-size 16 --device cpu --out {out.parquet}",
    "vicreg/export.py": "--pretrained {backbone.pth} --to timm --out {out.pth}",
    "supervised/main_supervised_sn7.py": f"{TOY} --csv-dir {{sn7}} --max-steps 1",
    "preprocessing/audit_split.py": "{sn7} --no-turns --no-shifts --workers 1",
    "preprocessing/make_fmow_csv.py": "--data-dir {fmow_tree} --out-dir {out} --workers 1",
    "preprocessing/make_imagery_csv.py": "--data-dir {eurosat} --out-dir {out} --patch-size 24 --workers 1",
    "preprocessing/make_folder_split.py": "--data-dir {eurosat} --out-dir {out}",
    "preprocessing/make_sn7_csv.py": "--data-dir {sn7_tree} --out-dir {out} --workers 1",
    "preprocessing/make_sn7_sample.py": "--out {out} --aois 4 --months 2 --size 32",
    "preprocessing/make_toy_tasks.py": "--out {out} --size 256",
    "preprocessing/reduce_sn7.py": "--data-dir {sn7_tree} --out-dir {out} --size 16 --workers 1",
    f"{EUROSAT}/train_eurosat.py": "--pretrained random --arch test_resnet --data-dir {eurosat} --exp-dir {out} "
    "--epochs 1 --max-steps 1 --batch-size 8 --workers 0 --device cpu",
    f"{EUROSAT}/predict_eurosat.py": "--checkpoint {eurosat_run.pth} --image {image.jpg} --out {out} --device cpu",
    f"{FLOODS}/train_floodnet.py": "--pretrained random --arch resnet18 --data-dir {floods} --task floodnet "
    "--crop 32 --epochs 1 --max-steps 1 --batch-size 2 --workers 0 --device cpu --examples 0 --exp-dir {out}",
    f"{FLOODS}/predict_floodnet.py": "--checkpoint {floodnet_run.pth} --image {image.jpg} --out {out} --device cpu",
    f"{FLOODS}/make_harvey_patches.py": "--data-dir {harvey} --out-dir {out} --patch-size 32 --workers 1",
    f"{CROWDAI}/train_crowdai.py": "--pretrained random --arch resnet18 --data-dir {crowdai} --exp-dir {out} "
    "--config-file {crowdai.yaml} --device cpu",
    f"{CROWDAI}/predict_crowdai.py": "--checkpoint {crowdai_run} --image {image.jpg} --out {out} --device cpu",
    f"{CROWDAI}/convert_to_detectron2.py": "{resnet.pth} {out.pkl}",
    "exp/report.py": "{run}",
    "benchmarks/bench_audit.py": "--sn7 {sn7} --planted 2 --workers 1 --max-bits 24",
    "benchmarks/bench_augment.py": "--sizes 16 --images 2 --repeats 1",
    "benchmarks/bench_cut.py": "--size 64 --repeats 1",
    "benchmarks/bench_decode.py": "--data-dir {eurosat} --size 16 --images 2 --repeats 1",
    "benchmarks/bench_eval.py": "--samples 60 --dim 8 --classes 2 --queries 4 --epochs 1",
    "benchmarks/bench_growth.py": "--arch test_resnet --batch-sizes 2 4 --dims 8 16 --image-sizes 16 24 --base 4 8 16 "
    "--steps 1 --device cpu --out {out.svg}",
    "benchmarks/bench_loss.py": "--samples 4 --dim 8 --repeats 1 --device cpu",
    "benchmarks/bench_pairs.py": "--aois 2 --months 3 --samples 2 --repeats 1",
    "benchmarks/bench_pretrain.py": "--arch test_resnet --image-size 16 --batch-size 4 --mlp 8-8 --steps 1 "
    "--recipes ours --device cpu",
    "benchmarks/bench_profile.py": "--settings test_resnet,16,4,8 test_resnet,16,8,8 --steps 1 --device cpu",
    "benchmarks/bench_patches.py": "--aois 2 --months 2 --size 32 --repeats 1 --patches 2 --batch 2",
    "benchmarks/bench_quality.py": "--csv-dir {imagery} --exp-dir {out} --recipes ours --minutes 0.01 --plot {out.svg}",
    "benchmarks/bench_run.py": "--arch test_resnet --mlp 8-8 --batch-size 4 --image-size 16 --patch-size 18 "
    "--patches 4 8 --epochs 1 --workers 1 --device cpu --variants cached",
}

# script -> further inputs and outputs, each appended to the command line
MORE = {
    "vicreg/main_vicreg_sn7.py": ["--init-from {backbone.pth}", "--csv-dir {sn7_unpacked} --data-dir {sn7_tree}"],
    "vicreg/main_vicreg_fmow.py": ["--init-from {backbone.pth}"],
    "vicreg/main_vicreg_unchanged.py": ["--init-from {backbone.pth}", "--pack {out}"],
    "vicreg/main_vicreg_imagery.py": ["--init-from {backbone.pth}", f"= {PRETRAIN} --data-dir {{eurosat}}"],
    "vicreg/evaluate.py": ["--train-files {list.txt}"],
    "vicreg/export.py": ["= --pretrained {backbone.pth} --to hf --out {out} --results {run/result.json}"],
    "vicreg/evaluate_sn7.py": ["--csv-dir {sn7_unpacked} --data-dir {sn7_tree}"],
    "vicreg/evaluate_embeddings.py": [
        "--test-csv {sn7}", "--seen {sn7/train.csv} --unseen {sn7/val.csv}",
        "--data-dir {sn7_tree} --csv-dir {sn7_unpacked}",
        "--test-csv {sn7_unpacked} --test-data-dir {sn7_tree}",
    ],
    "vicreg/embed.py": [
        "= --pretrained {backbone.pth} --data-dir {images/val} --image-size 16 --device cpu --out {out.parquet}",
        "= --pretrained {backbone.pth} --image {image.tif} --patch-size 16 --device cpu --components 1 --out {out.tif}",
    ],
    "supervised/main_supervised_sn7.py": [
        "--init-from {backbone.pth}", "--csv-dir {sn7_unpacked} --data-dir {sn7_tree}",
    ],
    "preprocessing/audit_split.py": [
        "--json {out.json}", "--picture {out.png}", "= {images/train} {images/val} --workers 1",
        "= {sn7/train.csv} {sn7/val.csv}",
        "= {sn7_unpacked} --data-dir {sn7_tree} --no-turns --no-shifts",

        "= --coco {list.json} {list2.json} --coco-images {crowdai/train/images} {crowdai/val/images} --no-turns",
    ],
    "preprocessing/make_imagery_csv.py": ["--data-dir {sn7_tree}", "= --list {paths.txt} --out-dir {out}"],
    "preprocessing/make_sn7_csv.py": ["--labels-override {labels.csv}"],
    f"{EUROSAT}/train_eurosat.py": ["--pretrained {backbone.pth}", "--train-list {list.txt} --val-list {list2.txt}"],
    f"{EUROSAT}/predict_eurosat.py": ["--image {image.tif}", "--image {images/val/Forest}"],
    f"{FLOODS}/train_floodnet.py": ["--pretrained {resnet.pth}", "--cache-dir {out}"],
    f"{FLOODS}/predict_floodnet.py": ["--image {image.tif}", "--image {images/val/Forest}"],
    f"{CROWDAI}/train_crowdai.py": ["--pretrained {resnet.pth}", "--train-json {list.json}", "--val-json {list.json}"],
    f"{CROWDAI}/predict_crowdai.py": ["--image {image.tif}", "--image {images/val/Forest}"],
    "exp/report.py": ["--out {out.html}"],
    "benchmarks/bench_audit.py": ["--eurosat {eurosat}"],
}  # fmt: skip

LEVELS = ("--levels 5 1", "--levels")
FINETUNE = [("--weights finetune --lr-head 0.1 0.2", "--lr-head"), ("--weights finetune --views 2", "--views"),
            ("--weights finetune --pretrained stats", "--pretrained stats"),
            ("--train-percent 101", "--train-percent")]  # fmt: skip
# script -> options that contradict each other or the data, and a word of the message
CONTRADICTIONS = {
    "vicreg/main_vicreg_sn7.py": [("--max-months-apart 3", "--positives"), ("--batch-size 9999", "--batch-size"),
                                  ("--batch-size 1", "batch"), ("--csv-dir {fmow}", "not a patch list")],
    "vicreg/main_vicreg_unchanged.py": [
        ("--cache-on-device", "--cache-on-device"), ("--store device", "--cache-on-device"),
        ("--pack-size 9", "--pack-size"), ("--pack {images}", "--pack"), ("--image-size 32:16", "--image-size"),
    ],
    "vicreg/evaluate.py": [*FINETUNE, ("--train-files {list.txt} --train-percent 1 10", "--train-percent")],
    "vicreg/evaluate_sn7.py": FINETUNE,
    "vicreg/evaluate_fmow.py": FINETUNE,
    "vicreg/evaluate_embeddings.py": [("--seen {sn7/val.csv}", "--unseen"), ("--pretrained random random", "twice"),
                                      ("--pretrained random", "--arch")],
    "vicreg/main_vicreg_imagery.py": [
        ("--data-dir {eurosat}", "--csv-dir"), ("--batch-size 1", "batch"), ("--patch-size 16", "--patch-size"),
    ],
    "vicreg/evaluate_imagery.py": FINETUNE,
    "vicreg/embed.py": [
        ("--out {out.csv}", "--out"), ("--stride 300", "--stride"), ("--data-dir {images}", "--data-dir"), LEVELS,
        ("--bands 1 2", "--bands"),
    ],
    "vicreg/export.py": [("--image-size 64", "--image-size"), ("--pretrained stats", "stats"), ("--to onnx", ".onnx"),
                         ("--to torchvision", "torchvision"), ("--out {backbone.pth}", "--out")],
    "supervised/main_supervised_sn7.py": [
        ("--milestones 3", "--milestones"), ("--schedule step", "--milestones"),
        ("--warmup-epochs 1", "--warmup-epochs"),
        ("--aug-override 2.blur_p=0", "--aug-override"), ("--momentum 1", "--momentum"),
    ],
    "preprocessing/audit_split.py": [
        ("--coco a.json b.json", "--coco"), ("--no-pixels --picture a.png", "--picture"),
        ("--coco-images a b", "--coco-images"), ("--max-overlap 101", "--max-overlap"),
    ],
    "preprocessing/make_fmow_csv.py": [("--splits train train", "--splits")],
    "preprocessing/make_folder_split.py": [
        ("--split location", "--location-pattern"), ("--location-pattern x", "--split location"),
        ("--split block", "--split block"), ("--val-fraction 1", "--val-fraction"),
    ],
    "preprocessing/make_imagery_csv.py": [
        ("--scale 1", "--scale"), ("--shard 2/2", "--shard"), ("--label-column name", "--label"),
        ("--val-fraction 1", "--val-fraction"), ("--crs nonsense", "--crs"),
    ],
    "preprocessing/make_sn7_csv.py": [
        ("--grid 1", "--grid"), ("--grid 99", "--grid"), ("--val-fraction 1", "--val-fraction"),
    ],
    "preprocessing/make_sn7_sample.py": [
        ("--aois 999", "--aois"), ("--months 99", "--months"), ("--size 33", "--size"),
    ],
    "preprocessing/make_toy_tasks.py": [("--size 100", "--size"), ("--out {sn7_tree}", "--out")],
    "preprocessing/reduce_sn7.py": [("--size 5", "--size"), ("--out-dir {sn7_tree}", "--out-dir")],
    f"{EUROSAT}/train_eurosat.py": [
        ("--weights freeze", "--max-steps"), ("--train-list {list.txt}", "--val-list"),
        LEVELS, ("--val-fraction 1", "--val-fraction"),
        ("--aug-override blur_p=0", "--aug-override"), ("--label-smoothing 1", "--label-smoothing"),
    ],
    f"{EUROSAT}/predict_eurosat.py": [LEVELS, ("--image {images} --out {images}", "--out")],
    f"{FLOODS}/train_floodnet.py": [
        LEVELS, ("--crop 33", "--crop"), ("--scale 2", "--scale"), ("--overlap 1", "--overlap"),
        ("--task flooded --data-dir {harvey}", "harvey"),
        ("--init-from {floodnet_run.pth} --arch resnet34", "--arch"), ("--val-fraction 1", "--val-fraction"),
        ("--decoder deeplabv3plus --batch-size 1", "--batch-size"),
    ],
    f"{FLOODS}/predict_floodnet.py": [
        LEVELS, ("--overlap 1", "--overlap"), ("--image {images/val/Forest} --out {images/val/Forest}", "--out"),
    ],
    f"{FLOODS}/make_harvey_patches.py": [
        LEVELS, ("--stride 99", "--stride"), ("--patch-size 999", "--patch-size"),
        ("--val-fraction 1", "--val-fraction"),
    ],
    f"{CROWDAI}/train_crowdai.py": [
        ("--eval-only", "--eval-only"), ("--num-machines 2", "--dist-url"), ("--num-gpus 99", "--num-gpus"),
        ("SOLVER.MAX_ITER", "SOLVER.MAX_ITER"), ("NONSENSE 1", "NONSENSE"),
        ("SOLVER.IMS_PER_BATCH 0", "SOLVER.IMS_PER_BATCH"), ("--exp-dir {crowdai}/run", "--exp-dir"),
        ("MODEL.ROI_HEADS.NUM_CLASSES 5", "MODEL.ROI_HEADS.NUM_CLASSES"), ("--arch vit_small_patch16_224", "vit_small"),
    ],
    f"{CROWDAI}/predict_crowdai.py": [
        LEVELS, ("--overlap 1", "--overlap"), ("--threshold 2", "--threshold"),
        ("--image {images/val/Forest} --out {images/val/Forest}", "--out"),
    ],
    "benchmarks/bench_loss.py": [("--samples 1", "--samples")],
    "benchmarks/bench_pairs.py": [("--months 1", "--months")],
}  # fmt: skip


def write_inputs(folder):
    """Write every input that the command lines name; their names are in the braces of ``VALID`` and ``MORE``."""
    from preprocessing import make_fmow_csv, make_imagery_csv, make_sn7_csv
    from tests.test_data_fmow import write_image
    from vicreg.common import checkpoint_io
    from vicreg.models.backbones import create_backbone

    def prepare(script, *words):
        script.main(script.get_parser().parse_args([*map(str, words), "--workers", "1"]))

    random, tree = np.random.default_rng(0), write_tiny_tree(folder / "sn7_tree")
    prepare(make_sn7_csv, "--data-dir", tree, "--out-dir", folder / "sn7")
    prepare(make_sn7_csv, "--data-dir", tree, "--out-dir", folder / "sn7_unpacked", "--no-pack")
    for part, place in (("train", 0), ("train", 1), ("val", 2)):
        for kind in ("airport", "crop_field"):
            for k in range(4):
                write_image(folder / "fmow_tree", part, kind, place, k, tuple(random.integers(255, size=3).tolist()))
    prepare(make_fmow_csv, "--data-dir", folder / "fmow_tree", "--out-dir", folder / "fmow")
    for part, count in (("images/train", 6), ("images/val", 3), ("eurosat", 6)):
        for kind in ("Forest", "SeaLake"):
            (folder / part / kind).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(256, size=(24, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / kind / f"{kind}_{number}.jpg")
    prepare(
        make_imagery_csv, *fill("--data-dir {eurosat} --out-dir {imagery} --patch-size 24 --labels folders", folder, "")
    )
    pixels = random.integers(256, size=(3, 48, 64), dtype=np.uint8)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(folder / "image.jpg")
    write_tif(folder / "image.tif", pixels, (500000, 6000000 - 480, 500640, 6000000))
    write_labeled(folder / "floods")
    write_harvey(folder / "harvey")
    for name, arch in (("backbone.pth", "test_resnet"), ("resnet.pth", "resnet18")):
        info = {"arch": arch, "in_chans": 3, "mean": [0.5] * 3, "std": [0.2] * 3, "source": "a test"}
        checkpoint_io.save(info | {"state_dict": create_backbone(arch).state_dict()}, folder / name)
    write_texts(folder)
    write_crowdai(folder, random)
    write_checkpoints(folder)


def write_checkpoints(folder):
    """Write the checkpoints of a EuroSAT, a flood and a detection run by the scripts themselves."""
    for script, more, name in (
        (f"{EUROSAT}/train_eurosat.py", "", "best_model.pth"),
        (f"{FLOODS}/train_floodnet.py", "", "best_model.pth"),
        (f"{CROWDAI}/train_crowdai.py", "", "model_final.pth"),
    ):
        run = folder / f"{Path(script).stem.removeprefix('train_')}_run"
        code, message = run_script(script, fill(f"{VALID[script]} {more}", folder, run))
        assert code == 0, message
        (run / name).is_file() and shutil.copy(run / name, f"{run}.pth")


def write_texts(folder):
    """Write lists, labels and the folders of finished runs."""
    (folder / "list.txt").write_text("Forest/Forest_0.jpg\nSeaLake/SeaLake_1.jpg\n")
    (folder / "paths.txt").write_text("\n".join(map(str, sorted((folder / "eurosat").glob("*/*.jpg")))))
    (folder / "list2.txt").write_text("Forest/Forest_2.jpg\nSeaLake/SeaLake_3.jpg\n")
    pd.DataFrame(
        {"aoi": ["L15-0331E-1257N_1327_3160_13"], "city": ["Oakley"], "state": ["California"], "country": ["US"]}
    ).to_csv(folder / "labels.csv", index=False)
    (folder / "run").mkdir()
    line = {"step": 1, "epoch": 0, "loss": 2.0, "pairs_per_second": 3.0}
    (folder / "run" / "stats.txt").write_text(json.dumps(line) + "\n" + json.dumps(line | {"step": 2}) + "\n")
    (folder / "run" / "config.json").write_text(json.dumps({"plan": {"steps": 2}}))
    (folder / "run" / "result.json").write_text(json.dumps({"source": "a test", "top1": 0.5}))


def write_crowdai(folder, random):
    """Write annotated images, a toy configuration, and a run with an untrained model."""
    for part in ("train", "val"):
        (folder / "crowdai" / part / "images").mkdir(parents=True)
        ring = [10, 10, 30, 10, 30, 30, 10, 30]
        images = [{"id": number, "file_name": f"{number}.png", "height": 64, "width": 64} for number in range(2)]
        annotations = [
            {"id": n, "image_id": n, "category_id": 1, "bbox": [10, 10, 20, 20], "segmentation": [ring]} for n in (0, 1)
        ]
        for image in images:
            pixels = random.integers(256, size=(64, 64, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "crowdai" / part / "images" / image["file_name"])
        content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "building"}]}
        (folder / "crowdai" / part / "annotation.json").write_text(json.dumps(content))
    for name in ("list.json", "list2.json"):
        (folder / name).write_text(json.dumps(content))
    smoke = ROOT / CROWDAI / "configs" / "smoke.yaml"
    (folder / "crowdai.yaml").write_text(
        f"_BASE_: {smoke}\nMODEL:\n  FPN: {{OUT_CHANNELS: 8}}\n  ROI_BOX_HEAD: {{FC_DIM: 16}}\n"
        "  ROI_MASK_HEAD: {CONV_DIM: 8}\nINPUT: {MIN_SIZE_TRAIN: [32], MIN_SIZE_TEST: 32}\n"
        "SOLVER: {IMS_PER_BATCH: 2, MAX_ITER: 2, STEPS: [1]}\n"
    )


def fill(line, inputs, out):
    """Return the words of a command line; ``inputs`` and ``out`` are paths, the latter without the suffix."""
    return [
        re.sub(r"\{(out)?([^}]*)\}", lambda m: f"{out}{m[2]}" if m[1] else str(inputs / m[2]), word)
        for word in line.split()
    ]


def run_script(script, words):
    """Run a script in this process: exit code, and what it wrote to stderr."""
    ran = call_script(script, *words)
    return ran.returncode, ran.stderr
