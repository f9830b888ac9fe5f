"""Methods by name, folder and command, and their identities."""

import json
import shutil
from pathlib import Path

import pytest

from moediff.benchmark.methods import parse_methods
from moediff.core.errors import BundleError, ConfigError


def test_the_baselines_are_always_there_and_order_stays():
    assert [m.name for m in parse_methods(["tv", "cubic"])] == ["zero-fill", "tv", "cubic"]
    assert [m.kind for m in parse_methods(["faithful"])] == ["interpolation", "interpolation", "bundle"]


def test_the_embedded_bundle_is_identified_by_its_mode():
    faithful, detail = parse_methods(["faithful", "detail"])[-2:]
    assert faithful.bundle is None and len(faithful.bundle_sha256) == 64
    assert (faithful.mode, detail.mode) == ("faithful", "detail") and faithful.identity != detail.identity


def test_other_settings_beside_the_same_weights_are_another_method(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    manifest["config"]["denoiser"]["gate"]["threshold"] = 0.2
    (tmp_path / "b" / "bundle.json").write_text(json.dumps(manifest))
    one, other = (parse_methods([f"mine={folder}"])[-1] for folder in (bundle, tmp_path / "b"))
    assert one.identity != other.identity


def test_a_moved_bundle_is_the_same_method(bundle, tmp_path):
    shutil.copytree(bundle, tmp_path / "b")
    one, other = (parse_methods([f"mine={folder}"])[-1] for folder in (bundle, tmp_path / "b"))
    assert one.bundle != other.bundle and one.identity == other.identity


def test_a_command_is_split_once_and_names_with_spaces_stay_whole():
    method = parse_methods(["x='my tool' --in={input} {output} --note '$HOME; rm'"])[-1]
    words = method.words(Path("a folder/{output}.nii.gz"), Path("out.nii.gz"))
    assert words[0] == "my tool" and words[2:] == ["out.nii.gz", "--note", "$HOME; rm"]
    assert words[1] == "--in=a folder/{output}.nii.gz"


@pytest.mark.parametrize(
    ("specs", "words"),
    [
        (["best"], "choose from linear, cubic"),
        (["tv", "tv"], "two methods are called 'tv'"),
        (["tv=cp {input} {output}"], "not built in"),
        (["=cp {input} {output}"], "expected NAME"),
        (["x=cp {input}"], "has no {output}"),
        (["x=cp '{input} {output}"], "split into words"),
    ],
)
def test_impossible_methods_are_refused(specs, words):
    with pytest.raises(ConfigError, match=words.replace("{", r"\{")):
        parse_methods(specs)


def test_a_folder_without_a_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no model bundle here"):
        parse_methods([f"x={tmp_path}"])


def test_uniform_needs_a_folder(bundle):
    with pytest.raises(ConfigError, match=r"no uniform denoiser is shipped.* uniform=FOLDER"):
        parse_methods(["uniform"])
    assert parse_methods([f"uniform={bundle}"])[-1].bundle == bundle
