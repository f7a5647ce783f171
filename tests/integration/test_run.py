"The whole experiment on six facts with a stub model: what is written, that it resumes, repeats, refuses, and forgets nothing it should keep."
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from casm import experiments, methods, trainer
from casm.adapter import memory_of
from casm.benchmark import generate, read_facts
from casm.checkpoint import hash_tensors
from casm.experiments import load_method, run, start_checkpoint
from casm.facts import CasmError

BENCHMARK = generate(6, seed=5)
ROW = {"method", "seed", "stream", "plasticity", "stability", "stability_never_changed", "history", "stale_rate", "leak_rate", "token_f1",
       "undated", "between", "locality_neighbour", "locality_background", "route_hit_rate", "route_abstention", "params_per_step", "params_changed_total", "bytes_stored", "tokens_trained", "seconds", "matrix"}
PREDICTION = ["method", "seed", "after", "as_of", "kind", "question", "gold", "form", "subject", "relation", "answer", "correct", "slot", "gold_slot"]
pytestmark = pytest.mark.usefixtures("quick_module")


@pytest.fixture(scope="module")
def out(stub, tmp_path_factory):
    "A finished run of all four methods"
    folder = tmp_path_factory.mktemp("runs") / "out"
    run(BENCHMARK, folder, model=stub)
    return folder


def lines(path): return [json.loads(x) for x in path.read_text(encoding="utf-8").splitlines()]
def rows(out): return [{k: v for k, v in r.items() if k != "seconds"} for r in json.loads((out / "results.json").read_text())["rows"]]
def weights(out, name):
    "SHA-256 of what a method ended up with"
    newest = out / f"{name}-s0" / json.loads((out / f"{name}-s0" / "latest.json").read_text())["checkpoint_relpath"]
    return json.loads((newest / "manifest.json").read_text())["files"]["state.safetensors"]["sha256"]

