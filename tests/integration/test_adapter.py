"""One tester for every architecture and type: attach, no-op, train, save, reload, generate, unload; and PEFT's and transformers' own doors."""
import copy, json, re, warnings

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers import GemmaConfig, GemmaForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from casm.adapter import CasmConfig, add_slots, attach, casm_layer, fingerprints, load_adapter, memory_of, reading, save_adapter, slot_bank, use_bank
from casm.memory import MemoryConfig, SparseMemory, product_topk, record_access, save_memory
from casm.slots import commit, from_flat, mark, open_slots, retire, to_flat

WIDE = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2)
GQA = WIDE | dict(num_key_value_heads=2, head_dim=8)
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GQA)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**GQA)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GQA)),
    "gemma": lambda: GemmaForCausalLM(GemmaConfig(**GQA)),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2)),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE)),
}
MEMORIES = {
    "add": dict(),
    "replace": dict(placement="replace"),
    "shared": dict(layers=(0, 2)),
    "separate": dict(layers=(0, 2), share_values=False, placement="replace"),
    "scaled": dict(scale=2., fingerprint=32, layers=(2,)),  # nothing but slots is ever read; these may have marks
}
X = torch.randint(3, 64, (3, 10), generator=torch.Generator().manual_seed(0))
SLOTS = torch.tensor([0, -1, 1])
GREEDY = dict(max_new_tokens=5, min_new_tokens=5, do_sample=False, pad_token_id=0)


def backbone(name="llama", dtype=torch.float32):
    torch.manual_seed(0)
    return MODELS[name]().to(dtype).eval()


def memory(dtype=torch.float32, filled=False, **kw):
    torch.manual_seed(1)
    m = SparseMemory(MemoryConfig(hidden_size=32, n_keys=8, heads=2, top_k=4, key_dim=16, **kw))
    if filled: torch.nn.init.normal_(m.table)
    return m.to(dtype).eval()


def fit(peft, steps=6, name=None, marked=False):
    "Open two slots in an adapter's bank and train them on X with the backbone frozen; `marked`: they know their own texts"
    bank = slot_bank(peft, name)
    rows = torch.arange(bank.num_rows)
    slots = open_slots(bank, [rows[::2], rows[::3]])
    if marked: mark(bank, slots, [fingerprints(peft, X[i:i + 1]).unique() for i in (0, 2)])
    opt, losses = torch.optim.AdamW([bank.param], lr=.2), []
    for _ in range(steps):
        loss = peft(input_ids=X, labels=X, slots=torch.tensor([slots[0], -1, slots[1]])).loss
        opt.zero_grad(); loss.backward(); opt.step(); losses.append(loss.item())
    commit(bank)
    return losses


@pytest.mark.parametrize("placement", MEMORIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_whole_life(name, dtype, placement, tmp_path):
    model = backbone(name, dtype)
    plain = model(X).logits.detach()
    attach(model, memory(dtype, **MEMORIES[placement]))
    if memory_of(model).config.placement == "add": assert torch.equal(model(X).logits, plain)          # to the bit
    bare = model(X).logits.detach()
    torch.nn.init.normal_(memory_of(model).table)
    filled = model(X).logits.detach()
    assert torch.equal(filled, bare) == (placement == "scaled")
    peft = add_slots(model)
    assert torch.equal(peft(X).logits, filled)                                                      # an empty bank is a no-op too
    frozen = {k: v.clone() for k, v in peft.state_dict().items()}
    losses = fit(peft)
    assert losses[-1] < losses[0]
    assert all(torch.equal(v, frozen[k]) for k, v in peft.state_dict().items() if ".casm_" not in k)    # nothing but slots moved
    through = peft(X, slots=SLOTS).logits.detach()
    assert torch.equal(through[1], filled[1]) and not torch.equal(through[0], filled[0])
    said = peft.generate(input_ids=X, attention_mask=torch.ones_like(X), slots=SLOTS, **GREEDY)
    save_adapter(peft, tmp_path / "adapter")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)                                                # PEFT warns of missing tensors
        again = load_adapter(backbone(name, dtype), tmp_path / "adapter", "other")
    memory_of(again).to(dtype)
    assert torch.equal(again(X, slots=SLOTS).logits, through)
    assert torch.equal(again.generate(input_ids=X, attention_mask=torch.ones_like(X), slots=SLOTS, **GREEDY), said)
    with again.disable_adapter(): assert torch.equal(again(X, slots=SLOTS).logits, filled)
    left = again.unload()
    assert torch.equal(left(X).logits, plain) and {k for k, _ in left.named_parameters()} == {k for k, _ in backbone(name, dtype).named_parameters()}


