"""Product keys find what brute force finds; a memory does nothing until it learns, and learns from its first step."""
import pytest
import torch
from hypothesis import given, settings, strategies as st

from casm.memory import (MemoryConfig, SparseMemory, access_share, load_memory, lookup_hash, memory_hash, paper_memory, product_topk, record_access,
                         save_memory, whiten_queries)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(1, 20), half=st.integers(1, 9), lead=st.lists(st.integers(1, 4), max_size=3), share=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_product_topk_is_brute_force(n, half, lead, share, seed):
    "for random shapes, ties aside: random reals have none"
    g = torch.Generator().manual_seed(seed)
    q, keys = torch.randn(*lead, 2, half, generator=g), torch.randn(2, n, half, generator=g)
    k = max(1, round(share * n * n))
    scores, rows = product_topk(q, keys, k)
    every = (q.double()[..., 0, :] @ keys[0].double().T).unsqueeze(-1) + (q.double()[..., 1, :] @ keys[1].double().T).unsqueeze(-2)
    best = every.flatten(-2).topk(k)
    torch.testing.assert_close(scores.double(), best.values, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(every.flatten(-2).gather(-1, rows), best.values, rtol=1e-4, atol=1e-4)
    assert all(len(set(r)) == k for r in rows.reshape(-1, k).tolist())


def reference(memory, x, layer):
    "One position at a time in float64, every row scored: an independent writing of the formulas"
    c, out = memory.config, []
    w = {n.removeprefix(f"readers.{layer}."): p.detach().double() for n, p in memory.named_parameters()}
    rms = lambda v: v / (v.square().mean(-1, keepdim=True) + 1e-6).sqrt() if c.qk_norm else v  # noqa: E731
    mine = w["table"] if c.share_values else w["table"].chunk(c.num_readers)[layer]
    for h in x.reshape(-1, c.hidden_size).double():
        q, keys, y = rms((w["query.weight"] @ h).view(c.heads, 2, -1)), rms(w["keys"]), torch.zeros(c.value_dim, dtype=torch.float64)
        for i in range(c.heads):
            scores = ((keys[i, 0] @ q[i, 0])[:, None] + (keys[i, 1] @ q[i, 1])[None, :]).flatten() / (c.key_dim / 2) ** .5
            best = scores.topk(c.top_k)
            y += best.values.softmax(0) @ mine[best.indices]
        g = w["gate.weight"] @ h
        out.append(w["out.weight"] @ (y * g * g.sigmoid()))
    return torch.stack(out).view(x.shape)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 9), heads=st.integers(1, 3), half=st.integers(2, 5), value=st.integers(1, 9), norm=st.booleans(), share=st.booleans(),
       layers=st.sampled_from([(), (0,), (1, 4), (0, 2, 3)]), seed=st.integers(0, 2**31))
