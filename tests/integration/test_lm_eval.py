"The real lm-evaluation-harness, offline, gets of casm the accuracy that our own evaluation gets, question by question."
import builtins, json, shutil, socket, subprocess, sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import lm_eval
import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from casm import cli, experiments, generation, methods
from casm.benchmark import generate, write_facts
from casm.evaluation import evaluate
from casm.experiments import all_probes, load_method, run
from casm.facts import CasmError, PROBE_FORM, question
from casm.lm_eval import Answerer, export_tasks, register, task_name
from casm.temporal_lm import TemporalLM

BENCHMARK = generate(6, seed=5)
pytestmark = pytest.mark.usefixtures("quick_module")


@pytest.fixture(scope="module", autouse=True)
def whole_answers(quick_module):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(methods, "generate", generation.generate)
        yield

@pytest.fixture(scope="module")
def out(cache, tmp_path_factory, whole_answers):
    "A finished run of the tiny model; casm is trained long enough to be right here and there"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(experiments.RECIPES, "casm", ({"rows": 64, "quiet_below": .25, "stop": .02}, replace(experiments.RECIPES["casm"][1], min_steps=32, weight_decay=0.)))
        folder = tmp_path_factory.mktemp("runs") / "out"
        run(BENCHMARK, folder, ["frozen", "casm", "copy"])
    return folder

@pytest.fixture(scope="module")
def tasks(tmp_path_factory, quick_module):
    folder = tmp_path_factory.mktemp("tasks") / "new" / "tasks"
    export_tasks(BENCHMARK, folder)
    return folder

@pytest.fixture(autouse=True)
def offline(monkeypatch):
    "No network, and not the index of the harness's own tasks, which takes ten seconds"
    init = TaskManager.__init__
    monkeypatch.setattr(TaskManager, "__init__", lambda self, *a, **k: init(self, *a, **k | {"include_defaults": False}))
    def refuse(*a): raise AssertionError(f"a connection to {a[1:]}")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def asked(tasks, model_args, names=("casm",)):
    "(accuracy, answers in order) of each task, as lm_eval says"
    register()
    found = lm_eval.simple_evaluate("casm", model_args, list(names), task_manager=TaskManager(include_path=str(tasks)), bootstrap_iters=0)
    said = {k: [s["resps"][0][0] for s in sorted(v, key=lambda s: s["doc_id"])] for k, v in found["samples"].items()}
    return {k: (v["acc,none"], said[k]) for k, v in found["results"].items() if k in said}

def ours(method, after="2024"):
    "The same by casm.evaluation"
    found = defaultdict(list)
    probes = [p for p in all_probes(BENCHMARK, after) if p.answer is not None]
    for probe, p in zip(probes, evaluate(method, probes, after, 0)): found[task_name(probe)].append(p)
    return {k: (sum(p["correct"] for p in v) / len(v), [p["answer"] for p in v]) for k, v in found.items()}


@pytest.mark.parametrize("name", ["frozen", "casm", "copy"])
def test_the_same_accuracy(out, tasks, name):
    theirs, mine = asked(tasks, f"run={out},method={name},seed=0"), ours(load_method(out, name))
    assert theirs == mine
    assert {"casm_changed", "casm_unchanged", "casm_superseded", "casm_undated", "casm_between", "casm_changed_unseen", "casm_superseded_former", "casm_unchanged_background"} <= theirs.keys()
    if name == "copy": assert all(theirs[k][0] == 1 for k in ("casm_changed", "casm_superseded", "casm_undated", "casm_between", "casm_superseded_former"))
    if name == "casm": assert theirs["casm_changed"][0] > ours(load_method(out, "frozen"))["casm_changed"][0] + .2


def test_the_command(out, tasks, tmp_path, capsys, monkeypatch):
    "As a user types it: the table and the samples are those of the method that was run, with no word about models elsewhere"
    monkeypatch.setenv("LMEVAL_LOG_LEVEL", "ERROR")
    write_facts(BENCHMARK, tmp_path / "facts.json")
    assert cli.main(["export-lm-eval", str(tmp_path / "tasks"), "--facts", str(tmp_path / "facts.json")]) == 0
    said = capsys.readouterr().out
    assert said.endswith(f"results: {tmp_path / 'tasks'}\n") and "casm_between: 18 questions\n" in said
    assert {p.name: p.read_bytes() for p in tasks.iterdir() if p.is_file()} == {p.name: p.read_bytes() for p in (tmp_path / "tasks").iterdir()}
    before = list(sys.argv)
    flags = ["--include_path", tmp_path / "tasks", "--tasks", "casm_changed,casm_between", "--model", "casm", "--model_args", f"run={out}", "--output_path", tmp_path / "found", "--log_samples"]
    assert cli.main(["lm-eval", "run", *map(str, flags)]) == 0 and sys.argv == before
    found = json.loads(next((tmp_path / "found").rglob("results*.json")).read_text())["results"]
    mine = ours(load_method(out))
    assert {k: v["acc,none"] for k, v in found.items()} == {k: mine[k][0] for k in ("casm_changed", "casm_between")}
    assert "|casm_changed|" in capsys.readouterr().out.replace(" ", "")


