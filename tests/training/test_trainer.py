"""The schedule, steps that must change nothing, and stopping without loss."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moediff.acquisition.recipe import NAMED
from moediff.core.config import rng_for
from moediff.core.errors import ConfigError, DataError, InputMissing, MoeDiffError, MoeDiffWarning
from moediff.core.volume import Volume
from moediff.diffusion.schedule import DiffusionConfig
from moediff.io.atomic import name_hash
from moediff.io.scans import save
from moediff.model.bundle import MANIFEST, BundleConfig, load_bundle
from moediff.model.config import BackboneConfig, DenoiserConfig, EncoderConfig, ExpertsConfig
from moediff.training.cache import ScanSource, TrainingScan
from moediff.training.checkpoint import STATE
from moediff.training.config import Phase, TrainConfig
from moediff.training.gate_step import shift_consistency
from moediff.training.losses import LossConfig
from moediff.training.patches import Batch, Example, PatchSource
from moediff.training.provenance import stage_records
from moediff.training.trainer import MAX_BAD_STEPS, RunOptions, Trainer, _processes_for, check_processes, train
from moediff.training.validate import Validation

QUIET = RunOptions(progress=False)
TINY = BundleConfig(
    denoiser=DenoiserConfig(
        embedding_width=8,
        backbone=BackboneConfig(width=8, bottleneck_width=8, blocks_bottleneck=1),
        encoder=EncoderConfig(width=16, attention_heads=2),
        experts=ExpertsConfig(width=8),
    )
)


def batch_of(value: float) -> Batch:
    """One patch whose truth is off the base by this much."""
    data = torch.rand(52, 52, 52, generator=rng_for(0))
    head = TrainingScan(data.half(), torch.tensor([[26, 26, 26]]), 1.0, None, 1.0)
    source = PatchSource(scans=[head], patch=32, seed=0, settings=TINY.prepare, recipe=NAMED["thick3"])
    batch = source.batch(0, 1)
    noise = torch.randn(batch.interpolated_BXYZ.shape, generator=rng_for(1))
    return replace(batch, truth_BXYZ=batch.interpolated_BXYZ + value * noise)


@pytest.fixture
def config(tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        out=str(tmp_path / "run"),
        model=TINY,
        steps=40,
        warmup_steps=4,
        learning_rate=0.1,
        batch=1,
        patch=32,
        device="cpu",
    )


def weights(trainer: Trainer) -> list[Tensor]:
    """Live and averaged weights."""
    parts = (trainer.state.denoiser, trainer.state.average)
    return [value.clone() for part in parts for value in part.state_dict().values()]


def equal(one: list[Tensor], two: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(
    ("threads", "batch", "expected"), [(1, 8, 1), (2, 8, 2), (3, 8, 2), (4, 6, 3), (99, 16, 8), (None, 8, 8)]
)
def test_a_limit_of_threads_limits_the_processes(threads, batch, expected, config, monkeypatch):
    monkeypatch.setattr("moediff.training.trainer.os.cpu_count", lambda: 8)
    assert _processes_for(replace(config, batch=batch), threads) == expected


def test_progress_follows_steps(config):
    trainer = Trainer(config)
    shares = []
    for trainer.state.step in (0, 10, 40, 50):
        trainer.state.seconds = 1e6  # without a budget the clock does not matter
        shares.append(trainer.progress())
    assert shares == [0, 0.25, 1, 1]


def test_progress_follows_the_clock_where_that_is_further(config):
    trainer = Trainer(replace(config, minutes=2.0))
    for step, seconds, share in ((0, 0.0, 0), (10, 0.0, 0.25), (10, 60.0, 0.5), (30, 60.0, 0.75), (10, 150.0, 1)):
        trainer.state.step, trainer.state.seconds = step, seconds
        assert trainer.progress() == share


def test_the_rate_rises_then_falls_along_half_a_cosine(config):
    trainer = Trainer(config)
    for step, rate in (
        (0, 0.1 / 4),
        (1, 0.05 * 0.5 * (1 + math.cos(math.pi / 40))),
        (20, 0.05),
        (30, 0.05 * (1 - math.sqrt(0.5))),
    ):
        trainer.state.step = step
        trainer.step(batch_of(0.05))
        assert trainer.state.optimiser.param_groups[0]["lr"] == pytest.approx(rate)


def test_stages_can_share_one_fall_of_the_rate(config):
    trainer = Trainer(replace(config, cosine=(0.5, 1.0), warmup_steps=0))
    for step, share in ((0, 0.5), (20, 0.75), (39, 0.5 + 0.5 * 39 / 40)):
        trainer.state.step = step
        assert trainer.learning_rate() == pytest.approx(0.1 * 0.5 * (1 + math.cos(math.pi * share)))


def test_parts_of_a_batch_make_up_the_whole():
    one, two = batch_of(0.05), batch_of(0.02)
    tensors = [torch.cat(pair) for pair in zip(one.tensors(), two.tensors(), strict=True)]
    truth, lesion, interpolated, neighbours, noise, region, sampled, x, y, z = tensors
    whole = Batch(truth, lesion, interpolated, neighbours, (x, y, z), noise, region, sampled)
    for part, alone in zip(whole.parts(2), (one, two), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(part.tensors(), alone.tensors(), strict=True))


@pytest.mark.parametrize(("shares", "processes", "words"), [(3, 0, "divide every batch"), (4, 3, "must divide shares")])
def test_shares_that_do_not_fit_are_refused(shares, processes, words, config):
    with pytest.raises(ConfigError, match=words):
        train(replace(config, batch=12 if processes else 4, shares=shares), RunOptions(processes=processes))


def test_a_step_is_keyed_by_its_number(config):
    results, noisy = (
        [],
        replace(TINY, diffusion=DiffusionConfig(probability_sigma_max=0.0)),
    )  # there is no noise at sigma_max
    for step in (0, 0, 1):
        trainer = Trainer(replace(config, model=noisy, warmup_steps=0, steps=10**9))  # the same rate at every step
        trainer.state.step = step
        trainer.step(batch_of(0.05))
        results.append(weights(trainer)[: len(trainer.state.denoiser.state_dict())])
    assert equal(results[0], results[1]) and not equal(results[0], results[2])


def test_a_step_moves_the_average_part_of_the_way(config):
    trainer = Trainer(config)
    before = {name: value.clone() for name, value in trainer.state.average.named_parameters()}
    parts = trainer.step(batch_of(0.05))
    assert math.isfinite(parts["loss"])
    live = dict(trainer.state.denoiser.named_parameters())
    assert any(not torch.equal(live[name], value) for name, value in before.items())
    for name, mean in trainer.state.average.named_parameters():  # at first the decay is 1 / 10
        torch.testing.assert_close(mean, before[name].lerp(live[name], 0.9))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.fault(50)
def test_a_loss_that_is_not_finite_changes_nothing(config, value):
    trainer = Trainer(config)
    trainer.step(batch_of(0.05))  # so that the optimiser has moments to spoil
    trainer.state.step = 1
    before = weights(trainer)
    moments = [value.clone() for state in trainer.state.optimiser.state.values() for value in state.values()]
    assert math.isnan(trainer.step(batch_of(value))["loss"])
    assert equal(weights(trainer), before)
    assert equal([value for state in trainer.state.optimiser.state.values() for value in state.values()], moments)
    assert math.isfinite(trainer.step(batch_of(0.05))["loss"]) and not equal(weights(trainer), before)


class Repeating:
    """Hands out one batch for ever, and counts."""

    def __init__(self, batch: Batch) -> None:
        self.given, self.asked = batch, 0

    def batch(self, step: int) -> Batch:
        self.asked += 1
        return self.given


class Silent:
    """A log that keeps nothing."""

    def step(self, *_: object) -> None: ...


@pytest.mark.fault(50)
def test_training_gives_up_on_a_loss_that_stays_not_finite(config):
    source, trainer = Repeating(batch_of(0.05)), Trainer(replace(config, steps=1000))
    trainer.step = lambda batch: {"loss": 1.0 if source.asked == 3 else math.nan}  # type: ignore[method-assign]
    with pytest.raises(MoeDiffError, match=f"not finite for {MAX_BAD_STEPS} steps; lower `learning_rate`"):
        trainer._loop(source, Silent())  # type: ignore[arg-type]
    assert source.asked == 3 + MAX_BAD_STEPS  # one good step in between starts the count again


def test_a_folder_with_a_run_is_not_overwritten(config):
    Trainer(config)._save()
    with pytest.raises(ConfigError, match="holds a run already; add --resume"):
        Trainer(config, QUIET).run()


@pytest.mark.fault(46)
def test_a_run_killed_in_its_first_save_begins_again(config, tmp_path):
    """A checkpoint's folder without the file: the same command, with --resume or not, trains from the start."""
    save(Volume(torch.rand(44, 44, 44, generator=rng_for(0)) + 0.2, torch.eye(4)), tmp_path / "scan.nii.gz")
    listed = replace(config, data=str(tmp_path), scans=(ScanSource(path="scan.nii.gz"),), steps=1)
    for resume in (True, False):
        run = replace(listed, out=str(tmp_path / f"resumed {resume}"))
        left = Path(run.out) / "checkpoint" / f".moediff-{name_hash(Path(STATE))}-12.tmp"
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half of it")
        train(run, RunOptions(processes=1, resume=resume, progress=False))
        assert [path.name for path in left.parent.iterdir()] == ["state.safetensors"]
        provenance = load_bundle(Path(run.out) / "bundle").provenance
        (session,) = stage_records(provenance)[-1].sessions
        assert provenance["steps"] == 1 and (session.step, session.precision) == (0, "float32")


