"""Two processes that train one slot: they agree on the rows and learn what one process learns from the whole batch.

Run as a program this file is one of the processes: `test_ddp.py RANK FOLDER`.
"""
import subprocess, sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from casm.memory import Access, read_rows
from casm.ranker import BackgroundStats, count_rows, score_rows, sum_counts, top_t
from casm.slots import RowAdamW, SlotBank, read_slots, select, to_flat, write_back

ROWS, DIM, SIZE, STEPS, LOPSIDED = 60, 8, 10, 10, 3


class Reader(nn.Module):
    "Reads a frozen table through the one slot of a bank, whose open rows are the module's parameter"
    def __init__(self, table, bank):
        super().__init__()
        self.table, self.bank, self.open = table, bank, nn.ParameterDict()
        bank.home = self.open
        bank.num_slots = 1
        select(bank, 0, torch.empty(0, dtype=torch.int64), SIZE)

    def forward(self, rows, weights):
        return read_rows(self.table, rows, weights) + read_slots(self.bank, Access(rows, weights), torch.zeros(len(rows), dtype=torch.int64))


def whole_batch(step):
    "Accesses of 8 samples and what they should read; in the lopsided step all rows read most are read by the first half alone"
    g = torch.Generator().manual_seed(step)
    rows = torch.randint(0, ROWS, (8, 5, 4), generator=g)
    if step == LOPSIDED: rows = torch.cat([torch.arange(80).view(4, 5, 4) % SIZE, SIZE + rows[4:] % (ROWS - SIZE)])
    return rows, torch.rand(8, 5, 4, generator=g), torch.randn(8, 5, DIM, generator=g)


def train(rank, world):
    "Ten steps on this process's share of the batch: the slot in flat form, the rows chosen and how many of them were read here, by step"
    table = torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(99))
    stats, bank, chosen, read = BackgroundStats.empty(ROWS), SlotBank(ROWS, DIM), [], []
    stats.add(torch.arange(0, ROWS, 3))
    model = reader = Reader(table.clone(), bank)
    if world > 1: model = DistributedDataParallel(reader)
    opt = RowAdamW(model.parameters(), lr=.05, weight_decay=.1)
    for step in range(STEPS):
        rows, weights, target = (x.chunk(world)[rank] for x in whole_batch(step))
        chosen.append(top_t(score_rows(sum_counts(count_rows(rows, ROWS)), stats, "tf"), SIZE))
        read.append(torch.isin(rows, chosen[-1]).sum())
        select(bank, 0, chosen[-1], SIZE)
        opt.zero_grad()
        (model(rows, weights).tanh() - target).square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), .1)
        opt.step(); write_back(bank)
    assert torch.equal(reader.table, table)
    return to_flat(bank) | {"chosen": torch.stack(chosen), "read": torch.stack(read)}


def test_two_processes_are_one(tmp_path):
    workers = [subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], stderr=subprocess.PIPE, text=True) for rank in (0, 1)]
    try:
        for w in workers:
            said = w.communicate(timeout=120)[1]
            assert w.returncode == 0, said
    finally:
        for w in workers: w.kill()
    first, second, alone = *(load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)), train(0, 1)
    for k in ("chosen", "delta", "rows", "offsets"): assert torch.equal(first[k], second[k]), k
    for k in ("chosen", "rows", "offsets"): assert torch.equal(first[k], alone[k]), k
    torch.testing.assert_close(first["delta"], alone["delta"], rtol=1e-4, atol=1e-5)
    assert second["read"][LOPSIDED] == 0 and first["read"].all() and first["delta"].any(1).all()
    assert len({tuple(c) for c in alone["chosen"].tolist()}) == STEPS               # another selection each step


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    save_file(train(rank, 2), folder / f"{rank}.safetensors")
    torch.distributed.destroy_process_group()