def test_a_memory(tasks, tmp_path):
    "A memory answers as `ask` does, is not worn by being measured, and takes a date that the question lacks"
    with TemporalLM.create(tmp_path / "told") as lm:
        lm.learn([f for t in BENCHMARK.periods for f in BENCHMARK.facts(t)])
        docs = [json.loads(x) for x in (tasks / "casm_superseded.jsonl").read_text().splitlines()]
        before = (tmp_path / "told" / "registry.sqlite").read_bytes()
        theirs = asked(tasks, {"memory": str(tmp_path / "told")}, ["casm_superseded"])["casm_superseded"][1]
        assert (tmp_path / "told" / "registry.sqlite").read_bytes() == before
        assert theirs == lm.ask([d["prompt"] for d in docs]) == lm.ask([d["prompt"] for d in docs], [d["as_of"] for d in docs])
        record = next(r for r in BENCHMARK.records if r.values["2018"] != r.values["2024"])
        q = question(PROBE_FORM, record.entity, record.relation)
        old = Answerer(memory=str(tmp_path / "told"), as_of="2018")
        assert old.method.router.route([q, f"[2024] {q}"]) == lm.method.router.route([q, q], ["2018", "2024"])
        assert old.answer([q], [None]) == [lm.ask(q, "2018")] and old.answer([q], ["2024"]) == [lm.ask(q, "2024")]


@pytest.mark.parametrize("name", ["frozen", "casm", "copy"])
def test_the_models_date(out, name):
    "as_of is the date of questions without one, for methods with a router and without"
    record = next(r for r in BENCHMARK.records if r.values["2018"] != r.values["2024"])
    q = question(PROBE_FORM, record.entity, record.relation)
    method, then = load_method(out, name), Answerer(run=str(out), method=name, as_of="2018")
    assert then.answer([q, f"[2020] {q}", q], [None, None, "2022"]) == [a.text for a in method.answer([q] * 3, ["2018", "2020", "2022"])]
    if name == "copy": assert then.answer([q], [None]) == [record.values["2018"]]


