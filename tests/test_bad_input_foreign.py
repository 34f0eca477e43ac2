"""What others' programs send and write is read as it is meant, or refused in one line: servers of
language models, Hugging Face folders and data sets, text files, locales, damaged files of ours."""

import ast
import codecs
import contextlib
import http.server
import io
import json
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import threading

import numpy as np
import pytest

import kstore_jax
from kstore_jax.corpus.text import open_documents
from kstore_jax.errors import DamagedFileError, UserError, run_guarded
from kstore_jax.model import hf_checkpoint
from kstore_jax.model.transformer import Shape
from kstore_jax.pipeline import run as running
from kstore_jax.pipeline.results import read_graphs, result_row
from kstore_jax.readouts.base import Readout
from kstore_jax.report import figures, recitation
from kstore_jax.sweep.plan import Plan
from kstore_jax.sweep.workdir import check_workdir
from kstore_jax.world.pools import load_pools, read_lines
from kstore_jax.writers import asking, client, journal
from kstore_jax.writers.answers import Answer, ErrorInBody, TransientError, parse_answer
from kstore_jax.writers.prompts import clean_text
from tests.model import reference

MARK = codecs.BOM_UTF8
POLICY = client.RetryPolicy(timeout=10.0, max_attempts=3, initial_delay=0.001, max_delay=0.01)


# Answers of language models: the answer, its text, its fault.
ANSWERS = {
    "plain": ("TEXT", "TEXT", ""),
    "no opening mark": ("Okay. She…</think>\n\nTEXT", "TEXT", ""),
    "never closed": ("<think>Okay. She…", "", "unfinished"),
    "closed twice": ("<think>a</think>b</think>TEXT", "TEXT", ""),
    "opened twice": ("<think>The <think> mark…</think>TEXT", "TEXT", ""),
    "thoughts after the text": ("TEXT<think>Done?</think>", "TEXT", ""),
    "open after the text": ("TEXT <think>Wait", "TEXT", "unfinished"),
    "no thoughts": ("<think>\n\n</think>\n\nTEXT", "TEXT", ""),
    "<thinking>": ("<thinking>a</thinking>TEXT", "TEXT", ""),
    "<thought>": ("<thought>\na\n</thought>\n\nTEXT", "TEXT", ""),
    "<reasoning>": ("<reasoning>a</reasoning><answer>TEXT</answer>", "TEXT", ""),
    "Magistral": ("[THINK]a[/THINK]TEXT", "TEXT", ""),
    "Kimi": ("◁think▷a◁/think▷TEXT", "TEXT", ""),
    "Seed": (
        "<seed:think>a<seed:cot_budget_reflect>b</seed:cot_budget_reflect>c</seed:think>TEXT",
        "TEXT",
        "",
    ),
    "Command A": (
        "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>TEXT<|END_RESPONSE|>",
        "TEXT",
        "",
    ),
    "gpt-oss": (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>TEXT"
        "<|return|>",
        "TEXT",
        "",
    ),
    "gpt-oss without tokens": ("analysisWe need to…assistantfinalTEXT", "TEXT", ""),
    "gpt-oss cut off": ("<|channel|>analysis<|message|>We need", "", "unfinished"),
    "Granite": ("Here is my thought process: a\nHere is my response: TEXT", "TEXT", ""),
    "a word": ("analysis", "analysis", ""),
    "end of the turn": ("TEXT<|im_end|>\n<|im_start|>user\nMore?", "TEXT", ""),
    "beginning of a text": ("<s> TEXT</s>", "TEXT", ""),
}


@pytest.mark.parametrize(("answer", "text", "fault"), ANSWERS.values(), ids=ANSWERS)
def test_the_text_of_an_answer_is_without_thoughts(answer, text, fault):
    assert clean_text(answer) == text
    body = json.dumps({"choices": [{"message": {"content": answer}, "finish_reason": "stop"}]})
    assert parse_answer(body) == Answer(answer, fault)


def choice(reason, **message):
    return {"choices": [{"message": message, "finish_reason": reason}]}


