"""Configurations: read, built on each other, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from moediff.core.errors import ConfigError, InputMissing, MoeDiffWarning
from moediff.diffusion.schedule import DiffusionConfig
from moediff.model.bundle import MANIFEST, BundleConfig, save_bundle
from moediff.model.config import BackboneConfig, ExpertsConfig
from moediff.training.cache import ScanSource
from moediff.training.config import TrainConfig, load_config, read_settings
from moediff.training.recipe import load_recipe

BASE = """
out = "../runs/base"
data = "scans"
steps = 70
learning_rate = 1e-3
[model.denoiser]
embedding_width = 16
[model.denoiser.backbone]
width = 8
bottleneck_width = 16
[provenance]
name = "base"
licence = "CC0"
[[scans]]
path = "one.nii.gz"
[[scans]]
path = "two.nii.gz"
"""


def written(folder: Path, **files: str) -> Path:
    """Write configurations by name; returns the path of the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / f"{list(files)[-1]}.toml"


def test_settings_are_read_and_the_rest_takes_its_defaults(tmp_path):
    config = load_config(written(tmp_path / "configs", base=BASE))
    assert (config.steps, config.learning_rate, config.batch) == (70, 1e-3, TrainConfig(out="").batch)
    assert config.model.denoiser.backbone == BackboneConfig(width=8, bottleneck_width=16)
    assert config.scans == (ScanSource(path="one.nii.gz"), ScanSource(path="two.nii.gz"))
    assert config.provenance == {"name": "base", "licence": "CC0"}


def test_relative_folders_are_taken_from_the_file(tmp_path):
    config = load_config(written(tmp_path / "configs", base=BASE))
    assert Path(config.out).resolve() == (tmp_path / "runs" / "base").resolve()
    assert Path(config.data) == tmp_path / "configs" / "scans"
    assert config.start is None
    bare = load_config(written(tmp_path / "bare", bare="steps = 3"))
    assert (Path(bare.out), Path(bare.data)) == (tmp_path / "bare", tmp_path / "bare")


def test_absolute_folders_stay(tmp_path):
    place = (tmp_path / "elsewhere").as_posix()
    config = load_config(written(tmp_path / "configs", one=f'out = "{place}"\nstart = "{place}/bundle"'))
    assert (Path(config.out), Path(config.start or "")) == (Path(place), Path(place) / "bundle")


LIKE = """
like = "{like}"
out = "mine"
start = "bundle"
learning_rate = 2e-3
[model.denoiser.backbone]
width = 32
[model.denoiser.experts]
width = 16
[provenance]
name = "like"
"""


def test_like_puts_tables_over_each_other(tmp_path):
    config = load_config(written(tmp_path / "configs", base=BASE, like=LIKE.format(like="base.toml")))
    assert (config.steps, config.learning_rate) == (70, 2e-3)
    assert config.model.denoiser.backbone == BackboneConfig(width=32, bottleneck_width=16)  # one key here, one below
    assert config.model.denoiser.embedding_width == 16 and config.model.denoiser.experts == ExpertsConfig(width=16)
    assert config.provenance == {"name": "like", "licence": "CC0"}
    assert [scan.path for scan in config.scans] == ["one.nii.gz", "two.nii.gz"]


def test_like_keeps_each_files_folders(tmp_path):
    written(tmp_path / "below", base=BASE)
    config = load_config(written(tmp_path / "above", like=LIKE.format(like="../below/base.toml")))
    assert Path(config.out) == tmp_path / "above" / "mine" and Path(config.start or "") == tmp_path / "above" / "bundle"
    assert Path(config.data).resolve() == (tmp_path / "below" / "scans").resolve()


def test_lists_are_replaced_not_joined(tmp_path):
    other = 'like = "base.toml"\n[[scans]]\npath = "three.nii.gz"'
    config = load_config(written(tmp_path, base=BASE, other=other))
    assert [scan.path for scan in config.scans] == ["three.nii.gz"]


def test_like_may_be_stacked(tmp_path):
    files = {"base": BASE, "middle": 'like = "base.toml"\nsteps = 5', "top": 'like = "middle.toml"\nbatch = 9'}
    config = load_config(written(tmp_path, **files))
    assert (config.steps, config.batch, config.learning_rate) == (5, 9, 1e-3)