@pytest.mark.parametrize("name", MODELS)
def test_a_row_does_not_depend_on_its_neighbours(name):
    "padding left or right, the KV cache and beams change neither accesses nor answers"
    peft = add_slots(attach(backbone(name), memory(filled=True)))
    fit(peft)
    short = X[:1, :6]
    right, left = (torch.cat(p, 1) for p in ((short, torch.zeros(1, 4, dtype=torch.int64)), (torch.zeros(1, 4, dtype=torch.int64), short)))
    def rows(x):
        positions = ((x != 0).cumsum(1) - 1).clamp(min=0)
        with record_access(memory_of(peft), x != 0) as got: peft(input_ids=x, attention_mask=(x != 0).long(), position_ids=positions, slots=SLOTS[:1])
        return got[0].rows
    assert torch.equal(rows(short), rows(right)) and torch.equal(rows(short), rows(left))
    kw = dict(attention_mask=torch.ones_like(X), slots=SLOTS, **GREEDY)
    cached = peft.generate(input_ids=X, **kw)
    assert torch.equal(cached, peft.generate(input_ids=X, use_cache=False, **kw))
    alone = peft.generate(input_ids=X[2:], attention_mask=torch.ones_like(X[2:]), slots=SLOTS[2:], **GREEDY)
    assert torch.equal(cached[2:], alone)
    padded = torch.cat([torch.zeros(1, 3, dtype=torch.int64), X[2:]], 1)
    from_left = peft.generate(input_ids=padded, attention_mask=(padded != 0).long(), slots=SLOTS[2:], **GREEDY)
    assert torch.equal(from_left[:, 3:], alone)
    beams = peft.generate(input_ids=X, num_beams=3, **kw)
    assert torch.equal(beams[1:2, :10], X[1:2]) and beams.shape[0] == 3


def count_and_gradient(layers, reentrant=None):
    "What one training step records and gives the open rows; two forwards before one backward, through different slots"
    torch.manual_seed(0)
    peft = add_slots(attach(backbone().train(), memory(filled=True, layers=layers)))
    bank = slot_bank(peft)
    open_slots(bank, [torch.arange(64), torch.arange(32)])
    torch.nn.init.normal_(bank.param)
    if reentrant is not None:
        peft.enable_input_require_grads()
        peft.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    with record_access(memory_of(peft)) as got:
        sum(peft(input_ids=X, labels=X, slots=torch.tensor([s, -1, s]), use_cache=False).loss for s in (0, 1)).backward()
    with torch.no_grad(), record_access(memory_of(peft.eval())) as evaluated: peft(input_ids=X)
    return got, bank.param.grad, evaluated


@pytest.mark.parametrize("layers", [(), (0, 2)])
def test_one_count_and_one_gradient_under_checkpointing(layers):
    _, want, evaluated = count_and_gradient(layers)
    for reentrant in (None, True, False):
        got, grad, _ = count_and_gradient(layers, reentrant)
        assert [a.layer for a in got] == 2 * list(range(max(1, len(layers))))
        assert torch.equal(got[0].rows, evaluated[0].rows)                                          # in training as in evaluation
        torch.testing.assert_close(grad, want)


