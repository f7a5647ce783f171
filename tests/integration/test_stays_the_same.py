"""The three claims of what stays the same: rows and logits through given slots, routes of old questions, and so old answers, after thousands of later versions.
The first is exact: to the bit, whatever is learnt, retired, compacted or saved in between. Routes are measured."""
import random
import zlib
from datetime import date, timedelta
from itertools import pairwise

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from casm.adapter import CasmConfig, add_slots, attach, bank_memory, fingerprints, load_adapter, memory_of, reading, save_adapter, slot_bank, use_bank
from casm.benchmark import generate as invent
from casm.facts import PROBE_FORM, UNSEEN_FORM, Fact, dated, question
from casm.generation import generate
from casm.memory import MemoryConfig, SparseMemory, record_access
from casm.registry import Registry
from casm.router import LexicalRouter
from casm.slots import commit, compact, export_slot, from_flat, import_slot, mark, open_slots, retire, rollback_slot, to_flat
from casm.store import commit_bank, load_bank

LATER = [pytest.param(1000), pytest.param(10_000, marks=pytest.mark.full)]


class Words:
    "Every word is a token, by its checksum"
    eos_token_id, bos_token_id, pad_token_id = 2, None, 0
    def __call__(self, texts): return {"input_ids": [[3 + zlib.crc32(w.encode()) % 253 for w in t.split()] for t in texts]}
    def batch_decode(self, ids, skip_special_tokens): return [" ".join(map(str, x)) for x in ids]


def backbone():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=256, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2)).eval()


def model(**kw):
    torch.manual_seed(1)
    memory = SparseMemory(MemoryConfig(32, n_keys=16, heads=2, top_k=4, key_dim=16, **{"layers": (0, 2), **kw}))
    torch.nn.init.normal_(memory.table)
    return add_slots(attach(backbone(), memory.eval()), CasmConfig(task_type="CAUSAL_LM", quiet_below=.9))


def learn(bank, n, seed, rows=8):
    "n slots of random rows and deltas, in one commit; their numbers"
    g = torch.Generator().manual_seed(seed)
    slots = open_slots(bank, [torch.randperm(bank.num_rows, generator=g)[:rows] for _ in range(n)])
    with torch.no_grad(): bank.param[1:] = torch.randn(n * rows, bank.dim, generator=g)
    commit(bank)
    return slots


def reading_of(lm, x, slots):
    "Rows gathered by every layer, in order, and logits"
    with torch.no_grad(), record_access(memory_of(lm)) as got, reading(lm, slots): logits = lm(input_ids=x).logits
    return torch.stack([a.rows for a in got]), logits


def samples(): return torch.randint(3, 256, (20, 12), generator=torch.Generator().manual_seed(5))


def readings(lm):
    "One slot per sample, two, some without, a batch of one, and all at once"
    x, one = samples(), torch.arange(20)
    named = [(x, one), (x, torch.stack([one, one.flip(0)], 1)), (x, torch.stack([one, torch.full_like(one, -1)], 1)), (x, one.masked_fill(one % 3 == 0, -1)),
             (x[:1], one[3:4]), (x, torch.full_like(one, 7))]
    return [reading_of(lm, *n) for n in named]


def same(lm, want):
    return all(torch.equal(r, s) and torch.equal(a, b) for (r, a), (s, b) in zip(readings(lm), want, strict=True))


SHAPES = {"shared": {}, "separate": {"share_values": False}, "marked": {"layers": (2,), "scale": 2., "fingerprint": 32}}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("later", LATER)
def test_rows_and_logits_are_the_same_to_the_bit(later, shape, tmp_path):
    lm, x = model(**SHAPES[shape]), samples()
    bank = slot_bank(lm)
    slots = learn(bank, 20, 0)
    if shape == "marked": mark(bank, slots[1::2], [fingerprints(lm, x[s:s + 1]).unique() for s in slots[1::2]])
    want = readings(lm)
    assert torch.equal(want[0][1], want[2][1]) and not torch.equal(want[0][1], want[1][1]) and not torch.equal(want[0][1], want[5][1])
    export_slot(bank, 7, tmp_path / "seven", bank_memory(lm))
    for i in range(later):                                                              # one commit each
        slots = learn(bank, 1, i + 1)
        if shape == "marked": mark(bank, slots, [torch.arange(i % 50, 1024, 50)])
        if i in (0, 9, 99, 999): assert same(lm, want)
    assert bank.num_slots == 20 + later and same(lm, want)
    retire(bank, list(range(20, 20 + later, 2)))
    assert same(lm, want)
    compact(bank)
    assert same(lm, want) and len(bank.storage) == len(bank) + 1
    learn(bank, 5, 0)
    retire(bank, [7])
    assert not same(lm, want)
    rollback_slot(bank, 7, tmp_path / "seven", bank_memory(lm))
    import_slot(bank, tmp_path / "seven", bank_memory(lm))
    assert same(lm, want)
    use_bank(lm, from_flat(bank.num_rows, **to_flat(bank)))
    assert same(lm, want)
    save_adapter(lm, tmp_path / "adapter")
    again = load_adapter(backbone(), tmp_path / "adapter")
    assert same(again, want)
    registry = Registry()
    commit_bank(tmp_path, bank, registry, bank_memory(lm), lambda name: registry.assert_facts([Fact("Gale", "height", "1", "2018")], bank=name))
    use_bank(again, load_bank(tmp_path, registry, bank.num_rows, bank.dim, bank_memory(again)))
    assert same(again, want) and slot_bank(again).num_slots == bank.num_slots


