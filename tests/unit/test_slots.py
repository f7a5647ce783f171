"""The slot bank against a dictionary, and the row optimisers against one torch optimiser per row."""
import copy

import pytest
import torch
from hypothesis import given, settings, strategies as st

from casm.memory import Access, MemoryConfig, SparseMemory, read_rows
from casm.slots import PART, RowAdamW, RowSGD, SlotBank, commit, export_slot, find, from_flat, import_slot, mark
from casm.slots import open_slots, read_slots, retire, rollback_slot, select, share_read, to_flat, truncate, write_back

ROWS, DIM = 12, 3
row_sets = st.lists(st.sets(st.integers(0, ROWS - 1), min_size=1), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(periods=st.lists(row_sets, min_size=1, max_size=4), seed=st.integers(0, 2**31))
def test_bank_is_a_dictionary(periods, seed):
    "whatever is opened in whatever order: each slot reads its own deltas, through the flat form too, and earlier readings never change"
    g, bank, known, earlier = torch.Generator().manual_seed(seed), SlotBank(ROWS, DIM), {}, []
    access = Access(torch.randint(0, ROWS, (1, 4, 5), generator=g), torch.rand(1, 4, 5, generator=g))
    for sets in periods:
        slots = open_slots(bank, [torch.tensor(sorted(s, key=lambda r: (r * 7) % 5)) for s in sets])
        with torch.no_grad(): bank.param[1:] = torch.randn(len(bank.param) - 1, DIM, generator=g)
        trained = read_slots(bank, access, torch.tensor(slots[:1]))
        commit(bank)
        assert torch.equal(read_slots(bank, access, torch.tensor(slots[:1])), trained.detach())
        for s, rows in zip(slots, sets):
            for r in rows: known[s, r] = bank.storage[find(bank, torch.tensor([s * ROWS + r]))][0]
        for slot, was in earlier: assert torch.equal(read_slots(bank, access, torch.tensor([slot])), was)
        earlier += [(s, read_slots(bank, access, torch.tensor([s]))) for s in slots]
    for b in (bank, from_flat(ROWS, **to_flat(bank))):
        for slot in range(bank.num_slots):
            want = torch.stack([sum((w * known.get((slot, int(r)), torch.zeros(DIM)) for r, w in zip(rs, ws)), torch.zeros(DIM)) for rs, ws in zip(access.rows[0], access.weights[0])])
            torch.testing.assert_close(read_slots(b, access, torch.tensor([slot]))[0], want, rtol=1e-4, atol=1e-5)


def dense(bank):
    "The deltas of slot 0, one line per row of the table"
    lines, out = find(bank, torch.arange(bank.num_rows)), to_flat(bank)
    deltas = torch.zeros(bank.num_rows, bank.dim)
    deltas[out["rows"][:out["offsets"][1]]] = out["delta"][:out["offsets"][1]]
    assert torch.equal((lines > 0).nonzero().squeeze(1), out["rows"][:out["offsets"][1]])
    return deltas


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(st.tuples(st.lists(st.integers(0, ROWS - 1), max_size=5, unique=True), st.booleans()), min_size=1, max_size=10), seed=st.integers(0, 2**31))
def test_selecting_is_a_dictionary(steps, seed):
    "whatever is selected, in whatever order, written back or not: every row keeps its last value and is read with it"
    g, bank, known = torch.Generator().manual_seed(seed), SlotBank(ROWS, DIM), torch.zeros(ROWS, DIM)
    bank.num_slots = 1
    access = Access(torch.arange(ROWS).view(1, ROWS, 1), torch.ones(1, ROWS, 1))
    for rows, back in steps:
        p = select(bank, 0, torch.tensor(rows, dtype=torch.int64), size=5)
        assert p is bank.param and len(p) == 6
        values = torch.randn(len(rows), DIM, generator=g)
        with torch.no_grad(): p[1:len(rows) + 1] = values
        known[rows] = values
        for _ in range(2):
            assert torch.equal(dense(bank), known)
            assert torch.equal(read_slots(bank, access, torch.tensor([0]))[0], known)
            if back: write_back(bank)