# Bodies of responses with status 200: the answer, or the type and the first words of the error.
PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "a"}]},
    {"type": "text", "text": "TE"},
    {"type": "text", "text": "XT"},
]
BODIES = {
    "parts": (choice("stop", content=PARTS), Answer("TEXT")),
    "no reason": (choice(None, content="TEXT"), Answer("TEXT")),
    "end_turn": (choice("end_turn", content="TEXT"), Answer("TEXT")),
    "max_tokens": (choice("max_tokens", content="TE"), Answer("TE", "unfinished")),
    "a tool": (choice("tool_calls", content=None), Answer("", "unfinished")),
    "another reason": (choice("tired", content="TE"), Answer("TE", "unfinished")),
    "SAFETY": (choice("SAFETY", content=None), Answer("", "declined")),
    "thoughts alone": (
        choice("stop", content=None, reasoning_content="a"),
        Answer("", "unfinished"),
    ),
    "broken": (choice("error", content="TE"), TransientError),
    "abort": (choice("abort", content=""), TransientError),
    "no choice": ({"choices": []}, TransientError),
    "content of numbers": (choice("stop", content=3), TransientError),
    "error": ({"error": {"message": "no credits", "code": 402}}, ErrorInBody),
    "error of a choice": ({"choices": [{"error": {"message": "x", "code": 502}}]}, ErrorInBody),
    "detail": ({"detail": "no such route"}, ErrorInBody),
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_a_response_is_an_answer_or_an_error(body, expected):
    if isinstance(expected, Answer):
        assert parse_answer(json.dumps(body)) == expected
    else:
        with pytest.raises(expected):
            parse_answer(json.dumps(body))


@contextlib.contextmanager
def server(respond):
    """The address of a server; `respond(request) -> (status, body)`, and the requests so far."""
    requests = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            requests.append(request)
            status, body = respond(request)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, args=(0.01,)).start()
        try:
            yield f"http://127.0.0.1:{served.server_port}", requests
        finally:
            served.shutdown()


def answers(address, prompts=("Who?",)) -> tuple[dict, client.ChatClient]:
    sampling = {"temperature": 0.0, "max_tokens": 9}
    chat = client.ChatClient(address, "m", sampling, 1, POLICY)
    found = {}

    async def request(prompt):
        found[prompt] = await chat.complete(prompt, 1)

    async def request_all():
        async with chat:
            await client.for_each(prompts, request, 1)

    client.run(request_all())
    return found, chat


# Errors in the body of status 200: the body, the words of the error, how often it was asked.
ERRORS = {
    "no credits": ({"message": "no credits", "code": 402}, "status 402: no credits", 1),
    "words": ("model is not loaded", "status 200: model is not loaded", 1),
    "key": ({"message": "bad key", "code": 401}, "status 401: bad key; the key is read", 1),
    "busy": ({"message": "overloaded", "code": 529}, "status 529: overloaded (3 attempts)", 3),
    "rate": ({"message": "slow down", "type": "rate_limit_error"}, "status 503: slow down", 3),
    "behind": (
        {"message": "Provider returned error", "code": 429, "metadata": {"raw": "try later"}},
        "status 429: Provider returned error: try later",
        3,
    ),
}


@pytest.mark.parametrize(("error", "words", "times"), ERRORS.values(), ids=ERRORS)
def test_an_error_in_the_body_has_the_words_of_the_server(error, words, times):
    reply = 200, {"error": error}
    with server(lambda _: reply) as (address, requests), pytest.raises(UserError) as raised:
        answers(address)
    assert words in str(raised.value)
    assert len(requests) == times


def test_an_answer_that_breaks_off_is_asked_again():
    replies = iter([choice("error", content="TE"), choice("stop", content="TEXT")])
    with server(lambda _: (200, next(replies))) as (address, _):
        found, chat = answers(address)
    assert found == {"Who?": Answer("TEXT")}
    assert chat.retries == {"broken": 1}


def unsupported(name, words):
    """Rejects a parameter as OpenAI does."""
    error = {"message": f"Unsupported {words}", "param": name, "code": "unsupported_parameter"}
    return 400, {"error": error}