@pytest.mark.parametrize("name, reentrant", [*((n, False) for n in MODELS), ("llama", True)])
def test_checkpointing_repeats_each_forward_through_its_own_slots(name, reentrant):
    "whatever the order of the backwards, and whatever was run in between"
    def gradient(on):
        torch.manual_seed(0)
        peft = add_slots(attach(backbone(name).train(), memory(filled=True, layers=(0, 2))))
        bank = slot_bank(peft)
        open_slots(bank, [torch.arange(64), torch.arange(32)])
        torch.nn.init.normal_(bank.param)
        if on:
            peft.enable_input_require_grads()
            peft.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        loss = lambda s: peft(input_ids=X, labels=X, slots=torch.tensor([s, s, -1]), use_cache=False).loss  # noqa: E731
        first, second = loss(0), loss(1)
        with torch.no_grad(): loss(1)
        first.backward(retain_graph=not reentrant)
        second.backward()
        if not reentrant: first.backward()
        return bank.param.grad
    torch.testing.assert_close(gradient(True), gradient(False))


def test_autocast_scores_in_float32_and_keeps_deltas_float32():
    q, k = torch.randn(50, 2, 8), torch.randn(2, 16, 8)
    want = product_topk(q, k, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(product_topk(q, k, 5), want))
        peft = add_slots(attach(backbone(), memory(filled=True)))
        with record_access(memory_of(peft)) as got: peft(X)
        losses = fit(peft)
    assert got[0].weights.dtype == torch.float32
    assert losses[-1] < losses[0] and slot_bank(peft).storage.dtype == torch.float32


@pytest.mark.parametrize("name", MODELS)
def test_no_op_under_autocast(name):
    with torch.autocast("cpu", torch.bfloat16):
        model = backbone(name)
        plain = model(X).logits
        assert torch.equal(attach(model, memory())(X).logits, plain)


def test_float32_memory_in_a_bfloat16_model():
    peft = add_slots(attach(backbone(dtype=torch.bfloat16), memory(filled=True)))
    assert memory_of(peft).table.dtype == torch.float32
    losses = fit(peft)
    assert losses[-1] < losses[0] and peft(X).logits.dtype == torch.bfloat16


def wary(model): return add_slots(model, CasmConfig(task_type="CAUSAL_LM", quiet_below=.9))


@pytest.fixture(params=["plain", "marked"])
def saved(tmp_path, request):
    "A backbone folder and an adapter trained on it, with the logits it had"
    marked = request.param == "marked"
    backbone().save_pretrained(tmp_path / "backbone")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "backbone").eval()
    peft = wary(attach(model, memory(filled=True, **MEMORIES["scaled"] if marked else {})))
    fit(peft, marked=marked)
    save_adapter(peft, tmp_path / "adapter")
    return tmp_path, peft(X, slots=SLOTS).logits.detach()


def test_marks_are_read_back_and_given_up(saved):
    folder, want = saved
    base = lambda: AutoModelForCausalLM.from_pretrained(folder / "backbone").eval()  # noqa: E731
    peft = load_adapter(base(), folder / "adapter")
    bare, bank = peft(X).logits, slot_bank(peft)
    speaks = (want != bare).any(-1)
    assert not speaks[1].any() and speaks[0, 0] and speaks[2, 0]
    shape = MEMORIES["scaled"] if len(bank.marks) else {}
    if shape:
        assert torch.equal(peft(X, slots=torch.tensor([-1, 0, 0])).logits, bare)    # texts of which the slot was told nothing
        one = peft(X, slots=torch.stack([SLOTS, SLOTS.flip(0)], 1)).logits          # of two slots only the one whose text it is
        torch.testing.assert_close(one[[0, 2]], want[[0, 2]])
        flat = to_flat(bank)
        with pytest.raises(ValueError, match="the memory has 1024 fine rows"):
            use_bank(peft, from_flat(bank.num_rows, **flat | {"marks": flat["marks"] + 1024}))
        use_bank(peft, from_flat(bank.num_rows, **{k: v for k, v in flat.items() if "mark" not in k}))
        assert not torch.equal(peft(X, slots=torch.tensor([-1, 0, 0])).logits, bare)   # without marks they speak
        use_bank(peft, bank)
        retire(bank, [0, 1])
        assert not any("mark" in k for k in peft.state_dict())
    plain = wary(attach(backbone(), memory(filled=True, **shape)))
    fit(plain)
    peft.load_state_dict(plain.state_dict())
    assert not len(slot_bank(peft).marks) and torch.equal(peft(X, slots=SLOTS).logits, plain(X, slots=SLOTS).logits)
    plain.load_state_dict(load_adapter(base(), folder / "adapter").state_dict())
    assert torch.equal(plain(X, slots=SLOTS).logits, want)


