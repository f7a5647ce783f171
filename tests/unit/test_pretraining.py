"Warming up a fresh memory: the backbone stays as it is to the bit, held-out texts stay unseen, and what goes wrong leaves no trace."
import copy, math, random

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from casm import pretraining
from casm.adapter import add_slots, attach, detach, fingerprints, memory_of
from casm.memory import MemoryConfig, SparseMemory, lookup_hash, memory_hash
from casm.pretraining import (LM, background_stats, background_world, cut, each_forward, empty_stats, fit_memory, load_lm, make_batch, perplexity, sample_world, save_lm, save_whole,
                              text_losses, train_steps, train_tokenizer, warmup, world_texts)
from casm.ranker import BackgroundStats

TEXTS = world_texts(background_world(30), 200)
TOKENIZER = train_tokenizer(TEXTS, 400)
SHAPES = {
    "add": {"layers": (1,)}, "replace": {"layers": (1,), "placement": "replace"}, "shared": {"layers": (0, 2)},
    "separate": {"layers": (0, 2), "share_values": False}, "both replaced": {"layers": (0, 1), "placement": "replace", "share_values": False},
}
each_shape = pytest.mark.parametrize("shape", SHAPES)


def config(**more): return MemoryConfig(32, n_keys=32, heads=2, top_k=4, key_dim=16, **more)
def warmed(model, texts=TEXTS, c=None, **more): return warmup(model, TOKENIZER, texts, c or config(), **{"steps": 8, "batch": 8, "seq_len": 64, "lr": 3e-3, "hold_out": 10} | more)
def weights(model): return {k: v.clone() for k, v in model.state_dict().items() if ".memory." not in k}
def plain(tensors): return {k.replace(".mlp.mlp.", ".mlp."): v for k, v in tensors.items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def alike(a, b): return same(a.tensors(), b.tensors())
def parts(hold_out=10): return [t for i, t in enumerate(TEXTS, 1) if i % hold_out], TEXTS[hold_out - 1::hold_out]


@pytest.fixture(scope="module")
def taught():
    "A Llama of width 32 that has learnt a little of the world, so that its hidden states are those of a trained model"
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, num_key_value_heads=2,
                                         max_position_embeddings=128, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1))
    return train_steps(model, TOKENIZER, sample_world(background_world(30), 16), 80, 5e-3, 0, whole=True)


@pytest.fixture
def model(taught): return copy.deepcopy(taught)


@each_shape
def test_only_the_memory_changes(model, shape):
    before, c = weights(model), config(**SHAPES[shape])
    lm, r = warmed(model, c=c)
    assert same(before, plain(weights(model))) and lm.model is model and all(p.requires_grad and p.grad is None for p in model.parameters())
    memory = memory_of(model)
    assert memory.config == c and r.after < r.attached and r.steps == 8
    torch.manual_seed(0)
    for (name, old), new in zip(SparseMemory(c).named_parameters(), memory.parameters()): assert not torch.equal(old, new), name
    assert (r.attached == r.without) == (c.placement == "add") and r.attached >= r.without


@each_shape
def test_statistics_are_those_of_a_pass_of_their_own(model, shape):
    lm, r = warmed(model, c=config(**SHAPES[shape]))
    train, held = parts()
    want = background_stats(model, TOKENIZER, held, at_once=1, progress=None)
    background_stats(model, TOKENIZER, train, at_once=1, progress=None, stats=want)
    assert alike(want, lm.stats) and r.batches == want.batches == math.ceil(len(held) / 8) + math.ceil(len(train) / 8)
    lm.stats.check(memory_of(model).config.num_rows, lookup_hash(memory_of(model)))


@each_shape
def test_saved_model_loads_the_same(model, shape, tmp_path):
    lm, _ = warmed(model, c=config(**SHAPES[shape]))
    back = load_lm(save_whole(lm, tmp_path / "lm"))
    x = make_batch(TOKENIZER, [("", t) for t in TEXTS[:5]], whole=True)
    assert torch.equal(back.model(**x).logits, model(**x).logits) and alike(back.stats, lm.stats)
    assert memory_hash(memory_of(back.model)) == memory_hash(memory_of(model))