def modern(request):
    if "max_tokens" in request:
        return unsupported("max_tokens", "parameter: use 'max_completion_tokens' instead.")
    if "temperature" in request:
        return unsupported("temperature", "value: only the default (1) is supported.")
    return 200, choice("stop", content="TEXT")


def strict(request):
    extra = [name for name in ("seed", "max_completion_tokens") if name in request]
    detail = [{"loc": ["body", n], "msg": "Extra inputs are not permitted"} for n in extra]
    return (422, {"detail": detail}) if extra else (200, choice("stop", content="TEXT"))


# Servers that reject parameters, and the parameters that they get in the end.
PARAMETERS = {
    "OpenAI": (modern, {"seed": 1, "max_completion_tokens": 9}),
    "no seed": (strict, {"temperature": 0.0, "max_tokens": 9}),
}


@pytest.mark.parametrize(("respond", "parameters"), PARAMETERS.values(), ids=PARAMETERS)
def test_parameters_that_a_server_rejects_are_left_out_or_renamed(respond, parameters, capsys):
    with server(respond) as (address, requests):
        found, _ = answers(address, ["Who?", "What?"])
    assert set(found.values()) == {Answer("TEXT")}
    sent = {name: x for name, x in requests[-1].items() if name not in ("model", "messages")}
    assert sent == parameters
    assert len([r for r in requests if r["messages"][0]["content"] == "What?"]) == 1
    assert "note: http://127.0.0.1" in capsys.readouterr().err


def test_a_parameter_that_is_too_large_is_an_error():
    reply = 400, {"error": {"message": "max_tokens is too large: at most 4", "param": "max_tokens"}}
    with (
        server(lambda _: reply) as (address, requests),
        pytest.raises(UserError, match="too large"),
    ):
        answers(address)
    assert len(requests) == 1


# HTTP_PROXY, NO_PROXY, the server, and the proxy that is used.
PROXIES = {
    "proxy": ("http://p:1", "", "http://far:8000", "http://p:1"),
    "without a scheme": ("p:1", "", "http://far:8000", "http://p:1"),
    "loopback": ("http://p:1", "", "http://localhost:8000", None),
    "this machine": ("http://p:1", "", "http://127.0.0.1:8000", None),
    "excepted": ("http://p:1", "far,near", "http://far:8000", None),
    "another one excepted": ("http://p:1", "near", "http://far:8000", "http://p:1"),
    "none": ("", "", "http://far:8000", None),
}


@pytest.mark.parametrize(("proxy", "no_proxy", "address", "used"), PROXIES.values(), ids=PROXIES)
def test_the_environment_names_the_proxy(monkeypatch, proxy, no_proxy, address, used):
    for name in (*os.environ,):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", no_proxy)
    assert client._proxy(address) == used


def test_requests_pass_a_proxy(monkeypatch):
    with server(lambda _: (200, choice("stop", content="TEXT"))) as (address, _):
        monkeypatch.setenv("http_proxy", address)
        monkeypatch.setenv("no_proxy", "")
        assert answers("http://far.invalid:8000")[0] == {"Who?": Answer("TEXT")}
    monkeypatch.setenv("http_proxy", "socks5://me:secret@p:1")
    with pytest.raises(UserError, match=r"^HTTP_PROXY: expected .* got socks5://p:1$"):
        answers("http://far.invalid:8000")


def test_an_answer_in_thoughts_has_a_fault_and_no_score(tmp_path):
    question = {"question": "Who?", "answers": ["me"]}
    item = {"title": "T", "text": "One two three", "opening": "One", "questions": [question]}
    items = tmp_path / "items.jsonl"
    items.write_bytes(MARK + json.dumps(item).encode() + b"\n\n")

    def respond(request):
        recites = "One" in request["messages"][0]["content"]
        return 200, choice("stop", content="two three" if recites else "<think>Who could")

    with server(respond) as (address, _):
        results = asking.ask(address, "m", items, tmp_path / "out", 1, POLICY)
    assert (results["recited"], results["recited_whole"]) == (1.0, 1.0)
    assert results["answered"] is results["items"][0]["questions"][0]["right"] is None
    assert results["faults"] == {"unfinished": 1}
    assert "1 answers unfinished" in recitation.score_table(results)