def test_every_reader_computes_the_formula(n, heads, half, value, norm, share, layers, seed):
    torch.manual_seed(seed)
    memory = SparseMemory(MemoryConfig(6, n_keys=n, heads=heads, top_k=max(1, n * n // 2), key_dim=2 * half, value_dim=value, qk_norm=norm, layers=layers, share_values=share))
    torch.nn.init.normal_(memory.table)
    x = torch.randn(2, 3, 6)
    for layer in range(memory.config.num_readers):
        torch.testing.assert_close(memory(x, layer).double(), reference(memory, x, layer), rtol=1e-3, atol=1e-4)
        rows = memory.lookup(x, layer).rows
        assert 0 <= rows.min() and rows.max() < memory.config.num_rows
        if not share: assert (rows // n ** 2 == layer).all()


def test_gradients_are_those_of_the_formula():
    torch.manual_seed(0)
    memory = SparseMemory(MemoryConfig(6, n_keys=4, heads=2, top_k=3, key_dim=8)).double()
    torch.nn.init.normal_(memory.table)
    x = torch.randn(1, 3, 6, dtype=torch.float64, requires_grad=True)
    parameters = dict(memory.named_parameters())
    def run(x, *values): return torch.func.functional_call(memory, dict(zip(parameters, values)), (x,))
    assert torch.autograd.gradcheck(run, (x, *parameters.values()), eps=1e-4, atol=1e-2, rtol=1e-2)   # scores are float32 by design


@pytest.mark.parametrize("field, value", [("hidden_size", 0), ("n_keys", 2.), ("heads", True), ("top_k", 17), ("key_dim", 7), ("value_dim", -1), ("qk_norm", "yes"),
                                          ("layers", (1, 1)), ("layers", (-1,)), ("layers", (2, 0)), ("layers", ("1",)), ("placement", "under"), ("share_values", None)])
def test_impossible_shapes_are_named(field, value):
    good = dict(hidden_size=8, n_keys=4, top_k=2, key_dim=8)
    with pytest.raises(ValueError, match=f"^{field}="): MemoryConfig(**good | {field: value})


def test_the_papers_memory_has_the_papers_shape():
    c = paper_memory()
    assert (c.num_rows, c.heads, c.top_k, c.value_dim, c.placement, c.layers) == (2 ** 20, 4, 32, 1024, "replace", ())


def test_hashes_tell_what_changed():
    def make(**kw): torch.manual_seed(0); return SparseMemory(MemoryConfig(8, n_keys=4, heads=1, top_k=2, key_dim=4, **kw))  # noqa: E702
    a = make()
    assert memory_hash(a) == memory_hash(make()) == memory_hash(make().to(torch.float64)) and len(lookup_hash(a)) == 64
    assert memory_hash(make(placement="replace")) != memory_hash(a)
    b = make()
    with torch.no_grad(): b.table[0, 0] = 1
    assert memory_hash(b) != memory_hash(a) and lookup_hash(b) == lookup_hash(a)
    with torch.no_grad(): b.readers[0].keys[0, 0, 0, 0] += 1
    assert lookup_hash(b) != lookup_hash(a)


@settings(max_examples=20, deadline=None)
@given(mean=st.floats(0, 30), spread=st.floats(1, 20), seed=st.integers(0, 2**31))
def test_whitened_queries_are_round(mean, spread, seed):
    "whatever the mean and the covariance of the hidden states; the queries' mean square stays"
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(600, 12, generator=g) * torch.linspace(spread, 1, 12) + mean * torch.randn(12, generator=g)
    torch.manual_seed(seed)
    memory = SparseMemory(MemoryConfig(12, n_keys=16, heads=2, top_k=4, key_dim=8))
    before = memory.readers[0].query(x).square().mean()
    whiten_queries(memory.readers[0], x)
    q = memory.readers[0].query(x)
    torch.testing.assert_close(q.square().mean(), before, rtol=1e-3, atol=1e-3)
    assert q.mean(0).square().mean() < .05 * q.square().mean()
    if mean: assert access_share(memory.lookup(x[None]).rows.flatten().bincount(minlength=256), .05) < .5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_starts_as_a_no_op_with_gradient(dtype):
    torch.manual_seed(0)
    memory, x = SparseMemory(MemoryConfig(16, n_keys=6, heads=2, top_k=3, key_dim=8)).to(dtype), torch.randn(2, 5, 16, dtype=dtype)
    out = memory(x)
    assert out.dtype == dtype and torch.equal(out, torch.zeros_like(x))
    out.sum().backward()
    assert memory.table.grad.abs().sum() > 0


def test_recording_ends_with_an_error_inside():
    memory = SparseMemory(MemoryConfig(8, n_keys=4, heads=1, top_k=2, key_dim=4))
    with pytest.raises(RuntimeError), record_access(memory): raise RuntimeError
    assert not memory.watchers


@pytest.mark.parametrize("what", ["removed", "added", "reshaped", "flipped", "cut", "unknown field"])
def test_loader_refuses(tmp_path, what):
    from safetensors.torch import load_file, save_file
    save_memory(SparseMemory(MemoryConfig(8, n_keys=4, heads=1, top_k=2, key_dim=4)), tmp_path)
    path, told = tmp_path / "memory.safetensors", tmp_path / "memory.json"
    raw, t = path.read_bytes(), load_file(path)
    if what == "removed": del t["readers.0.gate.weight"]
    if what == "added": t["stranger"] = torch.zeros(1)
    if what == "reshaped": t["table"] = t["table"][:-1]
    if what in ("removed", "added", "reshaped"): save_file(t, path)
    if what == "flipped": path.write_bytes(raw[:-9] + bytes([raw[-9] ^ 4]) + raw[-8:])
    if what == "cut": path.write_bytes(raw[:-1])
    if what == "unknown field": told.write_text(told.read_text().replace("qk_norm", "qk_nrom"))
    with pytest.raises(ValueError, match="gate.weight|stranger|table|damaged|qk_nrom"): load_memory(tmp_path)