def test_seeds_repeat_to_the_bit(taught):
    runs = [warmed(copy.deepcopy(taught), seed=s, steps=5) for s in (3, 3, 4)]
    random.seed(9); torch.manual_seed(9)                                        # nobody else's random state matters
    runs.append(warmed(copy.deepcopy(taught), seed=3, steps=5))
    first, again, other, late = [(lm.model.state_dict(), r) for lm, r in runs]
    for a in (again, late): assert same(first[0], a[0]) and first[1] == a[1]
    assert not same(first[0], other[0]) and alike(runs[0][0].stats, runs[1][0].stats)


def test_held_out_texts_are_not_trained_on(model, monkeypatch):
    seen, (train, held) = [], parts()
    steps = pretraining.train_steps
    def spy(model, tokenizer, sample, *args):
        def told(rng):
            got = sample(rng); seen.extend(t for p, t in got); assert not any(p for p, _ in got)
            return got
        return steps(model, tokenizer, told, *args)
    monkeypatch.setattr(pretraining, "train_steps", spy)
    lm, r = warmed(model, steps=30)
    assert set(seen[:len(train)]) == set(train) and len(seen) > len(train)      # every text once before any comes again
    assert not set(seen) & (set(held) - set(train)) and r.tokens == sum(len(TOKENIZER(t)["input_ids"]) + 1 for t in seen)


def test_held_out_text_decides_nothing(taught):
    "Other held-out texts: the same memory"
    texts = [t if i % 10 else "Something else entirely, 12345." for i, t in enumerate(TEXTS, 1)]
    a, b = (warmed(copy.deepcopy(taught), t, steps=3) for t in (TEXTS, texts))
    assert same(a[0].model.state_dict(), b[0].model.state_dict()) and a[1].without != b[1].without and a[0].stats.corpus != b[0].stats.corpus


def test_perplexity_is_of_the_held_out_texts(model):
    _, held = parts()
    without = perplexity(model, TOKENIZER, held, 1)
    lm, r = warmed(model)
    assert r.without == without and r.after == perplexity(model, TOKENIZER, held, 1)
    x = make_batch(TOKENIZER, [("", t) for t in held], whole=True)
    assert r.after == pytest.approx(model(**x).loss.exp().item(), rel=1e-4)


def test_losses_against_float64(model):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(3, len(TOKENIZER), (3, 6), generator=g)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] + [0] * 5])                     # the last has nothing to predict
    with torch.no_grad(): logp = model(input_ids=ids, attention_mask=mask).logits.double().log_softmax(-1)
    want = -sum(logp[b, t - 1, ids[b, t]].item() for b in range(3) for t in range(1, int(mask[b].sum())))
    nats, n = text_losses(model, {"input_ids": ids, "attention_mask": mask})
    assert n == 5 + 3 and nats == pytest.approx(want, rel=1e-5)