# Files as people have them: name, content, the documents.
def line(text):
    return json.dumps({"text": text}).encode() + b"\n"


TEXTS = {
    "a mark": ("a.txt", MARK + "é\n".encode(), ["é\n"]),
    "a mark in JSONL": ("a.jsonl", MARK + line("é"), ["é"]),
    "blank lines": ("a.jsonl", line("a") + b"\n" + line("b") + b" \r\n\n", ["a", "", "b", "", ""]),
    "null": ("a.jsonl", line(None) + line("a"), ["", "a"]),
}


@pytest.mark.parametrize(("name", "content", "documents"), TEXTS.values(), ids=TEXTS)
def test_text_is_read_as_it_is_meant(tmp_path, name, content, documents):
    (tmp_path / name).write_bytes(content)
    found = open_documents(str(tmp_path / name))
    assert found.read(0, len(found)) == documents


@pytest.mark.parametrize("value", [b"3", b"false", b'["a"]', b"{}", b"[" * 100_000])
def test_a_field_that_is_no_text_is_refused(tmp_path, value):
    (tmp_path / "a.jsonl").write_bytes(line("a") + b'{"text": ' + value + b"}\n")
    with pytest.raises(UserError, match=r"a\.jsonl:2: expected an object with a string"):
        open_documents(str(tmp_path / "a.jsonl")).read(0, 2)


def test_links_to_folders_are_followed_once(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "b.txt").write_text("b")
    (tmp_path / "near").mkdir()
    (tmp_path / "near" / "a.txt").write_text("a")
    (tmp_path / "near" / "linked").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "back").symlink_to(tmp_path / "near")
    found = open_documents(str(tmp_path / "near"))
    assert found.read(0, len(found)) == ["a", "b"]


def test_a_text_that_was_read_with_its_mark_is_another_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(MARK + b"a")
    (tmp_path / "b.txt").write_bytes(b"a")
    marked, plain = (open_documents(str(tmp_path / f"{name}.txt")) for name in "ab")
    assert "mark" in marked.fingerprint
    assert "mark" not in plain.fingerprint


def test_a_world_may_have_marks_and_blank_last_lines(tmp_path):
    (tmp_path / "world.toml").write_bytes(
        MARK + b'name = ["who"]\ntable = "t.csv"\n[attributes.job]\ncolumn = "job"\n'
    )
    (tmp_path / "t.csv").write_bytes(MARK + b"who,job\nAda,cook\nBob,king\n , \n\n")
    assert load_pools(str(tmp_path)).values == {"job": ("cook", "king")}
    (tmp_path / "lines.txt").write_bytes(MARK + b"one\r\ntwo\r\n \r\n\r\n")
    assert read_lines(tmp_path / "lines.txt") == ("one", "two")
    (tmp_path / "lines.txt").write_text("one\n\ntwo\n")
    with pytest.raises(UserError, match=r"lines\.txt:2: empty line"):
        read_lines(tmp_path / "lines.txt")


FORMATS = [{"columns": ["n"]}, {"type": "arrow"}, {"type": "numpy"}, {"type": "pandas"}]


@pytest.mark.parametrize("saved_as", FORMATS, ids=str)
def test_a_data_set_that_was_saved_with_a_format_is_read(tmp_path, saved_as):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["a", None, "b"], "n": [1, 2, 3]})
    rows.with_format(**saved_as).save_to_disk(str(tmp_path / "rows"))
    assert open_documents(f"hf:{tmp_path / 'rows'}").read(0, 3) == ["a", "", "b"]