def near(rng, subject, relation):
    "A key that looks like one already known: a longer name, another one of the kind, another relation of the same subject"
    first, *rest = subject.split()
    return rng.choice([(f"{subject} North", relation), (f"New {subject}", relation), (" ".join([first + "a", *rest]), relation), (subject, f"deputy {relation}"), (subject, f"{relation} number")])


@pytest.mark.parametrize("later", LATER)
def test_routes_and_answers_of_old_questions_stay(later, record_property):
    """300 facts, half of them with a second value, each asked at five dates, in two forms and, where its relation has three words or more, with
    the first of them left out: then the score hangs on how common the words are, may pass the threshold either way, and is held to less. Then later values of the same facts, new subjects, and keys that
    differ from the old ones by a word. A route counts as kept when the slot is the same; where it is, the answer must be to the letter."""
    rng, lm, registry = random.Random(0), model(), Registry()
    bank, router = slot_bank(lm), LexicalRouter(registry)
    keys = list(dict.fromkeys((r.entity, r.relation) for r in invent(300, seed=7).records))
    old = [Fact(s, r, f"value {i}", "2010") for i, (s, r) in enumerate(keys)] + [Fact(s, r, f"second {i}", "2012") for i, (s, r) in enumerate(keys[::2])]
    registry.assert_facts(old, learn(bank, len(old), 1))
    named = [(form, s, r) for form in (PROBE_FORM, UNSEEN_FORM) for s, r in keys]
    reworded = [(PROBE_FORM, s, " ".join(r.split()[1:])) for s, r in keys if len(r.split()) > 2]
    asked = [(question(*w), t) for w in named + reworded for t in ("2009", "2010", "2011-06", "2012", "2014")]
    questions, dates = map(list, zip(*asked))
    before = router.route(questions, dates)
    some = list(range(0, len(asked), 7))
    def answers(routes): return generate(lm, Words(), [dated(questions[i], dates[i]) for i in some], [-1 if routes[i].slot is None else routes[i].slot for i in some], max_new_tokens=3)
    said = answers(before)
    n = 5 * len(named)
    assert sum(r.slot is not None for r in before[:n]) == .8 * n and len(set(said)) > 20      # nothing holds in 2009

    fresh = [(r.entity, r.relation) for r in invent(later // 2, seed=8).records]
    def new_fact(i):
        s, r = rng.choice(keys) if i % 4 == 0 else near(rng, *rng.choice(keys)) if i % 4 == 1 else fresh[i // 2 % len(fresh)]
        return Fact(s, r, f"later {i}", str(date(2015, 1, 1) + timedelta(i)))
    for a, b in pairwise([*range(0, later, 10), later]):                                # ten facts a commit
        facts = [new_fact(i) for i in range(a, b)]
        registry.assert_facts(facts, learn(bank, len(facts), a + 2))
    assert len(registry) == len(old) + later == bank.num_slots

    for r in (router, LexicalRouter(registry)):                                         # the one that followed, and one that begins now
        after = r.route(questions, dates)
        kept = [a.slot == b.slot for a, b in zip(before, after)]
        shares = {"named": sum(kept[:n]) / n, "reworded": sum(kept[n:]) / len(kept[n:])}
        for name, share in shares.items(): record_property(f"route_stability_{name}", share)
        print(f"routes kept after {later} later versions: {shares['named']:.4%} of {n}, reworded {shares['reworded']:.2%} of {len(kept[n:])}")
        assert shares["named"] >= .999 and shares["reworded"] >= .8
    same_route = [before[i].slot == after[i].slot for i in some]
    assert [a for a, k in zip(answers(after), same_route) if k] == [a for a, k in zip(said, same_route) if k]
    assert any(a.slot != b.slot for a, b in zip(router.route(questions), LexicalRouter(registry, now="2014").route(questions)))     # undated, they ask about now