def test_whitening_evens_the_reading(taught, monkeypatch):
    even = [warmed(copy.deepcopy(taught), steps=1, seed=s)[1].shares for s in range(3)]
    monkeypatch.setattr(pretraining, "whiten_queries", lambda *_: None)
    plainly = [warmed(copy.deepcopy(taught), steps=1, seed=s)[1].shares for s in range(3)]
    for a, b in zip(even, plainly): assert a[0] < b[0] and a[1] < b[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("placement", ["add", "replace"])
def test_half_precision_backbone(taught, dtype, placement):
    model = copy.deepcopy(taught).to(dtype)
    before = weights(model)
    lm, r = warmed(model, c=config(layers=(0, 2), placement=placement), steps=20)
    assert all(p.dtype == torch.float32 for p in memory_of(model).parameters()) and same(before, plain(weights(model)))
    assert r.after < r.attached and (r.attached == r.without) == (placement == "add")


def test_dropout_in_the_backbone_repeats_and_other_layers_work():
    torch.manual_seed(0)
    gpt = GPT2LMHeadModel(GPT2Config(vocab_size=len(TOKENIZER), n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=None, eos_token_id=1, pad_token_id=0))
    (a, r), (b, s) = (warmed(copy.deepcopy(gpt), steps=3) for _ in range(2))
    assert same(a.model.state_dict(), b.model.state_dict()) and r == s and not a.model.training


def test_long_texts_are_cut(model):
    long = [" ".join(TEXTS[i:i + 10]) for i in range(0, 200, 5)]
    lm, r = warmed(model, long, steps=2, batch=3)
    flat = [p for ps in cut(TOKENIZER, long, 64) for p in ps]
    assert len(flat) > 2 * len(long) and max(len(TOKENIZER(p)["input_ids"]) + 1 for p in flat) <= 64
    assert [" ".join(ps) for ps in cut(TOKENIZER, long, 64)] == long and lm.stats.batches >= len(flat) // 8


@pytest.mark.parametrize("text", ["x" * 500, "⚓" * 90, " a" * 300, "a\n\n" * 90, "word " + "y" * 200, "é" * 64 + " " + "ü" * 64])
@pytest.mark.parametrize("seq_len", [8, 9, 33])
def test_parts_hold_the_whole_text_and_fit(text, seq_len):
    got, = cut(TOKENIZER, [text], seq_len)
    assert "".join("".join(got).split()) == "".join(text.split()) and all(p.strip() and len(TOKENIZER(p)["input_ids"]) < seq_len for p in got)


BAD = {
    "steps": ({"steps": 0}, "steps=0"), "batch": ({"batch": 0}, "batch=0"), "batch type": ({"batch": 2.5}, "batch=2.5"), "steps type": ({"steps": True}, "steps=True"),
    "short": ({"seq_len": 7}, "seq_len=7"), "long": ({"seq_len": 129}, "at most 128"), "lr": ({"lr": 0.}, "lr=0.0"), "lr nan": ({"lr": math.nan}, "lr=nan"),
    "hold_out": ({"hold_out": 1}, "hold_out=1"), "layer": ({"c": config(layers=(3,))}, "layers 0 to 2"), "width": ({"c": MemoryConfig(64)}, "hidden_size=64"),
    "none": ({"texts": []}, "texts holds 0"), "few": ({"texts": TEXTS[:9]}, "give at least 10"), "too short": ({"texts": ["."] * 10}, "give more text"),
    "empty": ({"texts": [*TEXTS[:20], ""]}, "empty"),
}

@pytest.mark.parametrize("name", BAD)
def test_bad_input_changes_nothing(model, name):
    settings, says = BAD[name]
    before, modules = weights(model), [type(m) for m in model.modules()]
    with pytest.raises(ValueError, match=says): warmed(model, **settings)
    assert same(before, weights(model)) and [type(m) for m in model.modules()] == modules and all(p.requires_grad for p in model.parameters())


def test_second_memory_is_refused(model):
    attach(model, SparseMemory(config()))
    memory = memory_of(model)
    with pytest.raises(ValueError, match="already has a memory"): warmed(model)
    assert memory_of(model) is memory


def test_a_fitted_memory_says_nothing_and_goes_again(model):
    "the same each time, whatever was drawn before; beside a memory that trained as well as in a bare model"
    before, x = weights(model), make_batch(TOKENIZER, [(t, "") for t in TEXTS[:4]], whole=True)["input_ids"]
    modules, logits = [type(m) for m in model.modules()], model(x).logits
    def fit(model, **more):
        torch.randn(3)
        return fit_memory(LM(model, TOKENIZER, None, "m", background=TEXTS), 4, fingerprint=16, **more)
    memory, twin, other = fit(model), fit(unfitted(model)), fit(unfitted(model), seed=1)
    c = memory.config
    assert memory_of(model) is memory and (c.num_rows, c.layers, c.fingerprint_layer, len(memory.table)) == (16, (2,), 1, 0)
    assert memory_hash(memory) == memory_hash(twin) != memory_hash(other)
    assert torch.equal(model(x).logits, logits) and not any(p.requires_grad for p in memory.parameters())
    states = []
    hook = model.model.layers[2].register_forward_hook(lambda _, args, out: states.append(out[0] if isinstance(out, tuple) else out))
    model(x)
    hook.remove()
    assert .5 < c.scale / states[0].square().mean(-1).sqrt().median() < 2                # as large as what it is added to
    rows = fingerprints(model, x)
    assert rows.shape == (*x.shape, 32) and len(rows.unique()) > 100
    assert detach(model) is memory and [type(m) for m in model.modules()] == modules and same(before, weights(model))
    own = SparseMemory(config(layers=(2,)))
    torch.nn.init.normal_(own.table)
    attach(model, own)
    logits = model(x).logits
    beside = fit(model)
    assert memory_of(model) is beside and torch.equal(add_slots(model)(x).logits, logits)


def unfitted(model):
    "A copy without the fitted memory"
    model = copy.deepcopy(model)
    detach(model)
    return model


@pytest.mark.parametrize("change, says", [({"texts": ["."] * 10}, "give more text"), ({"layers": (3,)}, "layers 0 to 2"), ({"layers": (1,)}, "must lie below"),
                                          ({"broken": True}, "NaN")])
def test_a_memory_that_cannot_be_fitted_changes_nothing(model, change, says):
    if change.pop("broken", False):
        with torch.no_grad(): model.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    before, modules = weights(model), [type(m) for m in model.modules()]
    lm = LM(model, TOKENIZER, None, "m", background=change.pop("texts", TEXTS))
    with pytest.raises(ValueError, match=says): fit_memory(lm, 4, fingerprint=16, **change)
    assert [type(m) for m in model.modules()] == modules
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before.values(), weights(model).values()))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_broken_model_is_refused(model):
    with torch.no_grad(): model.model.layers[0].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(ValueError, match="NaN"): warmed(model, c=config(layers=(2,)))


