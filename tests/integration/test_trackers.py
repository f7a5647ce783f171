"""TensorBoard and Weights & Biases, the packages themselves and offline: what they draw is what was trained, in the run's own folder."""
import pytest
from accelerate.tracking import WandBTracker

from casm import trainer
from casm.benchmark import generate
from casm.checkpoint import RunFolder
from casm.methods import Item, make_method
from casm.pretraining import load_lm


@pytest.fixture
def losses(stub, tmp_path, monkeypatch):
    "`losses(tracker)` trains six steps and gives their losses"
    def train(tracker):
        bench, seen = generate(6, seed=5, periods=("2018", "2020")), []
        lm = load_lm(stub)
        lm.facts = tuple(bench.facts("2018"))
        def step(job, *a, f=trainer.take_step): f(job, *a), seen.append(job.loss)
        monkeypatch.setattr(trainer, "take_step", step)
        stream = [("2020", [Item(p.text, p.fact, p.date) for p in bench.passages(bench.facts("2020"))])]
        trainer.train(make_method("casm", rows=16), lm, stream, trainer.TrainConfig(epochs=1, min_steps=6, batch_size=7, tracker=tracker), RunFolder(tmp_path / "run", {}))
        return seen
    return train


def test_tensorboard(losses, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    seen = losses("tensorboard")
    drawn = EventAccumulator(str(tmp_path / "run" / "casm"))
    drawn.Reload()
    assert [(s.step, s.value) for s in drawn.Scalars("loss")] == [(i + 1, pytest.approx(x)) for i, x in enumerate(seen)] and len(seen) >= 6
    assert all(s.value > 0 for s in drawn.Scalars("lr"))


def test_wandb(losses, tmp_path, monkeypatch):
    for k, v in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CONFIG_DIR": str(tmp_path), "WANDB_CACHE_DIR": str(tmp_path)}.items(): monkeypatch.setenv(k, v)
    last = {}
    def finish(tracker, f=WandBTracker.finish): last.update(tracker.run.summary), f(tracker)
    monkeypatch.setattr(WandBTracker, "finish", finish)
    seen = losses("wandb")
    assert (last["loss"], last["_step"]) == (pytest.approx(seen[-2]), len(seen) - 1) and len(seen) >= 6      # the last step is written when it is finished
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