def test_what_a_prompt_decided_holds_for_its_continuation():
    "with and without the cache, alone, in a batch and with beams; a slot keeps quiet all along or speaks from the prompt's end on"
    peft = wary(attach(backbone(), memory(**MEMORIES["scaled"])))
    fit(peft, steps=12, marked=True)
    said = lambda x, s, **kw: peft.generate(input_ids=x, attention_mask=torch.ones_like(x), slots=s, **GREEDY | kw)  # noqa: E731
    bare, mine = said(X, None), said(X, SLOTS)
    assert torch.equal(mine[1], bare[1]) and not torch.equal(mine[0], bare[0]) and not torch.equal(mine[2], bare[2])
    assert torch.equal(said(X, torch.tensor([1, 0, 0])), bare)
    assert torch.equal(said(X, SLOTS, use_cache=False), mine) and torch.equal(said(X[2:], SLOTS[2:]), mine[2:])
    assert torch.equal(said(X, torch.tensor([1, 0, 0]), num_beams=3), said(X, None, num_beams=3))
    end = torch.full((3,), X.shape[1] - 1)
    x = X
    for _ in range(5):                                                  # by hand: slots named by who asks, from the last position of the prompt
        with reading(peft, torch.tensor([0, -1, 1]), end, gated=False): x = torch.cat([x, peft(x).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(x, mine)
    with reading(peft, SLOTS):
        peft.generate(input_ids=X, attention_mask=torch.ones_like(X), **GREEDY)
        after = peft(X).logits
    with reading(peft, SLOTS): assert torch.equal(peft(X).logits, after)             # a generation leaves the block as it was


def test_pefts_own_loaders(saved):
    folder, want = saved
    base = lambda: AutoModelForCausalLM.from_pretrained(folder / "backbone").eval()  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        models = [AutoPeftModelForCausalLM.from_pretrained(folder / "adapter"),
                  PeftModel.from_pretrained(base(), folder / "adapter", adapter_name="v2"),
                  PeftModel.from_pretrained(base(), folder / "adapter", low_cpu_mem_usage=True)]
    two = PeftModel.from_pretrained(base(), folder / "adapter")
    two.load_adapter(folder / "adapter", "second"); two.set_adapter("second")
    for model in [*models, two]:
        assert torch.equal(model(input_ids=X, slots=SLOTS).logits, want)
        with reading(model, SLOTS): assert torch.equal(model(input_ids=X).logits, want)
        assert not [n for n, p in model.named_parameters() if p.requires_grad]


def test_transformers_own_loader(saved):
    folder, want = saved
    loaded = AutoModelForCausalLM.from_pretrained(folder / "backbone").eval()
    loaded.load_adapter(str(folder / "adapter"), adapter_name="v3")
    auto = AutoModelForCausalLM.from_pretrained(str(folder / "adapter")).eval()
    for model in (loaded, auto):
        with reading(model, SLOTS): assert torch.equal(model(X).logits, want)
    loaded.disable_adapters()
    with reading(loaded, SLOTS): assert not torch.equal(loaded(X).logits, want)


def test_get_peft_model_attaches_the_memory_it_is_told(tmp_path):
    save_memory(memory(filled=True), tmp_path / "memory")
    want = attach(backbone(), memory(filled=True))(X).logits
    peft = get_peft_model(backbone(), CasmConfig(memory=str(tmp_path / "memory"), task_type="CAUSAL_LM"))
    assert torch.equal(peft(input_ids=X).logits, want)
    model = backbone()
    with pytest.raises(ValueError, match="no folder of a memory"): get_peft_model(model, CasmConfig(memory=str(tmp_path / "none")))
    assert torch.equal(model(X).logits, backbone()(X).logits)


def test_several_adapters_at_once(tmp_path):
    "each with slots of its own over one memory; what both add is what each adds alone, together"
    peft = add_slots(attach(backbone(), memory(filled=True)), adapter_name="first")
    fit(peft)
    peft.add_adapter("second", CasmConfig(task_type="CAUSAL_LM")); peft.set_adapter("second")
    fit(peft, 3, "second")
    one = {"first": torch.tensor([0, 0, 0])}, {"second": torch.tensor([1, 1, 1])}
    peft.base_model.set_adapter(["first", "second"])
    alone = [peft(X, slots=s).logits.detach() for s in one]
    both = peft(X, slots=one[0] | one[1]).logits.detach()
    assert not torch.equal(both, alone[0]) and not torch.equal(both, alone[1])
    with pytest.raises(ValueError, match="dictionary"): peft(X, slots=SLOTS)
    with pytest.raises(ValueError, match="'third' is not active"): peft(X, slots={"third": SLOTS})
    for name in ("first", "second"): save_adapter(peft, tmp_path / name, name)
    assert len(list(tmp_path.glob("memory-*"))) == 1
    again = load_adapter(load_adapter(backbone(), tmp_path / "first", "one"), tmp_path / "second", "two")
    again.base_model.set_adapter(["one", "two"])
    assert torch.equal(again(X, slots={"one": one[0]["first"], "two": one[1]["second"]}).logits, both)
    again.delete_adapter("one")
    again.set_adapter("two")
    assert torch.equal(again(X, slots=one[1]["second"]).logits, alone[1])


def test_training_continues_where_a_checkpoint_was_taken():
    "a state dictionary taken while slots are open holds what they hold, and goes back into the same model"
    peft = add_slots(attach(backbone(), memory(filled=True)))
    fit(peft)
    state, want = copy.deepcopy(peft.state_dict()), peft(X, slots=SLOTS).logits.detach()
    bank = slot_bank(peft)
    with torch.no_grad(): bank.storage[1:] += 1
    assert not torch.equal(peft(X, slots=SLOTS).logits, want)
    peft.load_state_dict(state)
    assert torch.equal(peft(X, slots=SLOTS).logits, want)
    fresh = add_slots(attach(backbone(), memory(filled=True)))
    fresh.load_state_dict(state)                                                                    # of another size than its own
    assert torch.equal(fresh(X, slots=SLOTS).logits, want)


def test_open_rows_are_in_the_state_with_their_present_values():
    peft = add_slots(attach(backbone(), memory(filled=True)))
    bank = slot_bank(peft)
    open_slots(bank, [torch.arange(64), torch.arange(32)])
    torch.nn.init.normal_(bank.param)
    state, want = peft.state_dict(), peft(X, slots=SLOTS).logits.detach()
    assert not any("casm_open" in k for k in state)
    fresh = add_slots(attach(backbone(), memory(filled=True)))
    fresh.load_state_dict(state)
    assert torch.equal(fresh(X, slots=SLOTS).logits, want)


def test_a_copy_is_a_model_of_its_own(tmp_path):
    peft = add_slots(attach(backbone(), memory(filled=True)))
    fit(peft)
    want = peft(X, slots=SLOTS).logits.detach()
    twin = copy.deepcopy(peft)
    fit(twin)
    assert torch.equal(peft(X, slots=SLOTS).logits, want) and slot_bank(twin).num_slots == 4
    new = twin(X, slots=SLOTS + 2).logits.detach()
    save_adapter(twin, tmp_path / "twin")
    assert torch.equal(load_adapter(backbone(), tmp_path / "twin")(X, slots=SLOTS + 2).logits, new)
    twin.load_state_dict(peft.state_dict())
    assert torch.equal(twin(X, slots=SLOTS).logits, want) and slot_bank(peft).num_slots == 2


def test_deleting_an_adapter_leaves_nothing_of_it(tmp_path):
    peft = add_slots(attach(backbone(), memory(filled=True, layers=(0, 2))), adapter_name="first")
    fit(peft)
    peft.add_adapter("second", CasmConfig(task_type="CAUSAL_LM")); peft.set_adapter("second")
    fit(peft, name="second")
    want = peft(X, slots=SLOTS).logits.detach()
    open_slots(slot_bank(peft, "first"), [torch.arange(8)])
    peft.delete_adapter("first")
    assert not any(".first" in k for k in peft.state_dict()) and torch.equal(peft(X, slots=SLOTS).logits, want)
    peft.add_adapter("first", CasmConfig(task_type="CAUSAL_LM"))
    assert slot_bank(peft, "first").num_slots == 0
    save_adapter(peft, tmp_path / "second", "second")


def test_loading_another_adapter_leaves_open_rows_alone(saved):
    folder, _ = saved
    peft = load_adapter(AutoModelForCausalLM.from_pretrained(folder / "backbone").eval(), folder / "adapter", "first")
    bank = slot_bank(peft, "first")
    open_slots(bank, [torch.arange(8)])
    param = bank.param
    load_adapter(peft, folder / "adapter", "second")
    assert slot_bank(peft, "first") is bank and bank.param is param
    with pytest.raises(ValueError, match="'second'.*one of that name"): load_adapter(peft, folder / "adapter", "second")


def test_an_adapter_is_saved_over_the_memory_it_has_now(tmp_path):
    "cast, or filled, after the adapter was added"
    peft = add_slots(attach(backbone(), memory()))
    torch.nn.init.normal_(memory_of(peft).table)
    peft.to(torch.bfloat16)
    fit(peft)
    want = peft(X, slots=SLOTS).logits
    save_adapter(peft, tmp_path / "one")
    again = load_adapter(backbone(dtype=torch.bfloat16), tmp_path / "one")
    memory_of(again).to(torch.bfloat16)
    assert torch.equal(again(X, slots=SLOTS).logits, want)
    memory_of(peft).table.data.mul_(2)
    save_adapter(peft, tmp_path / "two")
    assert len(list(tmp_path.glob("memory-*"))) == 2


def test_casting_a_loaded_model_reads_the_bank_first(saved):
    model = PeftModel.from_pretrained(backbone(), saved[0] / "adapter").to(torch.bfloat16)
    with reading(model, SLOTS): assert model(X).logits.dtype == torch.bfloat16
    assert slot_bank(model).storage.dtype == torch.float32


@pytest.mark.parametrize("slots", [torch.tensor([0]), torch.tensor([0, 1]), torch.tensor([0, 1, 2]), torch.tensor([0, 1, -2]), torch.tensor([0, 1, 1]).int(), torch.tensor([0., 1, 1]),
                                   torch.tensor([True, False, True]), torch.zeros(3, 3, dtype=torch.int64), torch.tensor(0), torch.zeros(0, dtype=torch.int64), [0, 1, 1]], ids=str)
def test_slots_that_cannot_be_meant_are_refused(slots):
    peft = add_slots(attach(backbone(), memory(filled=True)))
    fit(peft)
    with pytest.raises(ValueError, match="slot"): peft(X, slots=slots)


def damage(path, what):
    t = load_file(path)
    key = sorted(t)[0]
    if what == "removed": del t[key]
    if what == "added": t["base_model.model.stranger"] = torch.zeros(1)
    if what == "foreign": t[re.sub(r"layers\.\d", "layers.0", key)] = t.pop(key)
    if what == "shorter": t[key] = t[key][:-1].clone()
    if what == "flipped": t[key].view(torch.uint8).reshape(-1)[3] ^= 1
    save_file(t, path, {"format": "pt"})


@pytest.mark.parametrize("what", ["removed", "added", "foreign", "shorter", "flipped"])
def test_strict_loader_refuses_before_it_touches_the_model(saved, what):
    folder, _ = saved
    damage(folder / "adapter" / "adapter_model.safetensors", what)
    model = backbone()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ValueError, match="adapter_model.safetensors"): load_adapter(model, folder / "adapter")
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in before.items()}
    assert torch.equal(model(X).logits, backbone()(X).logits)


