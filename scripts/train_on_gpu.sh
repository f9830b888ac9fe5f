#!/bin/bash
# Train recipes/gpu.toml on a machine with a GPU and PyTorch but without a network, within ten minutes.
#   scripts/train_on_gpu.sh pack                   here: runs/gpu-pack holds data and the packages that may be missing there
#   scripts/train_on_gpu.sh train OUT [MINUTES]    there, in the same tree: trains, validates, and copies the result to OUT
# Steps of these: `data` (files and recipe of the pack), `packages`, and there `check OUT` (are all files there?).
# DATA is where the scans lie here, PYTHON_VERSION that of the other machine. Two large scans stay behind, so that the
# pack has less than 60 MB. At its end `train` prints how to go on with what a short run has not finished.
set -e
cd "$(dirname "$0")/.."
PACK="${PACK:-runs/gpu-pack}"
PYTHON_THERE="${PYTHON_THERE:-/tmp/moediff-gpu/bin/python}"
LEFT_OUT="train/forrest_T1w.nii.gz train/vsseg001_T1c.nii.gz"
PACKAGES="nibabel pydantic pydantic-core annotated-types typing-inspection rich markdown-it-py mdurl pygments tensorboard protobuf absl-py"

data() {
    rm -rf "$PACK"
    mkdir -p "$PACK/data"
    for file in $(tail -n +2 data/manifest.csv | cut -d, -f1); do
        [[ " $LEFT_OUT " == *" $file "* ]] && continue
        mkdir -p "$PACK/data/$(dirname "$file")"
        cp "${DATA:-../shared/data}/$file" "$PACK/data/$file"
    done
    {
        echo '# Made by scripts/train_on_gpu.sh'
        echo "like = \"$(realpath --relative-to="$PACK" recipes/gpu.toml)\""
        echo 'data = "data"'
        echo 'out = "../default-gpu"'
        for file in $LEFT_OUT; do printf '[[sources]]\nmatch = "%s"\nweight = 0.0\n' "$file"; done
    } > "$PACK/recipe.toml"
}

packages() {
    mkdir -p "$PACK/wheels"
    # the versions that this environment has, so that both machines read and write alike
    for name in $PACKAGES; do
        .venv/bin/python -c "from importlib.metadata import version; print('$name==' + version('$name'))" || exit 1
    done > "$PACK/packages.txt"
    .venv/bin/python -m pip download -q --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
        --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
        -d "$PACK/wheels" -r "$PACK/packages.txt"
    du -sm "$PACK"
}

moediff() { PYTHONPATH="$PWD/src" PYTHONUNBUFFERED=1 "$PYTHON_THERE" -c 'import sys; from moediff.cli.main import main; sys.exit(main())' "$@"; }

check() {
    moediff train "$PACK/recipe.toml" --dry-run > "$1/dry-run.txt"
    if grep '^ *missing: ' "$1/dry-run.txt" >&2; then
        echo "these files are not in $PACK/data: pack again, with DATA naming the folder that has them" >&2
        exit 66
    fi
}

train() {
    out="$1"
    minutes="${2:-6}"
    python3 -m venv --system-site-packages /tmp/moediff-gpu
    "$PYTHON_THERE" -m pip install -q --no-index --no-deps --find-links "$PACK/wheels" -r "$PACK/packages.txt"
    check "$out"
    # 75: the time was over before the recipe was; what there is counts
    moediff train "$PACK/recipe.toml" --resume --minutes "$minutes" --slice "$((minutes + 2))" || [ $? -eq 75 ]
    last=$(ls -td runs/default-gpu/*/bundle runs/default-gpu/bundle 2>/dev/null | head -1)
    cp "$last/model.safetensors" "$last/bundle.json" "$out/"
    cp runs/default-gpu/curves.svg "$out/" || true
    for stage in runs/default-gpu/*/; do cp "$stage/validation.csv" "$out/$(basename "$stage")-validation.csv" 2>/dev/null || true; done
    ls -l "$out"
    # other minutes would be other settings, and finished stages refused
    echo "if stages are left, go on with: moediff train $PACK/recipe.toml --resume --minutes $minutes"
}

folder() { [ -d "$1" ] || { echo "name a folder for the result, which exists" >&2; exit 2; }; }

case "$1" in
    pack) data; packages ;;
    data | packages) "$1" ;;
    check) folder "$2"; check "$2" ;;
    train) folder "$2"; train "$2" "$3" ;;
    *) sed -n 2,8p "$0"; exit 2 ;;
esac