OPTIMISERS = {"sgd": (RowSGD, torch.optim.SGD, dict(lr=.5)), "momentum": (RowSGD, torch.optim.SGD, dict(lr=.2, momentum=.9)),
              "adamw": (RowAdamW, torch.optim.AdamW, dict(lr=.05, betas=(.8, .99)))}


@pytest.mark.parametrize("micro", [1, 3])
@pytest.mark.parametrize("decay", [0., .1])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_rows_train_as_under_the_oracle(name, decay, micro):
    """Fifty steps with selections that change, accumulation under fixed rows, and clipping, against a dense table of deltas of which an
    unselected row's value, moments and step count are frozen. Unselected rows are bit-identical through each step, the table throughout."""
    R, t, g = 40, 8, torch.Generator().manual_seed(micro)
    ours, theirs, settings = OPTIMISERS[name]
    table = torch.randn(R, DIM, generator=g)
    start, bank, opt, norms = table.clone(), SlotBank(R, DIM), None, []
    bank.num_slots = 1
    delta = [torch.nn.Parameter(torch.zeros(DIM)) for _ in range(R)]
    oracle = [theirs([d], **settings, weight_decay=decay) for d in delta]
    for step in range(50):
        batch = [(torch.randint(0, R - 2, (2, 3, 4), generator=g), torch.rand(2, 3, 4, generator=g), torch.randn(2, 3, DIM, generator=g)) for _ in range(micro)]
        chosen = torch.cat([rows for rows, _, _ in batch]).unique()
        chosen = chosen[torch.randperm(len(chosen), generator=g)][:t - step % 3]
        before, kept = dense(bank), torch.ones(R, dtype=torch.bool).index_fill_(0, chosen, False)
        p = select(bank, 0, chosen, size=t)
        opt = opt or ours([p], **settings, weight_decay=decay)
        opt.zero_grad()
        for rows, weights, target in batch:
            y = read_rows(table, rows, weights) + read_slots(bank, Access(rows, weights), torch.zeros(2, dtype=torch.int64))
            ((y.tanh() - target).square().mean() / micro).backward()
            ((read_rows(table + torch.stack(delta), rows, weights).tanh() - target).square().mean() / micro).backward()
        for r in kept.nonzero().flatten().tolist(): delta[r].grad = None
        norms.append(torch.nn.utils.clip_grad_norm_([p], .1))
        torch.testing.assert_close(norms[-1], torch.nn.utils.clip_grad_norm_(delta, .1), rtol=1e-4, atol=1e-6)
        opt.step(); write_back(bank)
        for r in chosen.tolist(): oracle[r].step()
        for d in delta: d.grad = None
        assert torch.equal(dense(bank)[kept], before[kept])
    torch.testing.assert_close(dense(bank), torch.stack(delta).detach(), rtol=1e-4, atol=1e-5)
    assert torch.equal(table, start) and not dense(bank)[-2:].any() and len(bank) == R - 2
    assert max(norms) > .1                                                       # clipping had something to do


def pull(bank, p, rows, target):
    access = Access(rows.view(-1, 1, 1), torch.ones(len(rows), 1, 1))
    return (read_slots(bank, access, torch.zeros(len(rows), dtype=torch.int64))[:, 0] - target[rows]).square().sum()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_open_slots_train_as_under_torch(name):
    "Rows that all train in each step: the row optimiser is torch's on the compact parameter"
    ours, theirs, settings = OPTIMISERS[name]
    learnt = []
    for make in (ours, theirs):
        bank, g = SlotBank(ROWS, DIM), torch.Generator().manual_seed(0)
        open_slots(bank, [torch.tensor([3, 7]), torch.tensor([3])])
        opt = make([bank.param], **settings, weight_decay=.1)
        for _ in range(20):
            access = Access(torch.randint(0, ROWS, (2, 9, 3), generator=g), torch.rand(2, 9, 3, generator=g))
            opt.zero_grad(); (read_slots(bank, access, torch.tensor([0, 1])) - 1).square().mean().backward(); opt.step()
        commit(bank)
        learnt.append(to_flat(bank)["delta"])
    torch.testing.assert_close(*learnt)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_stored_optimiser_goes_on(name):
    "state_dict half-way, into a new optimiser: the same to the bit; a closure gives the same step as a loss outside"
    ours, _, settings = OPTIMISERS[name]
    learnt = []
    for swap in (False, True):
        bank, g = SlotBank(ROWS, DIM), torch.Generator().manual_seed(0)
        bank.num_slots = 1
        target, opt = torch.randn(ROWS, DIM, generator=g), None
        for step in range(12):
            rows = torch.randperm(ROWS, generator=g)[:3]
            p = select(bank, 0, rows, size=3)
            opt = opt or ours([p], **settings)
            if swap and step == 6:
                state = copy.deepcopy(opt.state_dict())
                opt = ours([p], **settings)
                opt.load_state_dict(state)
            def loss():
                opt.zero_grad()
                value = pull(bank, p, rows, target)
                value.backward()
                return value
            if swap: assert opt.step(loss) is not None
            else: loss(); opt.step()
            write_back(bank)
        learnt.append(dense(bank))
    assert torch.equal(*learnt)