# Folders of Hugging Face: a change of config.json, and the words of the error; empty: none.
SHAPE = Shape(vocabulary=23, layers=1, heads=2, width=16, max_positions=16)
CONFIGS = {
    "a mark": (lambda text: "\ufeff" + text, ""),
    "a number as text": (lambda text: text.replace(": 2,", ': "2",'), "expected a number over 0"),
    "zero": (lambda text: text.replace(": 2,", ": 0,"), "expected a number over 0"),
    "a list": (lambda text: f"[{text}]", "expected settings"),
    "too deep": (lambda _: "[" * 100_000, "not JSON"),
    "rope": (
        lambda text: text.replace('"rope_parameters": {', '"rope_parameters": [3], "x": {'),
        "type",
    ),
}


@pytest.mark.parametrize(("change", "error"), CONFIGS.values(), ids=CONFIGS)
def test_a_folder_of_hugging_face_is_read_or_refused(tmp_path, change, error):
    params = reference.parameters(SHAPE)
    hf_checkpoint.write(tmp_path / "out", SHAPE, params, {}, {})
    path = tmp_path / "out" / "config.json"
    path.write_text(change(path.read_text()), encoding="utf-8")
    if not error:
        assert hf_checkpoint.read_shape(tmp_path / "out").heads == 2
        return
    with pytest.raises(UserError, match=r"config\.json: ") as raised:
        hf_checkpoint.read_shape(tmp_path / "out")
    assert error in str(raised.value)


def test_files_of_an_export_have_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        hf_checkpoint.write(tmp_path / "out", SHAPE, reference.parameters(SHAPE), {}, {"a": "é"})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert modes == {0o640}


# Files of ours: which file, a value of it by keys, its new value (None: removed).
DAMAGE = {
    "result": ("stages/pretrain-*/result.json", ["exposures"], None),
    "a text as a number": ("stages/pretrain-*/result.json", ["parameters"], "many"),
    "seconds": ("stages/shards-*/result.json", ["seconds"], []),
    "digests": ("stages/qa-*/result.json", ["digests"], [1]),
    "parents": ("stages/pretrain-*/stage.json", ["parents"], [1]),
    "configuration of a stage": ("stages/pretrain-*/config.json", ["training"], 3),
    "provenance": ("stages/pretrain-*/provenance-1.json", ["versions"], None),
    "metrics": ("stages/pretrain-*/metrics.jsonl", ["spent"], [1]),
    "a step": ("stages/pretrain-*/metrics.jsonl", ["step"], "last"),
    "plan": ("plan.json", ["cache"], None),
    "rows": ("config.json", ["rows"], {}),
    "a row": ("config.json", ["rows", 0], 3),
    "a field": ("config.json", ["rows", 0, "seed"], "one"),
    "too deep": ("*/*/result.json", [], "[" * 100_000),
    "a plan too deep": ("plan.json", [], "[" * 100_000),
    "a run too deep": ("config.json", [], "[" * 100_000),
}


@pytest.fixture(scope="module")
def copied(finished, tmp_path_factory):
    """A copy of a finished run, without its parameters."""
    copy = tmp_path_factory.mktemp("damaged") / "run"
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("checkpoints"))
    return copy, [graph.experiment for graph in read_graphs(finished)]


def read_everything(run, rows):
    Plan.read(run).progress()
    for graph in read_graphs(run):
        result_row(graph)
        graph.check_datasets()
        graph.cache.check_files(graph.readouts["qa"])
    check_workdir(run, rows, False)


