"""The ablation: equal shares for every network, runs that go on after a move, and tables that say what was measured."""

from __future__ import annotations

import argparse
import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from moediff.anatomy.regions import REGIONS
from moediff.training.config import load_config

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def scripts(monkeypatch) -> SimpleNamespace:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    names = ("ablation", "ablation_training", "ablation_tables")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


@pytest.fixture
def args(tmp_path) -> argparse.Namespace:
    return argparse.Namespace(data=tmp_path / "data", out=tmp_path / "runs", minutes=8.0)


def written(training: ModuleType, design, args: argparse.Namespace):
    out = training.folder("one", 0, args)
    out.mkdir(parents=True, exist_ok=True)
    (out / "train.toml").write_text(training.settings(design, 0, args, out), encoding="utf-8")
    return load_config(out / "train.toml")


def test_every_design_is_trained_alike_but_for_what_it_is_about(scripts, args):
    plans = {**scripts.ablation.plan(), **scripts.ablation.TEACHERS, **scripts.ablation.DESIGNS}
    configs = {name: written(scripts.ablation_training, design, args) for name, design in plans.items()}
    alike = {(c.minutes, c.clock, c.batch, c.patch, c.ema, len(c.scans), c.recipes) for c in configs.values()}
    assert len(alike) == 1
    assert alike.pop()[:3] == (4.0, "cpu", 8)
    for name, config in configs.items():
        assert config.model.denoiser == plans[name].network
        assert (config.start is None) == (plans[name].after is None)


def test_what_a_search_varies_reaches_the_training(scripts, args):
    search = scripts.ablation.SEARCH
    found = {name: written(scripts.ablation_training, design, args) for name, design in search.items()}
    assert found["with gradient term"].loss.gradient == 1.0
    assert found["average over 200 steps"].ema == 0.995
    assert found["share at sigma_max 0.7"].model.process.share_at_max == 0.7
    assert all("labels/" in scan.path for scan in found["half from label maps"].scans)
    assert len(found["half from two persons"].scans) == 2 + scripts.ablation_training.LABEL_MAPS


def test_both_rivals_are_as_large_as_they_are_said_to_be(scripts):
    plan, parameters = scripts.ablation.plan(), scripts.ablation_training.parameters
    ours = parameters(plan["experts"])
    assert parameters(plan["equal parameters"]) == pytest.approx(ours, rel=0.01)
    assert parameters(plan["equal compute"]) < 0.9 * ours
    assert plan["equal compute"].width == plan["experts"].width and plan["equal compute"].after == plan["experts"].after


def test_a_moved_checkout_goes_on_and_other_settings_are_refused(scripts, args, tmp_path, monkeypatch):
    """A network that is done is not trained again, unless it was told something else."""
    training = scripts.ablation_training
    monkeypatch.setattr(training.subprocess, "run", lambda *_, **__: pytest.fail("trained again"))
    design = training.uniform(64)
    out = training.folder("one", 0, args)
    written(training, design, args)
    (out / "done").touch()
    assert training.trained("one", design, 0, args) == out / "bundle"
    with pytest.raises(SystemExit, match="other settings"):
        training.trained("one", replace(design, rate=1e-3), 0, args)
    monkeypatch.setattr(training, "sources", lambda _: [])
    texts = set()
    for root in (tmp_path / "here", tmp_path / "far" / "there"):
        monkeypatch.setattr(training, "BASE", root / "configs" / "uniform.toml")
        moved = argparse.Namespace(data=root / "data", out=root / "runs", minutes=8.0)
        texts.add(training.settings(replace(design, after="half"), 0, moved, training.folder("one", 0, moved)))
    assert len(texts) == 1


def test_half_a_training_is_not_resumed_with_other_settings(scripts, args, monkeypatch):
    """It would go on from the old settings' checkpoint and be told as a training with the new ones."""
    training, calls = scripts.ablation_training, []
    monkeypatch.setattr(training.subprocess, "run", lambda command, **_: calls.append(command))
    design, out = training.uniform(64), training.folder("one", 0, args)
    written(training, design, args)
    training.trained("one", replace(design, rate=1e-3), 0, args)  # nothing was learned before: begun anew
    (out / "done").unlink()
    (out / "checkpoint").mkdir()
    before = (out / "train.toml").read_text()
    with pytest.raises(SystemExit, match="other settings"):
        training.trained("one", design, 0, args)
    assert len(calls) == 1 and (out / "train.toml").read_text() == before
    training.trained("one", replace(design, rate=1e-3), 0, args)
    assert len(calls) == 2 and (out / "done").is_file()


def result(name: str, seed: int, psnr: float, us: float = 1.0) -> dict:
    rows = [
        {"case": "val", "recipe": "thick5", "psnr": psnr, "ssim": 0.8, "haarpsi": 0.7},
        {
            "case": "labels",
            "recipe": "thick5",
            "psnr": 99.0,
            "ssim": 0.8,
            "haarpsi": 0.7,
            "regions": {region: psnr + k for k, region in enumerate(REGIONS)},
            "auc": 0.6,
            "load": [0.1, 0.2, 0.3, 0.4],
        },
    ]
    cost = {"parameters": 1e6, "kflop": 48.0, "us": us, "steps": 10}
    return {"network": name, "seed": seed, "rows": rows, **cost}


def test_gaps_are_paired_by_seed_and_leave_cases_out_that_are_not_asked_for(scripts):
    tables = scripts.ablation_tables
    found = [result("experts", 0, 26.0), result("experts", 1, 27.0), result("equal compute", 1, 26.5)]
    gaps = tables.gaps(found, "equal compute", ("val",))
    assert gaps["psnr"] == [0.5] and gaps["cortex"] == [0.5]
    assert tables.told([0.5, -0.1], 2) == "+0.20 (+0.50, -0.10)"
    assert tables.gate(found[0]) == (0.6, 0.1, 0.4)


def test_tables_and_figure_are_written(scripts, tmp_path):
    names = ("experts half", "experts", "equal compute", "equal parameters", "no teacher")
    found = [result(name, seed, 26 + k / 10, 1.0 + k) for k, name in enumerate(names) for seed in (0, 1)]
    (tmp_path / "results.json").write_text(json.dumps(found))
    text = scripts.ablation_tables.write(tmp_path, ("val",), ("experts", "no teacher"), ())
    assert (tmp_path / "ablation.md").read_text() == text and (tmp_path / "ablation.png").stat().st_size > 5000
    assert "| experts minus equal compute | -0.10 (-0.10, -0.10) |" in text  # 26.1 against 26.2
    assert "| no teacher | 0.60 | 0.10-0.40 | 26.40 |" in text