def test_what_cannot_be_validated_loses_no_step(config, monkeypatch):
    """The checkpoint comes before the validation that fails."""

    def broken(*_: object) -> dict[str, float]:
        raise DataError("the scan is damaged")

    monkeypatch.setattr("moediff.training.trainer.validate", broken)
    trainer, again = Trainer(config), Trainer(config)
    trainer.step(batch_of(0.05))
    trainer.state.step = 7
    with pytest.raises(DataError, match="damaged"):
        trainer._save(Silent())  # type: ignore[arg-type]
    again._restore()
    assert again.state.step == 7 and equal(weights(again), weights(trainer))


def test_the_bundle_names_what_it_began_from(config, tmp_path):
    first = Trainer(replace(config, provenance={"name": "parent"}))
    first._save()
    parent = load_bundle(tmp_path / "run" / "bundle")
    child = Trainer(replace(config, out=str(tmp_path / "child"), start=str(tmp_path / "run" / "bundle")))
    assert equal(weights(child), weights(first))
    child._save()
    told = load_bundle(tmp_path / "child" / "bundle").provenance["started_from"]
    assert told == {"name": "parent", "steps": 0, "hours": 0.0, "sha256": parent.sha256}


def test_only_the_parts_named_learn(config):
    trainer = Trainer(replace(config, only=("uncertainty_head",)))
    before = {name: value.clone() for name, value in trainer.state.denoiser.named_parameters()}
    trainer.step(batch_of(0.05))
    moved = {name for name, value in trainer.state.denoiser.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("uncertainty_head.") for name in moved)
    with pytest.raises(ConfigError, match=r"only=\['eror'\]: the network has the parts encoder, gate"):
        Trainer(replace(config, only=("eror",)))


