"""The finetuner against one torch optimiser per row: nothing of an unselected row moves, and a selected one steps as if it were alone."""
import copy, gc, io, weakref

import pytest
import torch
from torch import nn, optim

from casm.finetuner import SparseMemoryFinetuner, SparseMemoryFinetuningArgs, UnsupportedOptimizer

ROWS, DIM = 20, 3
OPTIMIZERS = {
    "sgd": (optim.SGD, dict(lr=.1)),
    "sgd decay": (optim.SGD, dict(lr=.1, weight_decay=.1)),
    "sgd momentum": (optim.SGD, dict(lr=.1, momentum=.9, weight_decay=.1)),
    "sgd dampening": (optim.SGD, dict(lr=.1, momentum=.9, dampening=.5)),
    "sgd nesterov": (optim.SGD, dict(lr=.05, momentum=.9, nesterov=True)),
    "sgd maximize": (optim.SGD, dict(lr=.01, maximize=True)),
    "sgd fused": (optim.SGD, dict(lr=.1, momentum=.9, fused=True)),
    "adam": (optim.Adam, dict(lr=.1)),
    "adam amsgrad": (optim.Adam, dict(lr=.1, amsgrad=True, weight_decay=.1)),
    "adamw": (optim.AdamW, dict(lr=.1, weight_decay=.1)),
    "adamw foreach": (optim.AdamW, dict(lr=.1, weight_decay=.1, foreach=True)),
    "adamw fused": (optim.AdamW, dict(lr=.1, weight_decay=.1, fused=True)),
    "nadam": (optim.NAdam, dict(lr=.1)),
    "radam": (optim.RAdam, dict(lr=.1)),
    "adamax": (optim.Adamax, dict(lr=.1)),
    "adagrad": (optim.Adagrad, dict(lr=.1, lr_decay=.1, initial_accumulator_value=.2)),
    "rmsprop": (optim.RMSprop, dict(lr=.01, momentum=.5, centered=True)),
    "adadelta": (optim.Adadelta, dict(lr=1., weight_decay=.1)),
    "asgd": (optim.ASGD, dict(lr=.1, t0=3, lambd=.1)),
    "rprop": (optim.Rprop, dict(lr=.1)),
}
each = pytest.mark.parametrize("name", OPTIMIZERS)


def make(rows=ROWS, dim=DIM, dtype=torch.float32, seed=0, **settings):
    "Values to train, and a finetuner with statistics that selects every row it is told of"
    values = nn.Parameter(torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).to(dtype))
    return values, ready(values, **settings)


def ready(values, **settings):
    finetuner = SparseMemoryFinetuner(SparseMemoryFinetuningArgs(**{"top_t": len(values), **settings}), values)
    finetuner.background_tracker.start_collection()
    finetuner.background_tracker.add_batch_indices(torch.arange(len(values)))
    return finetuner


def selections(steps=50, rows=ROWS, seed=1):
    "Rows for each step, a few of them, now and then none"
    g = torch.Generator().manual_seed(seed)
    return [torch.randperm(rows, generator=g)[:n] for n in torch.randint(0, 7, (steps,), generator=g).tolist()]


def target(step, rows=ROWS, dim=DIM): return torch.randn(rows, dim, generator=torch.Generator().manual_seed(100 + step))


class PerRow:
    "The oracle: a parameter and an optimiser for every row"
    def __init__(self, values, cls, settings):
        self.rows = [nn.Parameter(v.clone()) for v in values.detach()]
        self.optimizers = [cls([r], **settings) for r in self.rows]

    def step(self, chosen, t, lr=None, scale=1.):
        for r in chosen.tolist():
            if lr is not None: self.optimizers[r].param_groups[0]["lr"] = lr
            self.optimizers[r].zero_grad()
            (self.rows[r] - t[r].to(self.rows[r].dtype)).square().sum().backward()
            self.rows[r].grad *= scale
            self.optimizers[r].step()

    @property
    def values(self): return torch.stack([r.detach() for r in self.rows])


def loss_of(values, t): return (values - t.to(values.dtype)).square().sum()


def others(chosen, rows=ROWS): return ~torch.isin(torch.arange(rows), chosen)