def test_nothing_moves_without_rows_in_training():
    "A step after write_back, or without a gradient, changes neither rows nor what the optimiser remembers"
    bank, target = SlotBank(ROWS, DIM), torch.ones(ROWS, DIM)
    bank.num_slots = 1
    p = select(bank, 0, torch.tensor([2, 5]), size=3)
    opt = RowAdamW([p], lr=.1, weight_decay=.5)
    opt.step()
    pull(bank, p, torch.tensor([2, 5]), target).backward()
    opt.step(); write_back(bank)
    was, remembered = dense(bank), copy.deepcopy(opt.state_dict()["state"])
    opt.step()
    assert torch.equal(dense(bank), was) and was[[2, 5]].all()
    for k, v in opt.state_dict()["state"][0].items(): assert torch.equal(v, remembered[0][k])


@pytest.mark.parametrize("scaled", [False, True])
def test_mixed_precision(scaled):
    "Half-precision memory under autocast, with and without a gradient scaler: deltas stay float32, unselected rows bit-identical"
    torch.manual_seed(0)
    memory = SparseMemory(MemoryConfig(16, n_keys=8, heads=2, top_k=4, key_dim=8)).to(torch.bfloat16).requires_grad_(False)
    torch.nn.init.normal_(memory.table)
    start, bank, opt, scaler = memory.table.clone(), SlotBank(64, 16), None, torch.amp.GradScaler("cpu", enabled=scaled, init_scale=16.)
    bank.num_slots = 1
    target, losses = torch.randn(16), []
    for step in range(20):
        hidden, slots = torch.randn(3, 5, 16, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.int64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            access = memory.lookup(hidden)
            chosen = access.rows.unique()[:12]
            before, kept = dense(bank), torch.ones(64, dtype=torch.bool).index_fill_(0, chosen, False)
            p = select(bank, 0, chosen, size=12)
            opt = opt or RowAdamW([p], lr=.1, weight_decay=.1)
            delta = read_slots(bank, access, slots)
            y = memory.read(access) + delta
            loss = (memory.project(hidden, y).float() - target).square().mean()
        assert delta.dtype == p.dtype == torch.float32
        opt.zero_grad(); scaler.scale(loss).backward()
        assert p.grad.dtype == torch.float32 and p.grad.any()
        scaler.step(opt); scaler.update(); write_back(bank)
        assert torch.equal(dense(bank)[kept], before[kept]) and dense(bank).dtype == torch.float32
        losses.append(loss.item())
    assert torch.equal(memory.table, start) and sum(losses[-5:]) < sum(losses[:5])


def test_too_many_rows_change_nothing():
    bank = SlotBank(ROWS, DIM)
    bank.num_slots = 1
    with pytest.raises(ValueError, match="size=2"): select(bank, 0, torch.tensor([1, 2, 3]), size=2)
    assert len(bank) == 0 and bank.param is None


@pytest.mark.parametrize("break_it", [lambda f: f | {"rows": f["rows"][[1, 0, 2]]}, lambda f: f | {"offsets": f["offsets"][:-1]}, lambda f: f | {"delta": f["delta"][:-1]},
                                      lambda f: f | {"rows": f["rows"] + ROWS}])
def test_damaged_tensors_are_refused(break_it):
    bank = SlotBank(ROWS, DIM)
    open_slots(bank, [torch.tensor([1, 5]), torch.tensor([2])])
    commit(bank)
    with pytest.raises(ValueError, match="damaged"): from_flat(ROWS, **break_it(to_flat(bank)))


marks_of_slots = st.lists(st.tuples(st.sets(st.integers(0, 30), max_size=6), st.sets(st.integers(0, 30), max_size=6)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(marks=marks_of_slots, reads=st.lists(st.integers(0, 30), min_size=1, max_size=12), drop=st.integers(0, 4), seed=st.integers(0, 99))
def test_marks_are_sets(marks, reads, drop, seed, tmp_path_factory):
    "in whatever order slots are marked, through the flat form, files, retirement and undo: a question reads so much of each part"
    g, bank, folder = torch.Generator().manual_seed(seed), SlotBank(ROWS, DIM), tmp_path_factory.mktemp("slots")
    open_slots(bank, [torch.tensor([0])] * len(marks)); commit(bank)
    for s in torch.randperm(len(marks), generator=g).tolist():
        mark(bank, [s], [torch.tensor([part * PART + r for part, rows in enumerate(marks[s]) for r in rows], dtype=torch.int64)])
    def share(slot): return min((len(rows & set(reads)) / len(rows) for rows in marks[slot] if rows), default=1.)
    def check(bank, want):
        got = share_read(bank, torch.tensor([*range(len(want)), -1]), torch.tensor([reads] * (len(want) + 1)))
        torch.testing.assert_close(got, torch.tensor([*want, 1.]))
    want = [share(s) for s in range(len(marks))]
    check(bank, want)
    check(from_flat(ROWS, **to_flat(bank)), want)
    slot = drop % len(marks)
    export_slot(bank, slot, folder / "slot", "m")
    retire(bank, [slot])
    check(bank, [1. if s == slot else w for s, w in enumerate(want)])
    rollback_slot(bank, slot, folder / "slot", "m")
    check(bank, want)
    assert import_slot(bank, folder / "slot", "m") == len(marks)
    check(bank, [*want, want[slot]])
    truncate(bank, slot)
    check(bank, want[:slot])
    assert not len(bank.marks) or int(bank.marked.max()) < slot


MARK_DAMAGE = {
    "below 0": lambda f: f | {"marks": f["marks"] - 8}, "fewer marks": lambda f: f | {"marks": f["marks"][:-1]},
    "out of order": lambda f: f | {"marked": f["marked"].flip(0)}, "a slot too high": lambda f: f | {"marked": f["marked"] + 1},
    "a slot too low": lambda f: f | {"marked": f["marked"] - 1}, "int64": lambda f: f | {"marks": f["marks"].long()},
    "float": lambda f: f | {"marks": f["marks"].float()}, "no slots": lambda f: f | {"marked": None},
    "no marks": lambda f: {k: v for k, v in f.items() if k != "marks"},
}

@pytest.mark.parametrize("break_it", MARK_DAMAGE.values(), ids=MARK_DAMAGE)
def test_damaged_marks_are_refused(break_it):
    bank = SlotBank(ROWS, DIM)
    open_slots(bank, [torch.tensor([1, 5]), torch.tensor([2])])
    commit(bank)
    mark(bank, [0, 1], [torch.tensor([7, 4]), torch.tensor([9])])
    assert torch.equal(from_flat(ROWS, **to_flat(bank)).marks, torch.tensor([7, 4, 9]))
    with pytest.raises(ValueError, match="damaged"): from_flat(ROWS, **break_it(to_flat(bank)))


def test_optimiser_state_stays_with_its_bank():
    "state is kept by line of storage, and a bank read back from flat tensors has other lines"
    bank = SlotBank(ROWS, DIM)
    bank.num_slots = 1
    opt = RowAdamW([select(bank, 0, torch.tensor([5]), 4)], lr=.1)
    bank.param.grad = torch.ones_like(bank.param)
    opt.step(); write_back(bank)
    same = RowAdamW([select(bank, 0, torch.tensor([3]), 4)], lr=.1)
    same.load_state_dict(opt.state_dict())
    write_back(bank)
    other = from_flat(ROWS, **to_flat(bank))
    with pytest.raises(ValueError, match="another bank"): RowAdamW([select(other, 0, torch.tensor([3]), 4)], lr=.1).load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="lr=inf"): RowAdamW([bank.param], lr=float("inf"))
