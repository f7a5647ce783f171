"What several layers share: a stub model that loads and trains in moments, and a start-checkpoint cache of the tests' own."
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from casm.language import cache_folder, found, got, model_path

SHARED = Path(__file__).parents[2] / "shared" / "data"
MODEL = found("smollm2")  # in the user's own cache, before the tests' takes its place


@pytest.fixture(scope="session")
def shared():
    "Folder of the public files; with CI=true a test without them fails"
    if not SHARED.is_dir() and os.environ.get("CI") != "true": pytest.skip(f"{SHARED} is not here: no comparison with the public files")
    return SHARED


@pytest.fixture
def interrupting(monkeypatch):
    "`interrupting(n)` has every n-th step or evaluation of `run` end in Ctrl-C"
    def start(every):
        from casm import experiments, trainer
        count = 0
        def tick():
            nonlocal count
            count += 1
            if count % every == 3: raise KeyboardInterrupt
        def evaluate(*a, f=experiments.evaluate): return tick() or f(*a)
        def steps_of(*a, f=trainer.steps_of):
            for step in f(*a): yield step; tick()
        monkeypatch.setattr(experiments, "evaluate", evaluate)
        monkeypatch.setattr(trainer, "steps_of", steps_of)
    return start


def shorten(monkeypatch):
    "Token training, token statistics and short answers: what is learnt is nonsense, how it is stored and asked is real"
    from casm import baselines, experiments, methods, pretraining
    texts = pretraining.world_texts
    monkeypatch.setattr(pretraining, "world_texts", lambda world, n, seed=0: texts(world, 64, seed))
    for module in (methods, baselines): monkeypatch.setattr(module, "generate", partial(module.generate, max_new_tokens=4))
    monkeypatch.setattr(experiments, "background_probes", partial(experiments.background_probes, n=4))
    monkeypatch.setattr(experiments, "pretrain_period_one", partial(pretraining.pretrain_period_one, epochs=1, min_steps=2))
    for name, (settings, config) in experiments.RECIPES.items():
        fewer = {k: n for k, n in {"rows": 16, "exercises": 16}.items() if k in settings}
        recipe = settings | fewer, replace(config, epochs=1, min_steps=2, batch_size=8, per_fact=4, weight_decay=.1)
        monkeypatch.setitem(experiments.RECIPES, name, recipe)


@pytest.fixture
def quick(monkeypatch): shorten(monkeypatch)


@pytest.fixture(scope="module")
def quick_module():
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    "`CASM_CACHE`, for this process and its children"
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CASM_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def smollm2(cache):
    "Folder of the model that `casm get smollm2` brought, which has its name in the tests' cache too; else the test is skipped"
    if MODEL is None and got("smollm2") is None: pytest.skip("needs casm get smollm2")
    link = cache_folder() / MODEL.name
    if not link.exists(): link.symlink_to(MODEL)
    return model_path("smollm2")


@pytest.fixture(scope="session")
def stub(tmp_path_factory, cache):
    "Folder of an untrained model like the tiny one, with a memory of 256 rows"
    from casm.pretraining import LM, background_stats, background_world, new_tiny, save_lm, train_tokenizer, world_texts
    texts = world_texts(background_world(60), 400)
    tokenizer = train_tokenizer(texts, 400)
    model = new_tiny(len(tokenizer), n_keys=16)
    stats = background_stats(model, tokenizer, texts[:64], progress=None)
    return str(save_lm(LM(model, tokenizer, stats, "stub"), tmp_path_factory.mktemp("stub")))


@pytest.fixture(scope="session")
def started(stub):
    "`started(benchmark)` puts the stub's start checkpoint for it into the cache, where other processes find it"
    def start(benchmark):
        from casm import experiments
        with pytest.MonkeyPatch.context() as patch:
            shorten(patch)
            experiments.start_checkpoint(benchmark, 0, stub)
    return start