def test_former_names_of_parts_are_read_with_a_warning(config):
    with pytest.warns(MoeDiffWarning, match=r"only=\['trunk'\] is now only=\['backbone'\]"):
        denoiser = Trainer(replace(config, only=("trunk", "gate"))).state.denoiser
    assert {name for name, part in denoiser.named_children() if all(p.requires_grad for p in part.parameters())} == {
        "backbone",
        "gate",
    }


def test_the_best_bundle_is_kept(config, monkeypatch):
    class Deaf(Silent):
        def validation(self, *_: object) -> None: ...

    gains = iter([1.0, 3.0, 2.0])
    monkeypatch.setattr("moediff.training.trainer.validate", lambda *_: {"a/iso2": 9.0, "mean/iso2": next(gains)})
    trainer, out = Trainer(config), Path(config.out)
    for trainer.state.step in (10, 20, 30):
        trainer._save(Deaf())  # type: ignore[arg-type]
    best = load_bundle(out / "best").provenance
    assert best["steps"] == 20 and best["validation_gain_db"] == {"mean/iso2": 3.0}
    assert load_bundle(out / "bundle").provenance["steps"] == 30
    again = Trainer(config)
    again._restore()
    assert again.state.best == 3.0


def test_a_batch_must_be_shared_out_evenly(config):
    with pytest.raises(ConfigError, match="batch=3 must be a multiple of the 2 processes"):
        train(replace(config, batch=3), RunOptions(processes=2))


def test_what_cannot_begin_is_refused_before_any_process_starts(config, monkeypatch):
    monkeypatch.setattr("moediff.training.trainer.run_together", lambda *_: pytest.fail("started"))
    with pytest.raises(ConfigError, match="-2 processes cannot train"):
        train(config, RunOptions(processes=-2))
    with pytest.raises(ConfigError, match="no training scans are listed"):
        train(replace(config, scans=()), QUIET)
    listed = replace(config, scans=(ScanSource(path="a.nii.gz"),), validation=Validation(scans=("b.nii.gz",)))
    with pytest.raises(InputMissing, match=r"b\.nii\.gz: no such scan to validate on"):
        train(listed, QUIET)