def test_a_configuration_that_builds_on_itself_is_refused(tmp_path):
    path = written(tmp_path, one='like = "two.toml"', two='like = "one.toml"')
    with pytest.raises(ConfigError, match=r"one\.toml builds on itself; remove one `like`"):
        load_config(path.with_name("one.toml"))


REFUSED = {
    "unknown setting": ("stepz = 3", "unknown setting 'stepz'"),
    "unknown in a table": ("[model.denoiser.backbone]\nwidht = 3", "unknown setting 'model.denoiser.backbone.widht'"),
    "unknown in a list": ('[[scans]]\npath = "a"\nweigth = 3', "unknown setting 'scans.weigth'"),
    "wrong type": ('steps = "many"', "steps: "),
    "no word for a folder": ("out = 3", "out: "),
    "no word for like": ("like = 3", "like: "),
    "no rate": ("learning_rate = nan", "learning_rate=nan must be a positive number"),
    "endless": ("minutes = inf", "minutes=inf must be a positive number"),
    "no decay": ("weight_decay = -1.0", "weight_decay=-1.0"),
    "no seed": ("seed = 99999999999999999999999", "must lie in 0..2^63 - 1"),
    "a weight below nothing": ("[loss]\nregion = -1.0", "loss.region=-1.0 must be 0 or more"),
    "a cube too small to judge": ("[validation]\nside = 8", "validation.side=8 must be at least 16"),
    "fewer blocks than none": ("[model.denoiser.backbone]\nblocks_bottleneck = -1", "0 to"),
    "no embedding": ("[model.denoiser]\nembedding_width = 0", "embedding_width=0"),
    "no tokens": ("[model.denoiser.encoder]\nwidth = 0", "encoder.width=0"),
    "no steps": ("steps = 0", "steps=0 must be at least 1"),
    "no batch": ("batch = 0", "batch=0 must be at least 1"),
    "ema of one": ("ema_decay = 1.0", "ema_decay=1.0 must lie in"),
    "not TOML": ("steps = = 3", "not TOML"),
    "a patch that does not fit": ("patch = 40", "patch=40 must be a multiple of 16"),
    "a phase's patch that does not fit": (
        "[[phases]]\nuntil = 1.0\nbatch = 2\npatch = 40",
        "phases: patch=40 must be a multiple of 16",
    ),
    "a device of the future": ('device = "tpu"', "device='tpu' must be"),
    "no copies": ('[[scans]]\npath = "a"\nlabels = true\ncopies = 0', "a: copies=0 must be at least 1"),
    "no weight": ('[[scans]]\npath = "a"\nweight = 0.0', "weight=0.0 a positive number"),
    "noise from zero": ("[recipes]\nnoise = [0.0, 0.06]", "recipes.noise=[0.0, 0.06]: give a rising range"),
    "slices too thick": ("[recipes]\nslice_factor = [2.0, 14.0]", "recipes.slice_factor=[2.0, 14.0]"),
    "no kind of scan": (
        "[recipes]\nthick = 0.0\ntruncated = 0.0\nmixed = 0.0\nnative = 0.0",
        "one of them above 0",
    ),
    "amplitude from zero": ("[augment]\namplitude = [0.0, 1.0]", "augment.amplitude=[0.0, 1.0]"),
    "shares over one": ("[augment]\nblur_probability = 0.9", "1 at most together"),
    "an unknown recipe to validate": ('[validation]\nrecipes = ["thik5"]', "validation.recipes: ['thik5']"),
    "impossible in a part": ("[model.denoiser.backbone]\nwidth = 4", "backbone widths 4"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_configuration_is_refused_with_its_name(text, words, tmp_path):
    path = written(tmp_path, bad=text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ") and words in str(caught.value)


def test_a_file_of_other_letters_is_not_toml(tmp_path):
    (tmp_path / "bad.toml").write_bytes(b'out = "\xff\xfe"')
    with pytest.raises(ConfigError, match="not TOML"):
        load_config(tmp_path / "bad.toml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputMissing, match=r"none\.toml: no such training configuration"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(InputMissing, match=r"none\.toml"):
        load_config(written(tmp_path, like='like = "none.toml"'))


FORMER = {
    "a folder": ('heads = "prepared"', "heads is now cache", lambda c: Path(c.cache or "").name, "prepared"),
    "the optimiser": ("rate = 1e-3", "rate is now learning_rate", lambda c: c.learning_rate, 1e-3),
    "a loss": (
        "[loss]\nsteady = 0.5",
        "loss.steady is now loss.shift_consistency",
        lambda c: c.loss.shift_consistency,
        0.5,
    ),
    "lesions": (
        "[augment.planted]\nshare = 0.5",
        "augment.planted is now augment.synthetic_lesions",
        lambda c: c.augment.synthetic_lesions.probability,
        0.5,
    ),
}


@pytest.mark.parametrize(("text", "words", "read", "value"), FORMER.values(), ids=FORMER.keys())
def test_former_keys_are_read_and_say_their_present_name(text, words, read, value, tmp_path):
    with pytest.warns(MoeDiffWarning, match=words):
        config = load_config(written(tmp_path, former=text))
    assert read(config) == value


def test_a_file_with_former_keys_can_be_built_on(tmp_path):
    files = {
        "base": "rate = 1e-3\n[loss]\nsteady = 0.5\nregion = 0.3",
        "top": "learning_rate = 2e-3\n[loss]\nshift_consistency = 0.1",
    }
    written(tmp_path, top='like = "base.toml"\n' + files["top"], base=files["base"])
    with pytest.warns(MoeDiffWarning, match="steady is now"):
        config = load_config(tmp_path / "top.toml")
    assert (config.learning_rate, config.loss.shift_consistency, config.loss.region) == (2e-3, 0.1, 0.3)


OLD = """
steps = 3
[model]
error_slices = 0.1
[model.process]
share_at_max = 0.5
[model.denoiser]
vector = 8
error_width = 8
[model.denoiser.trunk]
deep_width = 16
[model.denoiser.gate]
lattices = [0, 10]
experts = 1
top_k = 1
[model.denoiser.experts]
views = ["plain"]
"""


def test_old_keys_of_the_model_are_read_with_one_warning(tmp_path):
    path = tmp_path / "old.toml"
    path.write_text(OLD)
    with pytest.warns(MoeDiffWarning) as caught:
        model = load_config(path).model
    assert len(caught) == 1 and "model.denoiser.trunk is now model.denoiser.backbone" in str(caught[0].message)
    assert (model.anisotropy_exponent, model.diffusion.probability_sigma_max) == (0.1, 0.5)
    denoiser = model.denoiser
    assert (denoiser.embedding_width, denoiser.uncertainty_width, denoiser.backbone.bottleneck_width) == (8, 8, 16)
    assert (denoiser.gate.patch_offsets, denoiser.experts.branches) == ((0, 10), ("plain",))


def test_folders_of_a_configuration_are_printed_without_dots(tmp_path):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "a.toml").write_text('out = "../runs/a"\n')
    assert read_settings(tmp_path / "configs" / "a.toml")["out"] == str(tmp_path / "runs" / "a")


def test_dots_behind_a_link_are_kept(tmp_path):
    """There `..` leads elsewhere than it reads."""
    (tmp_path / "far" / "configs").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "configs")
    (tmp_path / "far" / "configs" / "a.toml").write_text('out = "../runs"\n')
    out = read_settings(tmp_path / "link" / "a.toml")["out"]
    assert out == str(tmp_path / "link" / ".." / "runs")


def test_the_network_is_that_of_the_weights_to_begin_with(tmp_path, make_denoiser):
    """What `model` says otherwise holds; calibration is left to the run."""
    small = make_denoiser()
    wider = replace(small.config, gate=replace(small.config.gate, smoothing_passes=3))
    theirs = BundleConfig(denoiser=wider, diffusion=DiffusionConfig(rho=4.0), uncertainty_scale=2.5)
    save_bundle(tmp_path / "start", theirs, small.state_dict(), {})
    more = "[model]\ndata_consistency = false\n[model.denoiser.gate]\ntop_k = 1\n"
    text = f'start = "start"\n{more}[[scans]]\npath = "head_T1w.nii.gz"\n'
    config = load_config(written(tmp_path, one=text))
    assert config.model.denoiser == replace(wider, gate=replace(wider.gate, top_k=1))
    assert (
        config.model.diffusion == theirs.diffusion
        and config.model.uncertainty_scale == BundleConfig().uncertainty_scale
    )
    stages = f'{more}[[stages]]\nname = "first"\nstart = "start"\n'
    (stage,) = load_recipe(written(tmp_path, one=stages)).stages
    assert stage.config.model == config.model
    (tmp_path / "start" / MANIFEST).write_text("{}")
    with pytest.raises(ConfigError, match="start: expected a bundle of schema"):
        load_config(written(tmp_path, one=text))