@each
def test_rows_step_as_if_alone(name):
    "50 steps of changing selections, two parameter groups, a learning rate that changes; the other parameter trains as ever"
    cls, settings = OPTIMIZERS[name]
    values, finetuner = make()
    oracle, other, plain = PerRow(values, cls, settings), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    opt = cls([{"params": [other], "lr": .01}, {"params": [values]}], **settings)
    opt_plain = cls([plain], **settings | {"lr": .01})
    schedules = [optim.lr_scheduler.StepLR(o, 10, .5) for o in (opt, opt_plain)]
    for i, chosen in enumerate(selections()):
        before, lr = values.detach().clone(), opt.param_groups[1]["lr"]
        finetuner.update_trainable_indices(chosen)
        opt.zero_grad(); opt_plain.zero_grad()
        (loss_of(values, target(i)) + (other - 2).square().sum()).backward()
        (plain - 2).square().sum().backward()
        opt.step(); opt_plain.step()
        oracle.step(chosen, target(i), lr)
        for s in schedules: s.step()
        assert torch.equal(values[others(chosen)], before[others(chosen)])
        torch.testing.assert_close(values.detach(), oracle.values, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(other, plain, rtol=1e-6, atol=1e-7)
    assert opt.param_groups[1]["params"] == [values]


@each
def test_closure_changes_nothing(name):
    cls, settings = OPTIMIZERS[name]
    ends = []
    for closed in (False, True):
        values, finetuner = make()
        opt = cls([values], **settings)
        for i, chosen in enumerate(selections(12)):
            finetuner.update_trainable_indices(chosen)
            def closure():
                opt.zero_grad()
                loss = loss_of(values, target(i))
                loss.backward()
                return loss
            if closed: assert opt.step(closure).item() > 0
            else: closure(); opt.step()
        ends.append(values.detach().clone())
    assert torch.equal(*ends)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions(dtype):
    values, finetuner = make(dtype=dtype)
    oracle, opt = PerRow(values, optim.AdamW, dict(lr=.05)), optim.AdamW([values], lr=.05)
    for i, chosen in enumerate(selections()):
        before = values.detach().clone()
        finetuner.update_trainable_indices(chosen)
        opt.zero_grad()
        loss_of(values, target(i)).backward()
        opt.step()
        oracle.step(chosen, target(i))
        assert values.dtype == dtype and torch.equal(values[others(chosen)], before[others(chosen)])
    torch.testing.assert_close(values.detach(), oracle.values)


def test_only_selected_rows_get_gradients_and_clipping_sees_those():
    values, finetuner = make()
    oracle, opt = PerRow(values, optim.SGD, dict(lr=.1, momentum=.9)), optim.SGD([values], lr=.1, momentum=.9)
    for i, chosen in enumerate(selections()):
        finetuner.update_trainable_indices(chosen)
        opt.zero_grad()
        loss_of(values, target(i)).backward()
        want = (2 * (values - target(i))).detach()[chosen]
        assert values.grad[others(chosen)].abs().sum() == 0 and torch.equal(values.grad[chosen], want)
        norm = nn.utils.clip_grad_norm_([values], 1.)
        torch.testing.assert_close(norm, want.norm())
        opt.step()
        oracle.step(chosen, target(i), scale=min(1., 1 / (want.norm().item() + 1e-6)))
    torch.testing.assert_close(values.detach(), oracle.values, rtol=1e-5, atol=1e-6)


def test_accumulated_micro_batches():
    "A selection for each micro-batch: its gradient reaches its rows, and the step trains the rows of all"
    values, finetuner = make()
    start, opt = values.detach().clone(), optim.SGD([values], lr=1.)
    for rows in ([1, 2], [2, 3], []):
        finetuner.update_trainable_indices(torch.tensor(rows, dtype=torch.int64))
        values.sum().backward()
    assert values.grad[:, 0].tolist()[:5] == [0, 1, 2, 1, 0]
    values.grad /= 2                                               # as an unscaling between does
    finetuner.update_trainable_indices(torch.tensor([4]))
    values.sum().backward()
    opt.step()
    assert (start - values.detach())[:, 0].tolist()[:6] == pytest.approx([0, .5, 1, .5, 1, 0], abs=1e-6)


def test_a_batch_thrown_away_leaves_no_trace():
    "Gradients set to None instead of a step (as for a NaN): rows of that batch do not count as selected"
    values, finetuner = make()
    opt = optim.AdamW([values], lr=.1, weight_decay=.5)
    for rows, keep in (([1, 2], True), ([1, 3], False), ([2], True)):
        before = values.detach().clone()
        finetuner.update_trainable_indices(torch.tensor(rows))
        opt.zero_grad()
        loss_of(values, target(0)).backward()
        if keep: opt.step()
    assert (values != before).any(1).nonzero().squeeze(1).tolist() == [2]


@pytest.mark.parametrize("name", ["sgd momentum", "sgd fused", "adamw fused"])
def test_grad_scaler_skips_an_overflow(name):
    "A fused optimiser unscales and skips inside its step; the others are not asked to step"
    cls, settings = OPTIMIZERS[name]
    values, finetuner = make()
    oracle, opt, scaler = PerRow(values, cls, settings), cls([values], **settings), torch.amp.GradScaler("cpu", init_scale=4.)
    for i, scale in enumerate((float("inf"), 1., float("inf"), 1., 1.)):
        finetuner.update_trainable_indices(torch.tensor([3, 4]))
        opt.zero_grad()
        scaler.scale(loss_of(values, target(i)) * scale).backward()
        scaler.step(opt)
        scaler.update()
        if scale == 1.: oracle.step(torch.tensor([3, 4]), target(i))
        elif not i: assert not any(len(t) for t in finetuner.state_dict(opt).values())
        torch.testing.assert_close(values.detach(), oracle.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd momentum", "adamw", "adagrad"])
def test_sparse_gradients(name):
    "An embedding with sparse=True trains as a dense one does; the rows of its gradient are the selected ones"
    cls, settings = OPTIMIZERS[name]
    ends = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(ROWS, DIM, sparse=sparse)
        finetuner, opt = ready(table.weight), cls([table.weight], **settings)
        for i, chosen in enumerate(selections(20)):
            opt.zero_grad()
            for micro in chosen.split(3):
                finetuner.update_trainable_indices(micro)
                (table(torch.arange(ROWS).repeat(2)) - target(i).repeat(2, 1)).square().sum().backward()
            if len(chosen): assert table.weight.grad.is_sparse == sparse and torch.isin(table.weight.grad.to_dense().abs().sum(1).nonzero(), chosen).all()
            opt.step()
        ends.append(table.weight.detach().clone())
    torch.testing.assert_close(*ends)


def test_values_shared_by_two_layers():
    values, finetuner = make()
    layers = nn.ModuleList([nn.Module(), nn.Module()])
    for m in layers: m.values = values
    opt, start = optim.SGD(layers.parameters(), lr=1.), values.detach().clone()
    finetuner.update_trainable_indices(torch.tensor([5, 6, 6]))
    (layers[0].values.sum() + 2 * layers[1].values[6:].sum()).backward()
    opt.step()
    assert (start - values.detach())[4:8, 0].tolist() == pytest.approx([0, 1, 3, 0], abs=1e-6)


def test_two_tables_in_one_optimiser():
    (a, fa), (b, fb) = make(seed=0), make(seed=1)
    opt, was = optim.SGD([a, b], lr=.1), (a.detach().clone(), b.detach().clone())
    fa.update_trainable_indices(torch.tensor([1])); fb.update_trainable_indices(torch.tensor([2]))
    opt.step(lambda: (loss_of(a, target(0)) + loss_of(b, target(0))).backward())
    assert [(v != w).any(1).nonzero().squeeze(1).tolist() for v, w in zip((a, b), was)] == [[1], [2]]


def test_two_optimisers_keep_their_own_state():
    values, finetuner = make()
    first, second = optim.Adam([values], lr=.1), optim.Adam([values], lr=.1)
    finetuner.update_trainable_indices(torch.tensor([1]))
    loss_of(values, target(0)).backward()
    for _ in range(3): first.step()
    second.step()
    steps = [finetuner.state_dict(o)["Adam.step"].item() for o in (first, second)]
    assert steps == [3, 1]
    del first
    gc.collect()
    assert len(finetuner.states) == 1


@pytest.mark.parametrize("name", ["sgd", "sgd momentum", "adamw", "nadam", "rmsprop"])
def test_resume_is_bit_identical(name):
    "Values, the optimiser's and the finetuner's state dictionaries: the rest of the run is the same"
    cls, settings = OPTIMIZERS[name]
    def train(values, finetuner, opt, steps):
        for i in steps:
            finetuner.update_trainable_indices(selections()[i])
            opt.zero_grad()
            loss_of(values, target(i)).backward()
            opt.step()
    values, finetuner = make()
    opt = cls([values], **settings)
    train(values, finetuner, opt, range(10))
    file = io.BytesIO()
    torch.save({"values": values.detach(), "opt": opt.state_dict(), "rows": finetuner.state_dict(opt)}, file)
    train(values, finetuner, opt, range(10, 20))

    saved = torch.load(io.BytesIO(file.getvalue()))                # weights_only: tensors and numbers, no code
    resumed = nn.Parameter(saved["values"].clone())
    finetuner_2, opt_2 = ready(resumed), cls([resumed], **settings)
    opt_2.load_state_dict(saved["opt"])
    finetuner_2.load_state_dict(saved["rows"], opt_2)
    train(resumed, finetuner_2, opt_2, range(10, 20))
    assert torch.equal(values, resumed)
    for a, b in zip(finetuner.state_dict(opt).values(), finetuner_2.state_dict(opt_2).values()): assert torch.equal(a, b)


def test_rows_go_on_from_dense_training():
    "What the optimiser gathered before there was a finetuner is where the rows start"
    values, cls, settings = nn.Parameter(torch.randn(ROWS, DIM)), optim.AdamW, dict(lr=.1)
    oracle, opt, every = PerRow(values, cls, settings), cls([values], **settings), torch.arange(ROWS)
    def step(i):
        opt.zero_grad()
        loss_of(values, target(i)).backward()
        opt.step()
    for i in range(3): step(i); oracle.step(every, target(i))
    finetuner = ready(values)
    for i, chosen in enumerate(selections(10), 3): finetuner.update_trainable_indices(chosen); step(i); oracle.step(chosen, target(i))
    torch.testing.assert_close(values.detach(), oracle.values, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make_optimizer", [
    lambda ps: optim.LBFGS(ps), lambda ps: optim.Adafactor(ps), lambda ps: optim.SparseAdam(ps), lambda ps: type("MyAdam", (optim.Adam,), {})(ps),
    lambda ps: optim.SGD(ps, differentiable=True), lambda ps: optim.Muon(ps) if hasattr(optim, "Muon") else optim.LBFGS(ps)])
@pytest.mark.parametrize("closed", [False, True])
def test_other_optimisers_have_an_exception_of_their_own(make_optimizer, closed):
    values, finetuner = make()
    other = nn.Parameter(torch.ones(2, 2))
    opt, was = make_optimizer([values, other]), (values.detach().clone(), other.detach().clone())
    finetuner.update_trainable_indices(torch.tensor([1]))
    loss = lambda: loss_of(values, target(0)) + other.sum()        # noqa: E731
    loss().backward()
    with pytest.raises(UnsupportedOptimizer, match=type(opt).__name__): opt.step(loss) if closed else opt.step()
    with pytest.raises(UnsupportedOptimizer, match=type(opt).__name__): finetuner.attach(opt)
    assert torch.equal(values, was[0]) and torch.equal(other, was[1]) and not opt.state and values.grad is not None


def test_without_statistics_nothing_trains(tmp_path):
    values = nn.Parameter(torch.ones(ROWS, DIM))
    finetuner, opt = SparseMemoryFinetuner(SparseMemoryFinetuningArgs(), values), optim.AdamW([values], lr=.1)
    tracker = finetuner.background_tracker
    with pytest.raises(ValueError, match="no background statistics"): finetuner.update_trainable_indices(torch.tensor([1]))
    with pytest.raises(ValueError, match="start_collection"): tracker.add_batch_indices(torch.tensor([1]))
    with pytest.raises(ValueError, match="no background statistics"): finetuner.save_background_indices(tmp_path / "bg.pt")
    tracker.start_collection()
    with pytest.raises(ValueError, match="no background batch"): finetuner.update_trainable_indices(torch.tensor([1]))
    loss_of(values, target(0)).backward()
    with pytest.raises(ValueError, match="no rows are selected"): opt.step()
    with pytest.raises(ValueError, match="no rows are selected"): opt.step(lambda: loss_of(values, target(0)).backward())
    assert torch.equal(values, torch.ones(ROWS, DIM)) and not list(tmp_path.iterdir())
    values.grad = None
    opt.step()                                                     # nothing to refuse


def test_a_selection_stands_until_the_next_one():
    values, finetuner = make()
    opt, before = optim.AdamW([values], lr=.1), values.detach().clone()
    finetuner.update_trainable_indices(torch.tensor([2]))
    for _ in range(3):
        opt.zero_grad()
        loss_of(values, target(0)).backward()
        opt.step()
        opt.step()                                                 # the same gradient again
    assert (values != before).any(1).nonzero().squeeze(1).tolist() == [2]
    assert finetuner.state_dict(opt)["AdamW.step"].tolist() == [6]


@pytest.mark.parametrize("indices, says", [
    (torch.tensor([.5]), "indices of torch.float32"), (torch.tensor([True]), "indices of torch.bool"), ([1, 2], "indices of list"), (None, "indices of NoneType"),
    (torch.tensor([ROWS]), f"rows 0 to {ROWS - 1}"), (torch.tensor([-1]), f"rows 0 to {ROWS - 1}")])
def test_bad_indices_change_nothing(indices, says):
    values, finetuner = make()
    selected = finetuner.update_trainable_indices(torch.tensor([7]))
    stats = copy.deepcopy(finetuner.background_tracker.stats)
    with pytest.raises(ValueError, match=says): finetuner.update_trainable_indices(indices)
    with pytest.raises(ValueError, match=says): finetuner.background_tracker.add_batch_indices(indices)
    assert torch.equal(finetuner.mask.rows, selected) and finetuner.background_tracker.stats.batches == stats.batches


def test_no_indices_select_no_rows():
    values, finetuner = make()
    opt, before = optim.AdamW([values], lr=.1), values.detach().clone()
    finetuner.update_trainable_indices(torch.tensor([1]))
    assert finetuner.update_trainable_indices(torch.empty(2, 0, dtype=torch.int64)).tolist() == []
    loss_of(values, target(0)).backward()
    opt.step()
    assert torch.equal(values, before)


@pytest.mark.parametrize("use_idf, want", [(True, [1, 2]), (False, [0, 1])])
def test_top_t_by_either_score(use_idf, want):
    "Row 0 is read most, and by every background batch"
    values, finetuner = make(rows=4, top_t=2, use_idf=use_idf)
    finetuner.background_tracker.start_collection()
    for _ in range(3): finetuner.background_tracker.add_batch_indices(torch.tensor([0]))
    assert finetuner.update_trainable_indices(torch.tensor([[0, 0, 0], [1, 1, 2]], dtype=torch.int32)).tolist() == want


def test_statistics_go_through_a_file_of_any_name(tmp_path):
    values, finetuner = make()
    finetuner.background_tracker.add_batch_indices(torch.tensor([3]))
    finetuner.save_background_indices(tmp_path / "bg_indices.pt")
    again = SparseMemoryFinetuner(SparseMemoryFinetuningArgs(), nn.Parameter(torch.ones(ROWS, DIM)))
    again.load_background_indices(str(tmp_path / "bg_indices.pt"))
    assert torch.equal(again.background_tracker.stats.df, finetuner.background_tracker.stats.df)
    again.background_tracker.add_batch_indices(torch.tensor([3]))  # goes on counting
    assert again.background_tracker.stats.batches == 3

    smaller, other = make(rows=ROWS - 1)
    kept = other.background_tracker.stats
    with pytest.raises(ValueError, match="another memory"): other.load_background_indices(tmp_path / "bg_indices.pt")
    torch.save({"df": torch.ones(3)}, tmp_path / "pickle.pt")
    with pytest.raises(ValueError, match="no whole safetensors file"): other.load_background_indices(tmp_path / "pickle.pt")
    assert other.background_tracker.stats is kept


@each
def test_not_enabled_is_not_there(name):
    cls, settings = OPTIMIZERS[name]
    ends = []
    for there in (False, True):
        values = nn.Parameter(torch.ones(ROWS, DIM))
        opt = cls([values], **settings)
        if there:
            finetuner = SparseMemoryFinetuner(SparseMemoryFinetuningArgs(enabled=False), values)
            assert finetuner.update_trainable_indices(torch.tensor([1])) is None
        for i in range(3):
            opt.zero_grad()
            loss_of(values, target(i)).backward()
            opt.step()
        ends.append(values.detach().clone())
    assert torch.equal(*ends)


def test_memory_follows_the_selected_rows():
    "Nothing of the size of the table is kept, however often few rows are selected"
    values, finetuner = make(rows=50_000, dim=4)
    opt = optim.AdamW([values], lr=.1)
    for i in range(10):
        finetuner.update_trainable_indices(torch.arange(i, i + 10))
        opt.zero_grad()
        values[:100].sum().backward()
        opt.step()
    states = finetuner.states[opt]
    assert states.used == 19 and all(len(t) < 2 * 19 for t in states.tables.values()) and not opt.state
    assert sum(t.numel() for t in (states.where, *states.tables.values())) < values.numel() // 2


def test_the_values_keep_their_finetuner():
    "A finetuner nobody remembers still guards; when the table goes, it goes"
    values = make()[0]
    opt, before = optim.SGD([values], lr=.1), values.detach().clone()
    gc.collect()
    loss_of(values, target(0)).backward()
    with pytest.raises(ValueError, match="no rows are selected"): opt.step()
    assert torch.equal(values, before)
    values, finetuner = make()
    gone = weakref.ref(values)
    del values
    gc.collect()
    assert gone() is None
    with pytest.raises(ValueError, match="its model is gone"): finetuner.update_trainable_indices(torch.tensor([1]))


def test_a_second_finetuner_takes_over_and_detach_ends_it():
    values, first = make()
    second = ready(values)
    with pytest.raises(ValueError, match="replaced by another"): first.update_trainable_indices(torch.tensor([1]))
    opt, before = optim.SGD([values], lr=.1), values.detach().clone()
    second.update_trainable_indices(torch.tensor([2]))
    loss_of(values, target(0)).backward()
    opt.step()
    assert (values != before).any(1).nonzero().squeeze(1).tolist() == [2]
    second.detach()
    opt.zero_grad()
    loss_of(values, target(0)).backward()
    opt.step()
    assert (values != before).any(1).all()


@pytest.mark.parametrize("closed", [False, True])
def test_a_step_that_fails_leaves_everything_usable(closed):
    values, finetuner = make()
    other = nn.Parameter(torch.ones(2))
    opt, before = optim.Adam([other, values], lr=.1), values.detach().clone()
    finetuner.update_trainable_indices(torch.tensor([1]))
    def fails():
        loss_of(values, target(0)).backward()
        raise KeyboardInterrupt
    if closed:
        with pytest.raises(KeyboardInterrupt): opt.step(fails)
    else:
        loss_of(values, target(0)).backward()
        other.grad = torch.ones(2)
        opt.state[other] = {"step": "broken"}
        with pytest.raises((KeyError, TypeError, AttributeError)): opt.step()
        opt.state.clear()
    assert torch.equal(values, before)
    opt.zero_grad()
    opt.step()                                                     # no gradient: whatever was hidden does not come back
    assert torch.equal(values, before) and not opt.state
    loss_of(values, target(0)).backward()
    opt.step()
    assert (values != before).any(1).nonzero().squeeze(1).tolist() == [1]


def test_models_are_copied_and_saved_as_before():
    model = nn.Module()
    model.values, finetuner = make()
    finetuner.update_trainable_indices(torch.tensor([1]))
    for twin in (copy.deepcopy(model), torch.load(_saved(model), weights_only=False)): assert torch.equal(twin.values, model.values)


def _saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return file


README = '''
from casm import SparseMemoryFinetuner, SparseMemoryFinetuningArgs

args = SparseMemoryFinetuningArgs(
    enabled=True,
    top_t=500,
    use_idf=True,
)

# pass the memory VALUES parameter (not keys)
finetuner = SparseMemoryFinetuner(args, model.memory_values)

# collect background indices first (1000 batches from DCLM or similar)
finetuner.background_tracker.start_collection()
for batch in background_loader:
    indices = forward_and_get_indices(model, batch)
    finetuner.background_tracker.add_batch_indices(indices)
finetuner.save_background_indices("bg_indices.pt")

# training
finetuner.load_background_indices("bg_indices.pt")
for batch in train_loader:
    indices = forward_and_get_indices(model, batch)
    finetuner.update_trainable_indices(indices)  # selects top-t by TF-IDF

    loss.backward()  # only top-t get gradients
    optimizer.step()
'''


class SomebodysMemory(nn.Module):
    "As the README tells it: the top 32 keys, a softmax, and the indices returned too"
    def __init__(self, rows=4096, dim=16):
        super().__init__()
        self.keys, self.memory_values = (nn.Parameter(torch.randn(rows, dim)) for _ in range(2))
        self.head = nn.Linear(dim, dim)
        self.keys.requires_grad_(False)

    def forward(self, query):
        scores, indices = (query @ self.keys.T).topk(32)
        return self.head((scores.softmax(-1).unsqueeze(-1) * self.memory_values[indices]).sum(-2)), indices


@pytest.mark.parametrize("zero", [True, False])
@pytest.mark.parametrize("name", ["sgd", "sgd momentum", "adamw", "rmsprop"])
def test_the_readers_example_word_for_word(name, zero, tmp_path, monkeypatch):
    "The second seed's example, its first line aside, on a memory layer of the reader's own"
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    cls, settings = OPTIMIZERS[name]
    model = SomebodysMemory()
    optimizer = cls([p for p in model.parameters() if p.requires_grad], **settings)
    batches, seen = [torch.randn(16, 8, 16) for _ in range(12)], []

    def forward_and_get_indices(model, batch):
        grad = model.memory_values.grad
        if "loss" in names: seen[-1] += (model.memory_values.detach().clone(), None if grad is None else grad.clone())
        out, indices = model(batch)
        if zero: optimizer.zero_grad()                             # the example leaves it out
        names["loss"] = (out - batch).square().mean()
        seen.append((model.memory_values.detach().clone(), indices))
        return indices
    names = dict(model=model, optimizer=optimizer, forward_and_get_indices=forward_and_get_indices, background_loader=batches[:6], train_loader=batches[6:])
    exec(README, names)
    forward_and_get_indices(model, batches[0])
    assert (tmp_path / "bg_indices.pt").exists() and names["finetuner"].background_tracker.stats.batches == 6
    for before, indices, after, grad in seen[6:-1]:
        moved, with_grad = ((x != 0).any(1).nonzero().squeeze(1) for x in (after - before, grad))
        assert 0 < len(moved) <= len(with_grad) <= 500 and torch.isin(moved, with_grad).all() and torch.isin(with_grad, indices).all()
    assert len(seen) == 13


def _rank(rank, file, out):
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = SomebodysMemory(rows=256)
    finetuner = ready(model.memory_values, top_t=20)
    for _ in range(20): finetuner.background_tracker.add_batch_indices(torch.arange(8))
    parallel = nn.parallel.DistributedDataParallel(model)
    opt = optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=.1)
    for step in range(3):
        x = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(10 * step + rank))
        y, indices = parallel(x)
        rows = finetuner.update_trainable_indices(indices)
        opt.zero_grad()
        (y - x).square().mean().backward()
        opt.step()
    torch.save({"values": model.memory_values.detach(), "rows": rows}, f"{out}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_agree(tmp_path):
    torch.multiprocessing.spawn(_rank, (str(tmp_path / "meet"), str(tmp_path)), nprocs=2)
    a, b = (torch.load(tmp_path / f"{r}.pt") for r in range(2))
    assert torch.equal(a["values"], b["values"]) and torch.equal(a["rows"], b["rows"]) and len(a["rows"]) == 20
