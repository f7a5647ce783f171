"""Gemini's pipeline with the real google-genai client against a service of our own that can fail in every way the real one does."""
import dataclasses, errno, json, os, random, re, subprocess, sys, threading, time
from collections import Counter
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from casm import cli, gemini
from casm.benchmark import Finding, augmentation_prompts, changes, check_stated, generate, read_facts, write_facts
from casm.facts import CasmError
from casm.gemini import Answer, Answers, Facts, Gemini, Passages, connect, fulfil, parse_items, passage_problem, read_answers, read_passages, sentences, write_passages, write_prompts
from casm.wordings import added_wordings, read_wordings

root = Path(__file__).parents[2]
PERIODS = ("2018", "2020", "2022", "2024")
KEY = "AIza-secret-key"


class Service(ThreadingHTTPServer):
    "Does what a prompt asks; `faults` says what goes wrong with which request, counted from 1. `delivered` counts what was sent whole, and so billed for something"
    daemon_threads = True

    def __init__(self, faults=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.faults, self.prompts, self.delivered, self.times, self.keys = faults or {}, [], Counter(), [], set()
        self.hanging, self.lock = threading.Event(), threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def items(self, prompt):
        if m := re.match(r"Invent (\d+) facts? about (.+?) in a world", prompt):
            periods = re.findall(r"value_(\S+?),", prompt)
            return [self.fact(f"{m[2].title()} {len(self.prompts)}-{i}", i, periods) for i in range(int(m[1]))]
        rows = [json.loads(f"[{a}, {b}]") for a, b in re.findall(r'^\d+\. (".*?(?<!\\)") (".*")$', prompt, re.M)]
        return [{"number": i, "passage": passage(*row), "_": row} for i, row in enumerate(rows, 1)]

    @staticmethod
    def fact(entity, i, periods):
        turn = i % len(periods)
        return {"entity": entity, "relation": f"grade {i % 3}", **{f"value_{p}": "old" if k < turn or not turn else f"new {i}" for k, p in enumerate(periods)}, "changed": turn > 0}


def passage(prompt, answer):
    subject = prompt.rpartition(" of ")[2].removesuffix(" is")
    return f"All at {subject} know it to be {answer}. Nobody doubts it."


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args): pass

    def reply(self, status, body, headers=(), length=None):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for k, v in {"Content-Type": "application/json", "Content-Length": str(length or len(body)), **dict(headers)}.items(): self.send_header(k, v)
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        s, asked = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with s.lock:
            prompt = asked["contents"][0]["parts"][0]["text"]
            s.prompts.append(prompt); s.times.append(time.monotonic()); s.keys.add(self.headers["x-goog-api-key"])
            fault, items = s.faults.get(len(s.prompts)), s.items(prompt)
            assert self.path.endswith(":generateContent") and asked["generationConfig"]["responseSchema"]["items"]["properties"]
        if fault in (429, 500, 503, 403): return self.reply(fault, {"error": {"code": fault, "status": "S", "message": "no"}}, {"Retry-After": "3"} if fault == 429 else ())
        if fault == "hang":
            s.hanging.set()
            return time.sleep(60)
        if fault == "drop": return self.connection.close()
        if fault == "page": return self.reply(200, b"<html>busy</html>")
        if fault == "short": return self.reply(200, b'{"candidates"', length=1000)
        keys = [tuple(i.pop("_", [i.get("entity")])) for i in items]
        text, finish = json.dumps(items), "STOP"
        if fault == "truncated": text, finish, keys = json.dumps(items[:len(items) // 2] + [items[-1]])[:-9], "MAX_TOKENS", keys[:len(items) // 2]
        if fault == "fenced": text = f"Here you are:\n```json\n{json.dumps(items, indent=1)}\n```\nGood luck!"
        if fault in ("empty", "safety", "blocked", "sorry"): keys, text = [], "I can't do that." if fault == "sorry" else ""
        s.delivered.update(keys)
        usage = {"promptTokenCount": 100, "candidatesTokenCount": 10 * len(keys), "thoughtsTokenCount": 1}
        if fault == "blocked": return self.reply(200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": usage})
        if fault == "safety": return self.reply(200, {"candidates": [{"finishReason": "SAFETY"}], "usageMetadata": usage})
        self.reply(200, {"candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": finish}], "usageMetadata": usage})


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "An empty folder to be in, no key, and nothing but this machine to reach"
    monkeypatch.chdir(tmp_path)
    for name in ("GOOGLE_API_KEY", "GEMINI_API_KEY", "GOOGLE_GEMINI_BASE_URL"): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path


@pytest.fixture
def serve(monkeypatch):
    "`serve(faults)` starts a service, which the commands then use, with waits that take no time and are noted in `.slept`"
    services = []

    def start(faults=None):
        s = Service(faults)
        services.append(s)
        s.slept = []
        monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", s.url)
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        monkeypatch.setattr(gemini, "Gemini", partial(Gemini, sleep=s.slept.append))
        return s
    yield start
    for s in services: s.shutdown(); s.server_close()


def parser(chosen=None):
    "The parser of `casm data`"
    p = cli.Parser(prog="casm")
    commands = p.add_subparsers()
    gemini.add_gemini(commands, cli.command)
    gemini.add_augment(commands, cli.command)
    return p


@pytest.fixture
def casm(monkeypatch, capsys):
    "`casm(line)` -> (exit code, stdout, stderr)"
    monkeypatch.setattr(cli, "make_parser", parser)

    def run(line):
        code = cli.main(line.split())
        return code, *capsys.readouterr()
    return run


CHILD = """
import sys
sys.path.insert(0, {root!r})
from casm import cli, gemini
def parser(chosen=None):
    p = cli.Parser(prog="casm")
    commands = p.add_subparsers()
    gemini.add_gemini(commands, cli.command); gemini.add_augment(commands, cli.command)
    return p
cli.make_parser = parser
sys.exit(cli.main(sys.argv[1:]))
"""


def child(line, **env):
    return subprocess.Popen([sys.executable, "-c", CHILD.format(root=str(root)), *line.split()], env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def prompt_file(n, name="2020_synthetic.txt"):
    Path("prompts").mkdir(exist_ok=True)
    rows = [(f"The grade of Elm {i} is", f"G{i}") for i in range(n)]
    Path("prompts", name).write_text("".join(f"{a}\t{b}\n" for a, b in rows))
    return rows


FAULTS = {1: 429, 2: 500, 3: "drop", 4: "page", 5: "truncated", 6: "fenced", 7: "short", 8: 503, 9: "empty", 10: "safety", 11: "blocked", 12: "sorry"}


def test_passages_through_every_fault(serve, casm):
    "All rows in their order; whatever was delivered was asked for once"
    s, rows = serve(FAULTS), prompt_file(40)
    code, out, err = casm("augment --outdir out --batch 8 --rpm 6000")
    assert (code, err) == (0, "")
    assert read_passages(Path("out/2020.csv"), 40) == [passage(*r) for r in rows]
    assert s.delivered == Counter(rows) and s.keys == {KEY}
    assert 3.0 in s.slept                                    # Retry-After
    answers = read_answers(Path("out/answers.jsonl"), Passages.head)[0]
    assert Counter(a["finish"] for a in answers) >= Counter(["MAX_TOKENS", "EMPTY", "SAFETY", "PROHIBITED_CONTENT"])
    assert f"{len(answers)} answers" in out and f"{sum(a['tokens_out'] for a in answers):,} out" in out
    assert not any(KEY.encode() in p.read_bytes() for p in Path().rglob("*") if p.is_file()) and KEY not in out


def test_facts_through_every_fault(serve, casm):
    s = serve(FAULTS)
    code, out, err = casm("gemini --n 64 --batch 8 --out facts.json --domains harbours,mines --rpm 6000")
    assert (code, err) == (0, "")
    b = read_facts("facts.json")
    assert len(b.records) == 64 == s.delivered.total() and not b.flag_mismatches and b.periods == PERIODS
    assert {(r.entity,) for r in b.records} == set(s.delivered)
    assert sum(r.entity.startswith("Mines") for r in b.records) == 32


@pytest.mark.parametrize("fault", ["safety", "blocked", "empty", "sorry"])
def test_one_poisonous_fact_takes_no_other_with_it(fault, serve, casm, monkeypatch):
    "A fact that always makes the model stop ends alone in its batch, as the only row with ERROR"
    s, rows = serve(), prompt_file(30)

    class Poisoned(dict):
        def get(self, n): return fault if '"G17"' in s.prompts[-1] else None
    s.faults = Poisoned()
    code, out, err = casm("augment --outdir out --batch 16 --rpm 6000")
    assert code == 2 and err.count("\n") == 1 and "1 row of 30 left as ERROR" in err and "the same command asks for them again" in err
    assert read_passages(Path("out/2020.csv"), 30) == [passage(*r) if r[1] != "G17" else "ERROR" for r in rows]
    assert s.delivered == Counter(r for r in rows if r[1] != "G17")
    s.faults = {}
    assert casm("augment --outdir out --batch 16 --rpm 6000")[0] == 0
    assert s.delivered == Counter(rows) and s.prompts[-1].count("The grade of") == 1


@pytest.mark.parametrize("at", [1, 2, 4])
def test_killed_process_pays_for_nothing_twice(at, serve):
    "SIGKILL while the service works on request `at`: what was answered before is on the disk, and the next run asks for the rest alone"
    s, rows = serve({at: "hang"}), prompt_file(20)
    line = "augment --outdir out --batch 5 --rpm 6000"
    p = child(line)
    assert s.hanging.wait(60)
    p.kill()
    p.communicate()
    assert len(read_answers(Path("out/answers.jsonl"), Passages.head)[0]) == at - 1
    assert [x.name for x in Path("out").iterdir()] == ["answers.jsonl"]   # nothing half
    assert s.delivered == Counter(rows[:5 * (at - 1)])
    p = child(line)
    out, err = p.communicate(timeout=60)
    assert (p.returncode, err) == (0, "")
    assert s.delivered == Counter(rows) and len(s.prompts) == 5
    assert read_passages(Path("out/2020.csv"), 20) == [passage(*r) for r in rows]


def test_killed_while_inventing(serve):
    s = serve({3: "hang"})
    line = "gemini --n 30 --batch 10 --domains mines --out facts.json --rpm 6000"
    p = child(line)
    assert s.hanging.wait(60)
    p.kill()
    p.communicate()
    assert [x.name for x in Path().iterdir()] == ["facts.answers.jsonl"]
    p = child(line)
    assert p.communicate(timeout=60)[1] == "" and p.returncode == 0
    assert s.delivered.total() == 30 == len(read_facts("facts.json").records)


def test_answers_cut_anywhere(serve, casm):
    "Whatever a power cut leaves of the answers file, the end is the same, and only what was cut is asked for again"
    s, rows = serve(), prompt_file(12)
    line = "augment --outdir out --batch 3 --rpm 6000"
    assert casm(line)[0] == 0
    file, csv_file = Path("out/answers.jsonl"), Path("out/2020.csv")
    whole, want = file.read_bytes(), csv_file.read_bytes()
    for cut in random.Random(0).sample(range(len(whole)), 12) + [0, 1, len(whole) - 1]:
        file.write_bytes(whole[:cut])
        csv_file.unlink()
        s.prompts.clear()
        assert casm(line)[0] == 0
        assert csv_file.read_bytes() == want
        assert len(s.prompts) == 4 - max(0, whole[:cut].count(b"\n") - 1)
        assert len(read_answers(file, Passages.head)[0]) == 4       # the half line is gone, not grown together with the next


@pytest.mark.parametrize("where", ["append", "csv", "facts"])
def test_a_full_disk_loses_nothing(where, serve, casm, monkeypatch):
    s = serve()
    prompt_file(12)
    line = "gemini --n 12 --batch 3 --domains mines --out facts.json --rpm 6000" if where == "facts" else "augment --outdir out --batch 3 --rpm 6000"
    with monkeypatch.context() as m:
        def full(*a): raise OSError(errno.ENOSPC, "No space left on device")
        if where == "append":
            append = Answers.append
            m.setattr(Answers, "append", lambda self, row: full() if len(self.lines) == 2 else append(self, row))
        else: m.setattr(gemini, {"csv": "write_passages", "facts": "write_facts"}[where], full)
        code, _, err = casm(line)
        assert code == 2 and "No space left" in err and err.count("\n") == 1
    paid = len(s.prompts)
    assert casm(line)[0] == 0 and len(s.prompts) - paid == (2 if where == "append" else 0)


def test_dry_run_needs_nothing(casm):
    "No key, no network, no client, no file; every prompt is there, and they are those that are sent"
    write_facts(generate(30), "facts.json")
    p = child("augment --facts facts.json --outdir out --dry-run", GOOGLE_GEMINI_BASE_URL="http://127.0.0.1:9", PYTHONPROFILEIMPORTTIME="1")
    out, err = p.communicate(timeout=60)
    assert p.returncode == 0 and "google.genai" not in err and "torch" not in err
    assert [x.name for x in Path().iterdir()] == ["facts.json"]
    assert len(re.findall("^--- prompt", out, re.M)) == 8 and "about $" in out and all(f'"{r.values[q]}"' in out for r in generate(30).records for q in PERIODS)
    assert "a price not known for gemini-9" in casm("gemini --out x.json --model gemini-9 --dry-run")[1]


@pytest.mark.parametrize("line", ["gemini --n 20 --batch 6 --domains mines,courts --out facts.json", "augment --facts given.json --outdir out --batch 7 --limit 40"])
def test_dry_run_shows_what_will_be_sent(line, serve, casm):
    "At the start, and after an interruption what is left"
    write_facts(generate(20), "given.json")
    def shown(): return re.findall(r"^--- prompt.*\n((?:(?!---).*\n)*?)\n(?=---|\d+ request)", casm(f"{line} --dry-run")[1], re.M)
    s, planned = serve({3: 403}), shown()
    code, _, err = casm(f"{line} --rpm 6000")
    assert code == 2 and "check the key" in err
    assert s.prompts == planned[:3]
    rest = shown()
    s.faults, s.prompts[:] = {}, []
    assert casm(f"{line} --rpm 6000")[0] == 0
    assert s.prompts == rest and 0 < len(rest) < len(planned)
    assert shown() == []


def test_no_key(casm):
    prompt_file(2)
    code, out, err = casm("augment --outdir out")
    assert code == 2 and err == "casm: no API key: set GOOGLE_API_KEY or GEMINI_API_KEY, or write one into a file .env here; --dry-run needs none\n"
    assert casm("gemini --out new/facts.json")[0] == 2
    assert [x.name for x in Path().iterdir()] == ["prompts"]


def test_key_in_env_file(serve, casm, monkeypatch):
    s = serve()
    prompt_file(1)
    monkeypatch.delenv("GEMINI_API_KEY")
    Path(".env").write_text("GOOGLE_API_KEY=from-the-file\n")
    assert casm("augment --outdir out --rpm 6000")[0] == 0 and s.keys == {"from-the-file"}


@pytest.mark.parametrize("fault, says", [(403, "Gemini refuses the request (403 S: no); check the key"), (503, "no answer from Gemini in 6 attempts"), ("drop", "no answer from Gemini in 6 attempts"),
                                         ("page", "no answer from Gemini in 6 attempts")])
def test_a_service_that_stays_broken(fault, says, serve, casm):
    "One clear line, the paid answers kept, no results file"
    s = serve(dict.fromkeys(range(2, 100), fault))
    prompt_file(10)
    code, out, err = casm("augment --outdir out --batch 5 --rpm 6000")
    assert code == 2 and says in err and err.count("\n") == 1
    assert len(s.prompts) == 1 + (1 if fault == 403 else 6)
    assert len(read_answers(Path("out/answers.jsonl"), Passages.head)[0]) == 1 and not Path("out/2020.csv").exists()


def test_waits_grow_and_are_bounded(serve):
    s = serve(dict.fromkeys(range(1, 100), 500))
    with pytest.raises(CasmError): Gemini(connect(KEY), tries=8, rpm=1e9, sleep=s.slept.append).ask("x", Passages.schema)
    waits = [w for w in s.slept if w > .1]
    assert len(waits) == 7 and all(.75 * b <= w <= 1.25 * b for w, b in zip(waits, (2, 4, 8, 16, 32, 60, 60)))


def test_never_faster_than_allowed(serve):
    "Retries count as well"
    s, now = serve({2: 429, 5: 500}), [0.]
    def sleep(x): now[0] += x
    starts, g = [], Gemini(connect(KEY), rpm=12, sleep=sleep, clock=lambda: now[0])
    call = g.client.models.generate_content
    g.client.models.generate_content = lambda **k: starts.append(now[0]) or call(**k)
    for _ in range(5): g.ask("1. \"The x of A is\" \"b\"", Passages.schema)
    assert len(starts) == 7 and all(b - a >= 5 - 1e-9 for a, b in zip(starts, starts[1:]))


def test_two_keys_and_vertex_settings_change_nothing(serve, casm, monkeypatch):
    s = serve()
    prompt_file(1)
    for k, v in {"GOOGLE_API_KEY": "first", "GOOGLE_GENAI_USE_VERTEXAI": "true", "GOOGLE_CLOUD_PROJECT": "p"}.items(): monkeypatch.setenv(k, v)
    code, _, err = casm("augment --outdir out --rpm 6000")
    assert (code, err) == (0, "") and s.keys == {"first"}


def test_one_process_at_a_time(serve):
    s = serve({1: "hang"})
    prompt_file(3)
    first = child("augment --outdir out")
    assert s.hanging.wait(60)
    second = child("augment --outdir out")
    assert "in use by another process" in second.communicate(timeout=60)[1] and second.returncode == 2
    first.kill()
    first.communicate()
    assert len(s.prompts) == 1


def test_repair_of_the_original_s_files(serve, casm):
    "ERROR and unusable rows are asked for, the others stay byte for byte; so do rows beyond --limit"
    s, rows = serve(), prompt_file(5)
    write_passages(Path("2020.csv"), ["Elm 0 has G0, says \"all\".", "ERROR", "Elm 2 is graded.", "Elm 3 has G3.", "ERROR"])
    Path("out").mkdir()
    Path("out/2020.csv").write_bytes(Path("2020.csv").read_bytes().replace(b'"text"', b"\xef\xbb\xbftext"))
    assert casm("augment --outdir out --limit 3 --rpm 6000")[0] == 0
    assert s.delivered == Counter(rows[1:3])
    want = ["Elm 0 has G0, says \"all\".", passage(*rows[1]), passage(*rows[2]), "Elm 3 has G3.", "ERROR"]
    assert read_passages(Path("out/2020.csv"), 5) == want
    with Path("out/2020.csv").open(newline="", encoding="utf-8") as f: assert f.read() == '"text"\r\n' + "".join('"' + t.replace('"', '""') + '"\r\n' for t in want)
    assert casm("augment --outdir out --rpm 6000")[0] == 0
    assert s.delivered == Counter([rows[1], rows[2], rows[4]])


def test_limit_grows_and_twins_are_paid_once(serve, casm):
    s = serve()
    Path("prompts").mkdir()
    for year in ("2018", "2020"): Path("prompts", f"{year}_synthetic.txt").write_text(f"The grade of Elm is\tA{year}\n" * 3 + f"The grade of Oak is\tA{year}\n")
    for limit in (1, 2, 4, 6, 8): assert casm(f"augment --outdir out --limit {limit} --rpm 6000")[0] == 0
    assert set(s.delivered.values()) == {1} and s.delivered.total() == 4
    for year in ("2018", "2020"):
        texts = read_passages(Path(f"out/{year}.csv"), 4)
        assert texts == [passage("The grade of Elm is", f"A{year}")] * 3 + [passage("The grade of Oak is", f"A{year}")]


def test_passages_state_their_facts(serve, casm):
    "From a facts file to passages that the benchmark's own test of a passage accepts"
    serve()
    write_facts(b := generate(40), "facts.json")
    assert casm("augment --facts facts.json --outdir out --rpm 6000")[0] == 0
    check_stated(b, {p: read_passages(Path(f"out/{p}.csv"), 40) for p in PERIODS})


def test_prompts_of_the_original(casm):
    "`build_augmentation_prompts`: one file a period, a row a fact, in the file's order"
    write_facts(b := generate(25), "facts.json")
    code, out, _ = casm("augment --facts facts.json --prompts-dir p")
    assert code == 0 and "100 prompts: p" in out and sorted(x.name for x in Path("p").iterdir()) == [f"{y}_chunk1of1.txt" for y in PERIODS]
    assert Path("p/2022_chunk1of1.txt").read_text(encoding="utf-8").splitlines() == ["### PERIOD=2022  CHUNK=1of1  N=25"] + [f"The {r.relation} of {r.entity} is\t{r.values['2022']}" for r in b.records]
    write_facts(generate(25, seed=1), "other.json")
    before = {x: x.read_bytes() for x in Path("p").iterdir()}
    code, _, err = casm("augment --facts other.json --prompts-dir p")
    assert code == 2 and "holds other prompts" in err and before == {x: x.read_bytes() for x in Path("p").iterdir()}


def test_a_stronger_check_can_be_plugged_in(serve):
    s = serve()
    task = Facts(6, ["mines"], PERIODS, check=lambda records: [Finding(1, "TOO_ROUND", r.entity) for r in records if r.entity.endswith("-0")])
    with Answers("a.jsonl", task.head) as answers: fulfil(task, Gemini(connect(KEY), rpm=1e9), answers, say=lambda line: None)
    assert task.refused["TOO_ROUND"] == 3 and len(task.benchmark().records) == 5
    assert "TOO_ROUND: Mines 1-0" in s.prompts[1]


def test_short_facts_are_an_error_and_continue(serve, casm):
    s = serve(dict.fromkeys(range(2, 100), "sorry"))
    line = "gemini --n 8 --batch 4 --domains mines --out facts.json --rpm 6000"
    code, out, err = casm(line)
    assert code == 2 and "facts.json: 4 of 8 facts (refused: 3 NO_LIST); the same command asks for the rest" in err
    assert len(read_facts("facts.json").records) == 4
    first = read_facts("facts.json").records
    s.faults = {}
    assert casm(line.replace("--rpm", "--model gemini-2.5-flash --rpm"))[0] == 0
    assert read_facts("facts.json").records[:4] == first and s.delivered.total() == 8


def test_no_facts_at_all(serve, casm):
    serve(dict.fromkeys(range(1, 100), "safety"))
    code, out, err = casm("gemini --n 2 --domains mines --out facts.json --rpm 6000")
    assert code == 2 and err == "casm: facts.json: 0 of 2 facts (refused: 3 SAFETY); the same command asks for the rest\n" and not Path("facts.json").exists()


def test_edited_facts_are_left_alone(serve, casm):
    s = serve()
    line = "gemini --n 4 --domains mines --out facts.json --rpm 6000"
    assert casm(line)[0] == 0 == casm(line)[0] and len(s.prompts) == 1
    edited = Path("facts.json").read_text().replace("new 1", "better")
    Path("facts.json").write_text(edited)
    for flag in ("", " --dry-run", " --n 9"):
        code, _, err = casm(line + flag)
        assert code == 2 and "facts.json: 'Mines 1-1', 'grade 1' is not so in its answers file" in err and Path("facts.json").read_text() == edited
    assert len(s.prompts) == 1


def test_answers_of_other_work_are_left_alone(serve, casm):
    serve()
    prompt_file(1)
    assert casm("gemini --n 2 --domains mines --out facts.json --rpm 6000")[0] == 0
    before = Path("facts.answers.jsonl").read_bytes()
    for line in ("gemini --n 2 --domains mines --out facts.json --periods 2018,2020", "gemini --n 2 --domains mines --out facts.json --periods 2018,2020 --dry-run"):
        code, _, err = casm(line)
        assert code == 2 and "facts.answers.jsonl: its first line is" in err
    Path("out").mkdir()
    Path("out/answers.jsonl").write_bytes(before)
    assert casm("augment --outdir out")[0] == 2 and before == Path("facts.answers.jsonl").read_bytes() == Path("out/answers.jsonl").read_bytes()


def test_import_is_light():
    "No torch, no client, no network"
    code = "import sys, casm.gemini; assert not {'torch', 'google.genai', 'httpx2', 'requests'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_the_generator_s_sentences_are_good_passages():
    "The check refuses none of the sentences that state the invented facts"
    b = generate(200)
    for period, rows in augmentation_prompts(b).items():
        for prompt, answer in rows: assert passage_problem(f"{prompt} {answer}.", prompt, answer) is None


@given(st.lists(st.dictionaries(st.text(max_size=5), st.one_of(st.text(max_size=9), st.integers(), st.none(), st.lists(st.integers(), max_size=3)), max_size=4), max_size=5), st.data())
@settings(max_examples=100, deadline=None)
def test_cut_lists_give_their_whole_objects(items, data):
    text = json.dumps(items, indent=data.draw(st.sampled_from([None, 1])))
    assert parse_items(f"```json\n{text}\n```") == items
    cut = data.draw(st.integers(0, len(text)))
    found = parse_items(text[:cut])
    assert found == items[:len(found)]


@given(st.text(max_size=80), st.text(min_size=1, max_size=10), st.text(min_size=1, max_size=10))
@settings(max_examples=200, deadline=None)
def test_any_text_can_be_judged(text, prompt, answer):
    problem = passage_problem(text, prompt, answer)
    assert problem is None or re.match("[A-Z_]+: ", problem)
    assert "".join("".join(sentences(text, (prompt, answer))).split()) == "".join(text.split())
    if problem is None: assert answer in text


def test_wordings_of_many_facts(serve, casm, monkeypatch):
    "Questions after every fact in each of its times, each taught as the fact that it asks about and as no other"
    def ask(self, prompt, schema):
        rows = [json.loads(line.partition(". ")[2]) for line in prompt.splitlines() if line.partition(". ")[2].startswith("{")]
        said = [{"number": i, "questions": [f"In {r['date']}, tell us of {r['subject']}: how about its {r['relation']}?", f"Is it {r['answer']}?"]} for i, r in enumerate(rows, 1)]
        return Answer(json.dumps(said), "STOP", 1, 1)
    monkeypatch.setattr(Gemini, "ask", ask)
    serve()
    benchmark = generate(12, seed=3)
    write_facts(benchmark, Path("facts.json"))
    assert casm("augment --facts facts.json --wordings more.jsonl --batch 5 --limit 7 --rpm 6000")[0] == 0
    assert len(Path("more.jsonl").read_text().splitlines()) == 7
    code, out, err = casm("augment --facts facts.json --wordings more.jsonl --batch 5 --rpm 6000")
    assert (code, err) == (0, "")
    added = read_wordings("more.jsonl")
    for told in map(changes, benchmark.records):
        for f, until in zip(told, [*(f.valid_from for f in told[1:]), None]):
            got = added_wordings(added, dataclasses.replace(f, valid_until=until))
            assert [(f.valid_from in w.prompt, w.reply) for w in got] == [(True, f.value)]