@pytest.mark.parametrize("at", range(1, 9, 3))
def test_interrupt_leaves_the_model_as_it_was(model, at, monkeypatch):
    "Ctrl-C in the n-th forward with the memory in"
    before, modules, calls = weights(model), [type(m) for m in model.modules()], [0]
    read = pretraining.MemoryMLP.forward
    def stop(*args):
        calls[0] += 1
        if calls[0] == at: raise KeyboardInterrupt
        return read(*args)
    monkeypatch.setattr(pretraining.MemoryMLP, "forward", stop)
    with pytest.raises(KeyboardInterrupt): warmed(model)
    assert calls[0] == at and same(before, weights(model)) and [type(m) for m in model.modules()] == modules and all(p.requires_grad for p in model.parameters())


def test_diverged_training_is_an_error(model):
    with pytest.raises(ValueError, match="diverged"): warmed(model, lr=1e30)


def test_statistics_go_on_and_refuse_another_memory(model):
    attach(model, SparseMemory(config()))
    whole = background_stats(model, TOKENIZER, TEXTS[:64], progress=None)
    half = background_stats(model, TOKENIZER, TEXTS[:32], progress=None)
    half = background_stats(model, TOKENIZER, TEXTS[32:64], progress=None, stats=BackgroundStats.from_tensors(half.tensors()))
    assert alike(half, whole) and whole.lookup == lookup_hash(memory_of(model))
    with torch.no_grad(): memory_of(model).readers[0].keys[0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="its keys have moved"): background_stats(model, TOKENIZER, TEXTS[:8], progress=None, stats=half)
    assert alike(half, whole)


def test_forwards_leave_the_mode(model):
    for mode in (True, False):
        model.train(mode)
        for _ in each_forward(model, TOKENIZER, TEXTS[:9], lambda model, x: model(**x), 8): assert not model.training
        assert model.training is mode
    stats = empty_stats(attach(model, SparseMemory(config())) and memory_of(model))
    assert not stats.batches and not stats.counts.any()


def test_full_disk_keeps_the_old_model(model, tmp_path, monkeypatch):
    lm, _ = warmed(model, steps=1)
    save_whole(lm, tmp_path / "lm")
    old = {p: p.read_bytes() for p in (tmp_path / "lm").rglob("*") if p.is_file()}
    def full(*_, **__): raise OSError(28, "No space left on device")
    monkeypatch.setattr(pretraining, "save_memory", full)
    with pytest.raises(OSError, match="No space"): save_whole(lm, tmp_path / "lm")
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == old
    assert [p.name for p in tmp_path.iterdir()] == ["lm"] and memory_of(lm.model)


def test_saving_in_half_precision_leaves_the_model_alone(model, tmp_path):
    lm, _ = warmed(model, steps=1)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    save_lm(lm, tmp_path / "lm", torch.float16)
    assert same(before, model.state_dict())
