#!/usr/bin/env bash
# Makes Detectron2 importable on a machine that reaches nothing but the Python package index.
#
#     bash install_detectron2.sh                     # into the active environment, else the repository's .venv
#     PYTHON=/path/to/python bash install_detectron2.sh
#
# Does nothing where a working Detectron2 is there already. Detectron2 has no release on the index; its own page says
# how to build it from GitHub: https://detectron2.readthedocs.io/en/latest/tutorials/install.html. This script takes a
# copy that the SAL project has put on the index (pinned by its hash; its Python is the official main branch of April
# 2024 but for three lines) and leaves out its compiled part, detectron2/_C, which fits one Python and one PyTorch only.
# Mask R-CNN does not need that part: its ROIAlign and NMS come from torchvision, on the CPU and on GPUs. Rotated boxes,
# deformable convolutions and COCOeval_opt do need it; for those build Detectron2 as its page says.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
fail() { echo "install_detectron2.sh: $*" >&2; exit 1; }

if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    if [[ -n ${VIRTUAL_ENV:-} ]]; then PYTHON=$VIRTUAL_ENV/bin/python
    elif [[ -x $root/.venv/bin/python ]]; then PYTHON=$root/.venv/bin/python; fi
fi
command -v "$PYTHON" >/dev/null || fail "no interpreter at $PYTHON; say PYTHON=/path/to/python"
[[ $PYTHON != */* || $PYTHON == /* ]] || PYTHON=$PWD/$PYTHON  # not resolved further: a link is what makes an environment
cd /  # a folder named detectron2 beside the caller is not the library

works='
from detectron2 import model_zoo
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
model_zoo.get_config_file("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml")
'
if "$PYTHON" -W ignore -c "$works" >/dev/null 2>&1; then
    echo "Detectron2 works already: $("$PYTHON" -W ignore -c 'import detectron2; print(detectron2.__file__)')"
    exit 0
fi
"$PYTHON" -c 'import torch, torchvision' 2>/dev/null ||
    fail "$PYTHON has no torch and torchvision; first: $PYTHON -m pip install -r $root/requirements.txt"
"$PYTHON" -m pip --version >/dev/null 2>&1 || fail "$PYTHON has no pip; first: $PYTHON -m ensurepip"
site=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
[[ -w $site ]] || fail "$site cannot be written; make an environment of your own (python3 -m venv) and say PYTHON="
if [[ -e $site/detectron2 && ! -e $site/sal_detectron2-0.7.2.dist-info ]]; then
    fail "$site/detectron2 is there but does not work, and this script did not put it there; look at it with
  $PYTHON -c 'from detectron2 import model_zoo'
and remove it (pip uninstall detectron2) if it is to be replaced"
fi

beside=$(mktemp -d "$site/.detectron2-XXXXXX")  # on the same disk, so that it can be moved into place
trap 'rm -rf "$beside"' EXIT
get() { "$PYTHON" -m pip install --quiet --disable-pip-version-check "$@" ||
    fail "pip could not fetch what is needed (above); is the package index reachable?"; }

echo "what Detectron2 stands on, into $site"
# setuptools below 81 has the pkg_resources that Detectron2 imports
get 'setuptools>=77.0.3,<81' 'omegaconf>=2.1,<2.4' 'hydra-core>=1.1' 'yacs>=0.1.8' 'pycocotools>=2.0.2' \
    'portalocker' cloudpickle tabulate 'termcolor>=1.1' tensorboard matplotlib packaging
cat >"$beside/own.txt" <<'HASHES'
fvcore==0.1.5.post20221221 --hash=sha256:f2fb0bb90572ae651c11c78e20493ed19b2240550a7e4bbb2d6de87bdd037860
iopath==0.1.9 --hash=sha256:9058ac24f0328decdf8dbe209b33074b8702a3c4d9ba2f7801d46cb61a880b6e
HASHES
get --no-deps --require-hashes --no-build-isolation -r "$beside/own.txt"

echo "Detectron2 itself"
cat >"$beside/detectron2.txt" <<'HASHES'
sal-detectron2==0.7.2 --hash=sha256:491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561
HASHES
get --no-deps --only-binary=:all: --python-version 3.10 --require-hashes --no-compile --target "$beside/wheel" \
    -r "$beside/detectron2.txt"
rm -f "$beside"/wheel/detectron2/_C*.so
info=sal_detectron2-0.7.2.dist-info
# pip keeps to this list when it uninstalls; the wheel's folder tools/ would shadow everybody's own
sed -i -e '/^tools\//d' -e '/^detectron2\/_C/d' "$beside/wheel/$info/RECORD"
PYTHONPATH=$beside/wheel "$PYTHON" -W ignore -c "$works" || fail "what was fetched does not work here (above)"

[[ ! -e $site/detectron2 ]] || mv "$site/detectron2" "$beside/old"
rm -rf "${site:?}/$info"
mv "$beside/wheel/$info" "$site/$info"
mv "$beside/wheel/detectron2" "$site/detectron2"
"$PYTHON" -W ignore -c "$works" || fail "Detectron2 was moved to $site but does not import (above)"
echo "Detectron2 without its compiled part is in $site/detectron2"