def test_choices(out, tmp_path):
    "A task with choices is answered by log-probability, read through the slot of its document's date"
    record = next(r for r in BENCHMARK.records if r.values["2018"] != r.values["2024"])
    q, values = question(PROBE_FORM, record.entity, record.relation), [record.values["2018"], record.values["2024"]]
    rows = [{"question": q, "choices": values, "label": i, "as_of": t} for i, t in enumerate(("2018", "2024"))]
    (tmp_path / "pick.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "pick.yaml").write_text(f"""task: pick
dataset_path: json
dataset_kwargs: {{data_files: {{test: {tmp_path}/pick.jsonl}}, cache_dir: {tmp_path}/cache}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{label}}}}"
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
""")
    method = load_method(out)
    lp = [method.logprobs([q] * 2, [t] * 2, values) for t in ("2018", "2024")]
    register()
    found = lm_eval.simple_evaluate("casm", f"run={out}", ["pick"], task_manager=TaskManager(include_path=str(tmp_path)), bootstrap_iters=0)
    assert [float(r[0][0]) for s in found["samples"]["pick"] for r in s["resps"]] == pytest.approx(sum(lp, []), abs=1e-4)
    assert found["results"]["pick"]["acc,none"] == sum(max(range(2), key=p.__getitem__) == i for i, p in enumerate(lp)) / 2
    with pytest.raises(CasmError, match="copy does not answer from its weights"): Answerer(run=str(out), method="copy").likelihoods([q], [" 1"], [None])


def test_dates_stay_texts(tmp_path):
    "Values and periods that look like days are read as they were written, and a folder of tasks may be moved"
    records = [replace(r, entity=f"{r.entity}\u2028{r.entity}", values={f"{t}-06-01": f"{t}-0{i + 1}-01" for t in BENCHMARK.periods}) for i, r in enumerate(BENCHMARK.records)]
    export_tasks(replace(BENCHMARK, periods=tuple(records[0].values), records=tuple(records)), tmp_path / "first")
    shutil.move(tmp_path / "first", tmp_path / "second")
    task = TaskManager(include_path=str(tmp_path / "second")).load(["casm_changed"])["tasks"]["casm_changed"]
    lines = [json.loads(x) for x in (tmp_path / "second" / "casm_changed.jsonl").open(encoding="utf-8")]
    assert [dict(d) for d in task.eval_docs] == lines and lines[0]["as_of"] == "2018-06-01" and lines[0]["answer"] == "2018-01-01" and "\u2028" in lines[0]["prompt"]


def test_the_documents_date_decides(out):
    "It goes before the one in the words, may be a number as YAML and JSON have it, and need not be there"
    record = next(r for r in BENCHMARK.records if r.values["2018"] != r.values["2024"])
    text, lm = f"[2024] {question(PROBE_FORM, record.entity, record.relation)}", register()(run=out, method="copy")
    ask = lambda doc: lm.generate_until([Instance("generate_until", doc, (text, {"until": ["\n"]}), 0)])  # noqa: E731
    assert ask({"as_of": "2018"}) == ask({"as_of": 2018}) == [record.values["2018"]]
    assert ask({"as_of": None}) == ask({}) == [record.values["2024"]]
    with pytest.raises(CasmError, match="'soon'"): ask({"as_of": "soon"})
    with pytest.raises(CasmError, match="one line"): lm.generate_until([Instance("generate_until", {}, (text, {"until": ["</s>"]}), 0)])
    with pytest.raises(CasmError, match="running text"): lm.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)])
    assert lm.generate_until([]) == []


def test_other_models(tasks):
    "The tasks need nothing of casm's model: the harness's own dummy gets nothing right"
    found = lm_eval.simple_evaluate("dummy", "", ["casm"], task_manager=TaskManager(include_path=str(tasks)), bootstrap_iters=0, limit=3)
    assert {v["acc,none"] for k, v in found["results"].items() if k != "casm"} == {0} and len(found["samples"]) == len(list(tasks.glob("*.yaml")))


@pytest.mark.parametrize("line, says", [
    ("export-lm-eval {tmp}/full", "full is there already, and not empty"), ("export-lm-eval {tmp}/full/thesis.tex", "is there already"),
    ("export-lm-eval {tmp}/new --after 2019", "after '2019' is no period of these facts: choose 2018, 2020, 2022, 2024"),
    ("export-lm-eval {tmp}/new --facts {tmp}/none.json", "none.json: no such file"), ("export-lm-eval", "required: DIR"),
    ("lm-eval", "required: do"), ("lm-eval --model casm", "invalid choice"),
    ("lm-eval run {tasks} --model_args run={tmp}/none", "none"), ("lm-eval run {tasks} --model_args memory={tmp}/full", "full is not the folder of a TemporalLM"),
    ("lm-eval run {tasks} --model_args run={out},method=smf", "holds no checkpoint of smf"), ("lm-eval run {tasks} --model_args run={out},seed=7", "no checkpoint of casm with seed 7"),
    ("lm-eval run {tasks} --model_args run={out},memory={out}", "give run=DIR, a folder of casm run, or memory=DIR"),
    ("lm-eval run {tasks} --model_args run={out},as_of=soon", "'soon'"),
    ("lm-eval run {tasks} --model_args run={out} --gen_kwargs do_sample=True,temperature=1.0", "decodes greedily")])
def test_bad_input_is_one_line(out, tasks, tmp_path, capsys, monkeypatch, line, says):
    monkeypatch.setenv("LMEVAL_LOG_LEVEL", "ERROR")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")
    places = {"tmp": tmp_path, "out": out, "tasks": f"--include_path {tasks} --tasks casm_between --model casm"}
    assert cli.main(line.format(**places).split()) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("casm: ") and says in last
    assert [p.name for p in tmp_path.iterdir()] == ["full"] and [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    write, count = Path.write_text, []
    def full(self, *a, **k):
        count.append(1)
        if len(count) == 5: raise OSError(28, "No space left on device")
        return write(self, *a, **k)
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CasmError, match="No space left"): export_tasks(BENCHMARK, tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_without_the_harness(monkeypatch, capsys):
    "The extra is named, and casm itself never asks for it"
    real = builtins.__import__
    def missing(name, *a, **k):
        if name.partition(".")[0] == "lm_eval" and not (len(a) > 3 and a[3]): raise ImportError(name)
        return real(name, *a, **k)
    register.cache_clear()
    monkeypatch.setattr(builtins, "__import__", missing)
    assert cli.main(["lm-eval", "run", "--model", "casm"]) == 2
    assert capsys.readouterr().err == 'casm: the lm-evaluation-harness is not installed: pip install "casm[eval]"\n'
    monkeypatch.undo()
    code = "import sys, casm.lm_eval, casm.cli; assert not {'lm_eval', 'datasets', 'torch'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
