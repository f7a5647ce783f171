"""Product keys find what brute force finds; a memory does nothing until it learns, and learns from its first step."""
import pytest
import torch
from hypothesis import given, settings, strategies as st

from casm.memory import MemoryConfig, SparseMemory, load_memory, product_topk, record_access, save_memory


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


@pytest.mark.parametrize("what", ["removed", "added", "reshaped"])
def test_loader_refuses(tmp_path, what):
    from safetensors.torch import load_file, save_file
    save_memory(SparseMemory(MemoryConfig(8, n_keys=4, heads=1, top_k=2, key_dim=4)), tmp_path)
    t = load_file(tmp_path / "memory.safetensors")
    if what == "removed": del t["readers.0.gate.weight"]
    if what == "added": t["stranger"] = torch.zeros(1)
    if what == "reshaped": t["table"] = t["table"][:-1]
    save_file(t, tmp_path / "memory.safetensors")
    with pytest.raises(ValueError, match="gate.weight|stranger|table"): load_memory(tmp_path)