@pytest.mark.parametrize("device", ["nonsense", "cuda:", "cuda:one", "cpu:1", "cuda:1 "])
def test_a_device_that_cannot_be_chosen_is_refused(config, device):
    with pytest.raises(ConfigError, match="must be 'auto', 'cpu', 'cuda' or 'cuda:N'"):
        replace(config, device=device)


def test_one_gpu_of_several_is_for_one_process(config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = replace(config, batch=2)
    assert _processes_for(replace(config, device="cuda")) == 2
    assert _processes_for(replace(config, device="cuda:1")) == 1
    check_processes(replace(config, device="cuda:1"), 1)
    with pytest.raises(ConfigError, match=r"device='cuda:1' is one GPU, which 2 processes cannot share: choose one"):
        check_processes(replace(config, device="cuda:1"), 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_here_is_not_replaced_by_the_cpu(config):
    with pytest.raises(ConfigError, match="device 'cuda' is not here"):
        Trainer(replace(config, device="cuda"))


def test_no_example_comes_twice_when_batches_shrink(config):
    """Two phases of one patch: what a step draws in the second has not been drawn in the first."""
    phases = (Phase(until=0.5, batch=4, patch=32), Phase(until=1, batch=2, patch=32))
    largest = max(phase.batch for phase in replace(config, phases=phases).parts())
    seen: list[int] = []

    class Counting(PatchSource):
        def example(self, number: int) -> Example:
            seen.append(number)
            return super().example(number)

    data = torch.rand(52, 52, 52, generator=rng_for(0)).half()
    head = TrainingScan(data, torch.tensor([[26, 26, 26]]), 1.0, None, 1.0)
    for rank in range(2):
        source = Counting(
            scans=[head], patch=32, seed=0, settings=TINY.prepare, largest=largest, rank=rank, of=2, augment=None
        )
        for step, batch in ((0, 4), (1, 4), (2, 2), (3, 2)):
            source.batch(step, batch)
    assert sorted(seen) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13]


def test_a_step_without_probing_learns_from_the_aggregate_and_names_no_agreement(config):
    trainer = Trainer(replace(config, loss=LossConfig(expert_loss_interval=2)))
    first = trainer.step(batch_of(0.05))
    before = weights(trainer)
    trainer.state.step = 1
    second = trainer.step(batch_of(0.05))
    assert math.isfinite(first["agreement"]) and math.isnan(second["agreement"])
    assert math.isfinite(second["loss"]) and first.keys() == second.keys()
    assert not equal(before, weights(trainer))


def test_a_steady_gate_is_a_term_of_its_own_and_teaches_encoder_and_gate(config):
    only = dict.fromkeys(("expert", "region", "agreement", "balance", "error"), 0.0)
    steady, plain = (
        Trainer(replace(config, loss=LossConfig(**only, shift_consistency=weight))) for weight in (1.0, 0.0)
    )
    found = [trainer.step(batch_of(0.05)) for trainer in (steady, plain)]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"] + found[0]["shift_consistency"], rel=1e-4)
    assert "shift_consistency" not in found[1] and 0 < found[0]["shift_consistency"] <= 30
    denoiser, base = plain.state.denoiser, batch_of(0.05).interpolated_BXYZ
    denoiser.zero_grad()
    shift_consistency(denoiser, base, denoiser.gate_logits(base)[1], rng_for(0)).backward()
    taught = {name.split(".")[0] for name, p in denoiser.named_parameters() if p.grad is not None and p.grad.any()}
    assert taught == {"encoder", "gate"}


def test_precision_reaches_the_layers_and_leaves_the_weights(config, monkeypatch):
    seen, results = [], []
    monkeypatch.setattr("moediff.training.trainer.has_fast_bfloat16", lambda device: device.type == "cpu")
    for precision in ("auto", "float32", "bfloat16", "fast"):
        trainer = Trainer(replace(config, precision=precision))
        look = trainer.state.denoiser.backbone.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
        assert math.isfinite(trainer.step(batch_of(0.05))["loss"])
        look.remove()
        assert all(value.dtype == torch.float32 for value in weights(trainer))
        results.append(weights(trainer))
    assert seen == [torch.float32, torch.float32, torch.bfloat16, torch.bfloat16]
    assert equal(results[0], results[1]) and not equal(results[1], results[2]) and equal(results[2], results[3])


def test_what_no_run_has_made_is_not_replaced(config):
    out = Path(config.out)
    (out / "best").mkdir(parents=True)
    (out / "best" / "photo.txt").write_text("mine")
    (out / "losses.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ConfigError, match=r"holds best, losses\.csv of no run there"):
        Trainer(config, QUIET).run()
    assert (out / "best" / "photo.txt").read_text() == "mine" and (out / "losses.csv").read_text() == "a,b\n1,2\n"


def test_a_checkpoint_of_another_network_is_told(config):
    Trainer(config)._save()
    wider = replace(TINY, denoiser=replace(TINY.denoiser, embedding_width=16))
    with pytest.raises(ConfigError, match="another network"):
        Trainer(replace(config, model=wider))._restore()
    state = Path(config.out) / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="damaged"):
        Trainer(config)._restore()


def restarted(config: TrainConfig, step: int) -> Trainer:
    """A run of which the bundle of this step is left, and nothing else; resumed."""
    first, out = Trainer(config), Path(config.out)
    first.step(batch_of(0.05))
    first.state.step, first.state.seconds, first.state.sessions = step, 12.5, (first._session(),)
    first._save()
    for path in (out / "checkpoint").iterdir():
        path.unlink()
    again = Trainer(config, RunOptions(resume=True, progress=False))
    again._restart(out / "bundle")
    assert equal(weights(again)[: len(weights(again)) // 2], list(first.state.average.state_dict().values()))
    return again


def test_a_lost_checkpoint_goes_on_at_the_bundles_place_and_warms_up_again(config):
    trainer = restarted(config, 20)
    assert (trainer.state.step, trainer.state.seconds) == (20, 12.5)
    (restart,) = trainer.state.restarts
    assert (restart.step, restart.seconds) == (20, 12.5)
    for step, share in ((20, 1 / 4), (21, 2 / 4), (23, 1), (30, 1)):
        trainer.state.step = step
        trainer.step(batch_of(0.05))
        expected = 0.1 * share * 0.5 * (1 + math.cos(math.pi * step / 40))
        assert trainer.state.optimiser.param_groups[0]["lr"] == pytest.approx(expected)


@pytest.mark.parametrize("rounded_from", ["", "ab" * 32])
def test_progress_from_elsewhere_goes_over_an_older_checkpoint(config, rounded_from):
    """A bundle that is only further was saved by a run killed before its checkpoint, which goes on exactly."""
    trainer, out = Trainer(config), Path(config.out)
    trainer.state.step = 10
    trainer._save()
    trainer.state.step = 20
    trainer._save_bundle("bundle", trainer._provenance())
    manifest = json.loads((out / "bundle" / MANIFEST).read_text())
    manifest["provenance"]["stages"][-1]["rounded_from"] = rounded_from
    (out / "bundle" / MANIFEST).write_text(json.dumps(manifest))
    again = Trainer(config, replace(QUIET, resume=True))
    again._begin()
    assert again.state.step == (20 if rounded_from else 10)
    assert [restart.step for restart in again.state.restarts] == [20] * bool(rounded_from)
    again.state.step = 25
    again._save_bundle("bundle", again._provenance())  # and killed
    third = Trainer(config, replace(QUIET, resume=True))
    third._begin()
    assert third.state.step == (25 if rounded_from else 10)


def test_a_restart_is_remembered_by_checkpoints_and_bundles(config):
    trainer = restarted(config, 20)
    trainer.state.step = 25
    trainer._save()
    again = Trainer(config)
    again._restore()
    assert again.state.restarts == trainer.state.restarts and again.state.step == 25
    assert [session.step for session in again.state.sessions] == [0]
    (record,) = stage_records(load_bundle(Path(config.out) / "bundle").provenance)
    assert record.restarts == trainer.state.restarts and record.steps == 25 and not record.finished


def test_a_bundle_of_another_network_is_no_place_to_go_on_from(config):
    Trainer(config)._save()
    wider = replace(
        TINY,
        denoiser=replace(TINY.denoiser, backbone=BackboneConfig(width=16, bottleneck_width=8, blocks_bottleneck=1)),
    )
    with pytest.raises(ConfigError, match="a run of another network"):
        Trainer(replace(config, model=wider))._restart(Path(config.out) / "bundle")


def test_a_run_of_its_own_is_one_stage_after_those_of_its_start(config, tmp_path):
    Trainer(replace(config, provenance={"name": "first"}))._save()
    start = str(tmp_path / "run" / "bundle")
    Trainer(replace(config, out=str(tmp_path / "child"), start=start, provenance={"name": "second"}))._save()
    provenance = load_bundle(tmp_path / "child" / "bundle").provenance
    first, second = stage_records(provenance)
    assert (first.name, second.name) == ("first", "second")
    assert second.parent_sha256 == (load_bundle(start).sha256,) and second.torch == torch.__version__
    assert provenance["steps"] == 0 and provenance["training"]["learning_rate"] == 0.1
