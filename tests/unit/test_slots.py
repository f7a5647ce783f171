"""The slot bank against a dictionary, and the row optimiser against one torch optimiser per row."""
import pytest
import torch
from hypothesis import given, settings, strategies as st

from casm.memory import Access
from casm.slots import RowAdamW, SlotBank, commit, find, from_flat, open_slots, read_slots, select, to_flat, write_back

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


@settings(max_examples=15, deadline=None)
@given(selections=st.lists(st.sets(st.integers(0, ROWS - 1), min_size=1, max_size=4), min_size=1, max_size=12), decay=st.sampled_from([0., .1]), seed=st.integers(0, 2**31))
def test_row_adamw_is_adamw_row_by_row(selections, decay, seed):
    "value, moments and step count of an unselected row stand still; weight decay acts on selected deltas only"
    g = torch.Generator().manual_seed(seed)
    target, bank, opt = torch.randn(ROWS, DIM, generator=g), SlotBank(ROWS, DIM), None
    bank.num_slots = 1
    rows_of = [torch.nn.Parameter(torch.zeros(DIM)) for _ in range(ROWS)]
    oracle = [torch.optim.AdamW([r], lr=.05, weight_decay=decay) for r in rows_of]
    for chosen in map(sorted, selections):
        p = select(bank, 0, torch.tensor(chosen), size=4)
        opt = opt or RowAdamW([p], lr=.05, weight_decay=decay)
        access = Access(torch.tensor(chosen).view(-1, 1, 1), torch.ones(len(chosen), 1, 1))
        opt.zero_grad()
        (read_slots(bank, access, torch.zeros(len(chosen), dtype=torch.int64))[:, 0] - target[chosen]).square().sum().backward()
        opt.step()
        write_back(bank)
        for r in chosen:
            oracle[r].zero_grad()
            (rows_of[r] - target[r]).square().sum().backward()
            oracle[r].step()
    got = torch.stack([bank.storage[find(bank, torch.tensor([r]))][0] for r in range(ROWS)])
    torch.testing.assert_close(got, torch.stack([r.detach() for r in rows_of]), rtol=1e-4, atol=1e-5)


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