@pytest.mark.parametrize("what", ["removed", "foreign", "flipped"])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_bank_is_never_read_whoever_loaded_it(saved, what):
    folder, _ = saved
    damage(folder / "adapter" / "adapter_model.safetensors", what)
    model = PeftModel.from_pretrained(backbone(), folder / "adapter")
    with pytest.raises(ValueError, match="damaged"):
        with reading(model, SLOTS): model(X)


def test_another_memory_is_refused(saved):
    folder, _ = saved
    scaled = json.loads((folder / "adapter" / "adapter_config.json").read_text())["num_marks"] > 0
    other = attach(backbone(), memory(**MEMORIES["scaled"] | {"scale": 3.} if scaled else {}))
    with pytest.raises(ValueError, match="attach the memory the adapter was trained on"): load_adapter(other, folder / "adapter")
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    name = (folder / "adapter" / config["memory"]).resolve()
    path = name / "memory.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    model = backbone()
    with pytest.raises(ValueError, match="damaged"): load_adapter(model, folder / "adapter")
    assert torch.equal(model(X).logits, backbone()(X).logits)


def test_adapter_names_that_lose_tensors_are_refused():
    for name in ("mlp", "weight", "bias", "v1.0", "keys", "items", "casm", "memory", "layers", "0", "", "a b", "é"):
        model = attach(backbone(), memory())
        with pytest.raises(ValueError, match="adapter_name"): add_slots(model, adapter_name=name)
        assert not any("casm_" in n for n, _ in model.named_modules())
    with pytest.raises(ValueError, match="adapter_names"): add_slots(attach(backbone(), memory()))(X, adapter_names=["default"] * 3)
    with pytest.raises(ValueError, match="add_slots"): casm_layer(backbone())