@pytest.mark.parametrize(("name", "keys", "value"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_named(copied, name, keys, value):
    run, rows = copied
    path = sorted(run.glob(name))[0]
    original = path.read_bytes()
    content = json.loads(original.splitlines()[-1] if path.suffix == ".jsonl" else original)
    *above, last = keys or [None]
    part = content
    for key in above:
        part = part[key]
    if value is None:
        del part[last]
    elif keys:
        part[last] = value
    path.write_text(json.dumps(content) + "\n" if keys else value)
    try:
        with pytest.raises(DamagedFileError) as error:
            read_everything(run, rows)
    finally:
        path.write_bytes(original)
    assert str(path) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("rows", ["{}", "[3]", "[" * 100_000], ids=["object", "number", "deep"])
def test_a_damaged_configuration_is_no_other_configuration(tmp_path, rows):
    (tmp_path / "config.json").write_text(f'{{"rows": {rows}}}')
    with pytest.raises(DamagedFileError, match=r"config\.json: damaged"):
        check_workdir(tmp_path, [], False)


JOURNAL_LINES = [b"[]", b"3", b'{"n": "x"}', b"{}", b"[" * 100_000, b"\xff"]


@pytest.mark.parametrize("damage", JOURNAL_LINES, ids=range(len(JOURNAL_LINES)))
def test_a_damaged_line_of_a_journal_is_named(tmp_path, damage):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"n": 1}\n' + damage + b"\n")
    with pytest.raises(DamagedFileError, match=r"journal\.jsonl:2: damaged"):
        list(journal.read_records(path, {"n": int}))


# Results of plug-ins, and the words of the error.
RESULTS = {
    "a list": ([1], "got list"),
    "nan": ({"share": float("nan")}, "Out of range float"),
    "an array": ({"share": np.zeros(2)}, "not JSON serializable"),
    "a field of ours": ({"seconds": 3}, "seconds: is a field that every result has"),
}


@pytest.mark.parametrize(("result", "words"), RESULTS.values(), ids=RESULTS)
def test_a_result_of_a_plug_in_that_cannot_be_saved_names_the_readout(result, words):
    with pytest.raises(UserError, match=r"^readouts\.mine: ") as error:
        running._checked("mine", result)
    assert words in str(error.value)
    assert running._checked("mine", {"shares": (0.5, None)}) == {"shares": [0.5, None]}


def test_an_error_of_a_plug_in_that_draws_names_the_readout(capsys):
    readout = Readout()
    readout.name = "mine"
    with pytest.raises(UserError, match=r"^readouts\.mine: ZeroDivisionError: "):
        figures.drawn_by(readout, lambda _: 1 // 0, [])
    assert "Traceback" in capsys.readouterr().err


def text_calls(tree: ast.AST):
    """Calls that read or write text in the encoding of the locale."""
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or any(k.arg == "encoding" for k in call.keywords):
            continue
        method = isinstance(call.func, ast.Attribute)
        name = call.func.attr if method else getattr(call.func, "id", "")
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        binary = any(isinstance(mode, str) and "b" in mode for mode in modes)
        as_text = any(
            k.arg == "text" and isinstance(k.value, ast.Constant) and k.value.value is True
            for k in call.keywords
        )
        opens = name == "open" and not binary and ast.unparse(call.func) != "os.open"
        if as_text or opens or (method and name in ("read_text", "write_text")):
            yield call


def test_text_is_utf8_whatever_the_locale():
    root = pathlib.Path(kstore_jax.__file__).parents[1]
    for folder in ("kstore_jax", "configs", "benchmarks", "docs"):
        for path in sorted((root / folder).rglob("*.py")):
            calls = [call.lineno for call in text_calls(ast.parse(path.read_bytes()))]
            assert not calls, f"{path}: lines {calls} depend on the locale; give encoding="
    assert [*text_calls(ast.parse("p.read_text(); open(p); p.open('a')"))] != []
    assert not [*text_calls(ast.parse("p.open('rb'); f(text=t); os.open(p, 0)"))]


def test_output_is_utf8_whatever_the_locale(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert run_guarded(lambda: print("70.0\u202f% \udce9")) == 0
    assert out.buffer.getvalue() == "70.0\u202f% ".encode() + b"\xe9\n"


def test_a_run_is_reported_and_exported_in_the_locale_c(finished, tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", IN_LOCALE_C, str(finished), str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **locale}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert "\u202f" in done.stdout.decode()
    assert (tmp_path / "report" / "report.html").exists()
    assert "token_type_ids" not in (tmp_path / "model" / "tokenizer_config.json").read_text()


IN_LOCALE_C = """
import sys
from kstore_jax.cli.main import main
run, out = sys.argv[1:]
assert sys.flags.utf8_mode == 0
status = main(["report", run, f"--out={out}/report"])
status = status or main(["export", run, "--row=0", f"--out={out}/model"])
sys.exit(status or main(["ask", run]))
"""
