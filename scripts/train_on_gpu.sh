#!/bin/bash
# Train recipes/gpu.toml on a machine with a GPU and PyTorch but without a network, within ten minutes.
#   scripts/train_on_gpu.sh pack                   here: runs/gpu-pack holds data and the packages that may be missing there
#   scripts/train_on_gpu.sh train OUT [MINUTES]    there, in the same tree: trains, validates, and copies the result to OUT
# DATA is where the scans lie here, PYTHON_VERSION that of the other machine. Two large scans stay behind, so that the
# pack has less than 60 MB. What a short run has not finished goes on with `moediff train runs/gpu-pack/recipe.toml --resume`.
set -e
cd "$(dirname "$0")/.."
PACK=runs/gpu-pack
LEFT_OUT="train/forrest_T1w.nii.gz train/vsseg001_T1c.nii.gz"
PACKAGES="nibabel pydantic pydantic-core annotated-types typing-inspection rich markdown-it-py mdurl pygments tensorboard protobuf absl-py"

pack() {
    rm -rf $PACK
    mkdir -p $PACK/data $PACK/wheels
    for file in $(tail -n +2 data/manifest.csv | cut -d, -f1); do
        [[ " $LEFT_OUT " == *" $file "* ]] && continue
        mkdir -p "$PACK/data/$(dirname "$file")"
        cp "${DATA:-../shared/data}/$file" "$PACK/data/$file"
    done
    # the versions that this environment has, so that both machines read and write alike
    for name in $PACKAGES; do
        .venv/bin/python -c "from importlib.metadata import version; print('$name==' + version('$name'))" || exit 1
    done > $PACK/packages.txt
    .venv/bin/python -m pip download -q --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
        --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        -d $PACK/wheels -r $PACK/packages.txt
    {
        echo '# Made by scripts/train_on_gpu.sh'
        echo 'like = "../../recipes/gpu.toml"'
        echo 'data = "data"'
        echo 'out = "../default-gpu"'
        for file in $LEFT_OUT; do printf '[[sources]]\nmatch = "%s"\nweight = 0.0\n' "$file"; done
    } > $PACK/recipe.toml
    du -sm $PACK
}

train() {
    out="$1"
    python3 -m venv --system-site-packages /tmp/moediff-gpu
    /tmp/moediff-gpu/bin/python -m pip install -q --no-index --no-deps --find-links $PACK/wheels -r $PACK/packages.txt
    export PYTHONPATH="$PWD/src" PYTHONUNBUFFERED=1
    moediff() { /tmp/moediff-gpu/bin/python -c 'import sys; from moediff.cli.main import main; sys.exit(main())' "$@"; }
    moediff train $PACK/recipe.toml --dry-run > "$out/dry-run.txt"
    # 75: the time was over before the recipe was; what there is counts
    moediff train $PACK/recipe.toml --resume --minutes "${2:-6}" --slice "$(("${2:-6}" + 2))" || [ $? -eq 75 ]
    last=$(ls -td runs/default-gpu/*/bundle runs/default-gpu/bundle 2>/dev/null | head -1)
    cp "$last/model.safetensors" "$last/bundle.json" "$out/"
    cp runs/default-gpu/curves.svg "$out/" || true
    for stage in runs/default-gpu/*/; do cp "$stage/validation.csv" "$out/$(basename "$stage")-validation.csv" 2>/dev/null || true; done
    ls -l "$out"
}

case "$1" in
    pack) pack ;;
    train) [ -d "$2" ] || { echo "name a folder for the result, which exists" >&2; exit 2; }; train "$2" "$3" ;;
    *) sed -n 2,6p "$0"; exit 2 ;;
esac