def test_a_memory_with_a_scale_is_attached_beside_the_models_own(tmp_path):
    "as the tiny model's is; unloading leaves that"
    def own():
        model = backbone()
        return attach(model, memory(filled=True, layers=(2,)))
    peft = wary(attach(own(), memory(**MEMORIES["scaled"])))
    fit(peft, marked=True)
    save_adapter(peft, tmp_path / "adapter")
    again = load_adapter(own(), tmp_path / "adapter")
    assert torch.equal(again(X, slots=SLOTS).logits, peft(X, slots=SLOTS).logits)
    assert not torch.equal(again(X, slots=SLOTS).logits, own()(X).logits)
    left = again.unload()
    assert torch.equal(left(X).logits, own()(X).logits) and [*left.state_dict()] == [*own().state_dict()]


def test_an_answer_opens_no_slot():
    "What stands behind the prompt may read all the marks there are: it is the prompt that decides"
    peft = wary(attach(backbone(), memory(**MEMORIES["scaled"])))
    bank, prompt = slot_bank(peft), X[:1, :4]
    open_slots(bank, [torch.arange(64)])
    torch.nn.init.normal_(bank.param)
    commit(bank)
    told = torch.tensor([sorted(set(fingerprints(peft, X[:1])[0, 4:].unique().tolist()) - set(fingerprints(peft, prompt).unique().tolist()))])
    mark(bank, [0], [told[0]])
    start, slots = torch.tensor([3]), torch.tensor([0])
    bare = peft(X[:1]).logits
    with reading(peft, slots, start): assert torch.equal(peft(X[:1]).logits, bare)
    with reading(peft, slots): assert not torch.equal(peft(X[:1]).logits, bare)
    with reading(peft, slots, start, gated=False): assert not torch.equal(peft(X[:1]).logits, bare)