def files(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_layout(out):
    assert {p.name for p in out.iterdir()} == {"run_manifest.json", "facts.json", "results.json", "results.png", "predictions.jsonl", "bounds.json",
                                               "full_ft-s0", "lora-s0", "smf-s0", "casm-s0"}
    assert (out / "results.png").read_bytes().startswith(b"\x89PNG")
    assert [(r.entity, r.relation, r.values) for r in read_facts(out / "facts.json").records] == [(r.entity, r.relation, r.values) for r in BENCHMARK.records]
    for one in out.glob("*-s0"):
        assert {p.name for p in one.iterdir() if p.name != ".lock"} == {"run_manifest.json", "latest.json", "checkpoints", "metrics", "periods", "predictions.jsonl"}
        newest = one / json.loads((one / "latest.json").read_text())["checkpoint_relpath"]
        assert {p.name for p in newest.iterdir()} - {"registry.sqlite"} == {"state.safetensors", "meta.json", "manifest.json"}
        assert (newest / "registry.sqlite").exists() == (one.name == "casm-s0")
        assert [e["unit"] for e in lines(one / "metrics" / "events.jsonl")] == ["2020", "2022", "2024"]
        for p in BENCHMARK.periods: assert {f.name for f in (one / "periods" / p).iterdir()} == {"predictions.jsonl", "eval_summary.json"}


def test_rows_have_every_number(out):
    found = rows(out)
    assert [r["method"] for r in found] == ["full_ft", "lora", "smf", "casm"]
    for r in json.loads((out / "results.json").read_text())["rows"]:
        assert ROW <= r.keys() and r["seed"] == 0 and r["stream"] == "delta" and r["seconds"] > 0
        shares = [k for k in ROW if k in ("plasticity", "stability", "history", "token_f1", "undated", "between") or k.startswith("locality") or k.endswith("_rate")]
        assert all(r[k] is None or 0 <= r[k] <= 1 for k in shares)
        assert all(r[k] > 0 for k in ("params_per_step", "params_changed_total", "bytes_stored", "tokens_trained"))
        assert (r["route_hit_rate"], r["route_abstention"]) == ((1, 1) if r["method"] == "casm" else (None, None))
        middles = ["2019", "2021", "2023"]
        assert {t: set(at) for t, at in r["matrix"].items()} == {t: {*BENCHMARK.periods[:i + 1], *middles[:i], "now"} for i, t in enumerate(BENCHMARK.periods)}
        assert r["method"] != "casm" or r["locality_neighbour"] == r["locality_background"] == 1


def test_one_prediction_for_each_probe(out):
    found = lines(out / "predictions.jsonl")
    assert all(list(p) == PREDICTION + ["oracle"] * (p["method"] == "casm") for p in found)
    want = [(m, t, p.as_of, p.kind, p.form, p.subject, p.relation, p.question, p.answer) for m in ("full_ft", "lora", "smf", "casm")
            for t in BENCHMARK.periods for p in experiments.all_probes(BENCHMARK, t)]
    keys = ("method", "after", "as_of", "kind", "form", "subject", "relation", "question", "gold")
    assert [tuple(p[k] for k in keys) for p in found] == want and len(set(want)) == len(want)
    assert {p["kind"] for p in found} == {"changed", "unchanged", "superseded", "undated", "between", "neighbour", "unknown"}
    assert {p["form"] for p in found} == {"probe", "unseen", "background", "former", "ahead"} and all((p["correct"] is None) == (p["gold"] is None) for p in found)
    assert all(p["slot"] is None and p["gold_slot"] is None for p in found if p["method"] != "casm")


def test_twice_the_same(out, stub, tmp_path):
    "Identical but for the seconds, whatever happened to the global random state before"
    torch.manual_seed(12345)
    run(BENCHMARK, tmp_path / "again", model=stub)
    assert rows(tmp_path / "again") == rows(out)
    for m in methods.METHODS: assert weights(tmp_path / "again", m) == weights(out, m)
    assert (tmp_path / "again" / "predictions.jsonl").read_bytes() == (out / "predictions.jsonl").read_bytes()


def test_a_row_does_not_depend_on_its_company(out, stub, tmp_path):
    torch.manual_seed(54321)
    run(BENCHMARK, tmp_path / "alone", ["lora", "casm"], model=stub)
    assert rows(tmp_path / "alone") == [rows(out)[1], rows(out)[3]]
    for m in ("lora", "casm"): assert weights(tmp_path / "alone", m) == weights(out, m)


def test_finished_run_is_only_read_again(out, stub, monkeypatch):
    monkeypatch.setattr(trainer, "train_period", lambda *a: pytest.fail("trained again"))
    monkeypatch.setattr(experiments, "evaluate", lambda *a: pytest.fail("asked again"))
    before = files(out)
    run(BENCHMARK, out, model=stub)
    after = files(out)
    assert {k: v for k, v in after.items() if not k.endswith((".png", ".lock"))} == {k: v for k, v in before.items() if not k.endswith((".png", ".lock"))}


def test_interrupted_anywhere_it_continues_to_the_same_end(out, stub, tmp_path, interrupting):
    "Ctrl-C in the middle of training and in the middle of asking, again and again"
    interrupting(7)
    stops = 0
    while True:
        try: run(BENCHMARK, tmp_path / "out", model=stub); break
        except KeyboardInterrupt: stops += 1
    assert stops > 4
    assert rows(tmp_path / "out") == rows(out)
    for m in methods.METHODS: assert weights(tmp_path / "out", m) == weights(out, m)
    assert (tmp_path / "out" / "predictions.jsonl").read_bytes() == (out / "predictions.jsonl").read_bytes()


@pytest.mark.parametrize("name", methods.METHODS)
def test_norms_do_not_depend_on_the_company(out, name):
    "Of the hidden states at questions of every kind, alone and together, through the slots that they get"
    method, probes = load_method(out, name), [p for p in experiments.all_probes(BENCHMARK, "2024") if p.form == "probe"][::7]
    asked = [p.question for p in probes], [p.as_of for p in probes]
    got = method.norms(*asked)
    for i, (q, t) in enumerate(zip(*asked)):
        alone, n = method.norms([q], [t]), got["lengths"][i]
        assert alone["lengths"].tolist() == [n] and torch.equal(alone["token_ids"][0], got["token_ids"][i, :n])
        torch.testing.assert_close(got["norms"][i, :, :n], alone["norms"][0], rtol=1e-5, atol=1e-5)


def test_foreign_folder_is_refused(stub, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CasmError, match="thesis.tex"): run(BENCHMARK, tmp_path, model=stub)
    assert files(tmp_path) == {"thesis.tex": b"mine"}


@pytest.mark.parametrize("change, says", [({"methods": ["casm"]}, "methods"), ({"seeds": [1]}, "seeds"), ({"stream": "restate"}, "stream"),
                                          ({"benchmark": generate(6, seed=6)}, "facts"), ({"background": ["It rains."]}, "background"),
                                          ({"recipe": 1}, "recipes.casm")])
def test_another_run_is_refused(out, stub, change, says, monkeypatch):
    before = files(out)
    change = dict(change)
    if change.pop("recipe", None):
        settings, config = experiments.RECIPES["casm"]
        monkeypatch.setitem(experiments.RECIPES, "casm", (settings, replace(config, lr=.5)))
    with pytest.raises(CasmError, match=f"holds another run: {says}"): run(change.pop("benchmark", BENCHMARK), out, model=stub, **change)
    assert files(out) == before


def test_smf_moves_the_selected_rows_and_nothing_else(out, stub, tmp_path, monkeypatch):
    "AdamW with weight decay: every row that was never selected, the keys and the backbone are bit-identical to the start"
    selected = set()
    def select_rows(*a, f=methods.select_rows):
        found = f(*a)
        selected.update(found.tolist())
        return found
    monkeypatch.setattr(methods, "select_rows", select_rows)
    run(BENCHMARK, tmp_path / "out", ["smf"], model=stub)
    assert experiments.RECIPES["smf"][1].weight_decay > 0
    start, method = start_checkpoint(BENCHMARK, 0, stub), load_method(tmp_path / "out", "smf")
    bank = method.tensors()
    assert set(bank["rows"].tolist()) == selected and 8 < len(selected) < len(memory_of(start.model).table)
    assert bank["delta"].any(1).all()
    trained = {k.removeprefix("base_model.model.").replace(".base_layer", ""): v for k, v in method.lm.model.state_dict().items()}
    kept = {k: v for k, v in start.model.state_dict().items()}
    assert kept.keys() <= trained.keys() and hash_tensors({k: trained[k] for k in kept}) == hash_tensors(kept)


@pytest.mark.parametrize("name", ["casm", "full_ft"])
def test_superseded_answers_stay(out, name):
    "casm answers about the past exactly as it did before the update; full fine-tuning, the same test shows, does not"
    found = {(p["after"], p["as_of"], p["form"], p["subject"], p["relation"]): p for p in lines(out / "predictions.jsonl") if p["method"] == name}
    old = [p for p in found.values() if p["kind"] == "superseded" and p["as_of"]]
    changed = 0
    for p in old:
        before = BENCHMARK.periods[BENCHMARK.periods.index(p["after"]) - 1]
        changed += found[before, p["as_of"], p["form"], p["subject"], p["relation"]]["answer"] != p["answer"]
    assert len(old) > 10 and (changed == 0) == (name == "casm")


def test_loaded_method_answers_as_recorded(out):
    for name in ("full_ft", "lora", "smf", "casm"):
        last = [p for p in lines(out / f"{name}-s0" / "predictions.jsonl") if p["after"] == "2024"]
        answers = load_method(out, name).answer([p["question"] for p in last], [p["as_of"] for p in last])
        assert [(a.text, a.slot) for a in answers] == [(p["answer"], p["slot"]) for p in last]


def test_restated_facts_cost_casm_nothing(stub, out, tmp_path):
    "A stream that repeats everything trains full fine-tuning on everything, and casm only on what changed"
    restated = {r["method"]: r for r in run(BENCHMARK, tmp_path / "out", ["full_ft", "casm"], stream="restate", model=stub)}
    delta = {r["method"]: r for r in rows(out)}
    assert restated["full_ft"]["tokens_trained"] > delta["full_ft"]["tokens_trained"]
    assert restated["casm"]["tokens_trained"] == delta["casm"]["tokens_trained"]
    again = ("plasticity", "stability", "history", "matrix", "params_per_step", "params_changed_total")
    assert [restated["casm"][k] for k in again] == [delta["casm"][k] for k in again]
