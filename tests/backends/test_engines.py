"""The contract of `seams.InferenceEngine`, run on every backend; then what only real processes can show."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from luthier.backends.engines import process as process_module
from luthier.backends.engines.echo import EchoEngine
from luthier.backends.engines.process import EngineProcess
from luthier.backends.engines.vllm import Upstream, VllmEngine
from luthier.errors import ArtifactCorrupt, BaseUnavailable, EngineUnavailable, FieldInvalid, NotFound, TooMany
from luthier.seams import Classification, Generation, ServedClassifier, ServedModel
from luthier.settings import child_environment

from .fake_vllm import FakeVllm

PROMPT = (5, 9, 33, 17, 40)
SERVER = (sys.executable, "-P", "-m", "luthier.modeling.server", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A random llama of a few thousand weights, with two adapters beside it."""
    import torch
    from transformers.models.llama import LlamaConfig, LlamaForCausalLM

    from luthier.modeling.load import frozen
    from luthier.modeling.plain import PlainEngine
    from luthier.modeling.types import LoraShape

    folder = tmp_path_factory.mktemp("engine")
    sizes = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        config = LlamaConfig(**sizes, max_position_embeddings=100_000, initializer_range=0.3, eos_token_id=1)
        model = LlamaForCausalLM(config)
        model.save_pretrained(folder / "base")
        for name in ("one", "two"):
            engine = PlainEngine(frozen(model, torch.device("cpu")), LoraShape(4, 8), seed=0)
            with torch.no_grad():
                for weight in engine.parameters.values():
                    weight.copy_(torch.randn(weight.shape) / 4)
            engine.save_adapter(folder / name, base_model="random", revision="1")
    return folder


@pytest.fixture(scope="module")
def shared_process(tmp_path_factory):
    engine = EngineProcess(tmp_path_factory.mktemp("run"), child_environment(), command=SERVER)
    yield engine
    engine.close()


@pytest.fixture
def process(tmp_path):
    """Starts an engine of its own for a test that ends it."""
    engines = []

    def make(*options: str, **given) -> EngineProcess:
        engines.append(EngineProcess(tmp_path / "run", child_environment(), command=(*SERVER, *options), **given))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture
def upstream(base):
    """A vLLM server's engine, with a local one beside it."""
    server = FakeVllm()
    engine = VllmEngine(Upstream(server.url, None, base / "base"), EchoEngine())
    yield engine
    engine.close()
    server.stop()


@pytest.fixture(params=["echo", "process", "vllm"])
def engine(request):
    if request.param == "echo":
        return EchoEngine()
    return request.getfixturevalue("shared_process" if request.param == "process" else "upstream")


@pytest.fixture
def bare(base) -> ServedModel:
    return ServedModel("random", base / "base", None)


def tuned(base: Path, name: str) -> ServedModel:
    return ServedModel(f"model_{name}", base / "base", base / name)


def ask(engine, model, **given) -> tuple[list[int], str | None]:
    pieces = list(engine.generate(model, Generation(**{"prompt_ids": PROMPT, "max_tokens": 4, **given})))
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    return [token for piece in pieces for token in piece.token_ids], pieces[-1].finish_reason


# -- the contract ------------------------------------------------------------------------------------------------------


def test_an_answer_comes_in_pieces_and_the_last_one_says_why_it_ended(engine, bare):
    tokens, reason = ask(engine, bare)
    assert (len(tokens), reason) == (4, "length")
    assert all(isinstance(token, int) for token in tokens)


def test_a_greedy_answer_is_always_the_same(engine, bare):
    assert ask(engine, bare) == ask(engine, bare)


def test_a_seeded_sample_is_always_the_same(engine, bare):
    sampled = {"temperature": 1.0, "top_p": 0.9, "seed": 3}
    assert ask(engine, bare, **sampled) == ask(engine, bare, **sampled)


def test_a_stop_token_ends_the_answer_and_is_not_part_of_it(engine, bare):
    (first, second, *_), _ = ask(engine, bare)
    assert first != second
    assert ask(engine, bare, stop_ids=(second,)) == ([first], "stop")


def test_no_tokens_asked_are_none_answered(engine, bare):
    assert ask(engine, bare, max_tokens=0) == ([], "length")


def test_closing_an_answer_frees_the_engine_for_the_next(engine, bare):
    answer = engine.generate(bare, Generation(PROMPT, 50_000))
    next(answer)
    answer.close()
    assert ask(engine, bare)[1] == "length"


def test_many_threads_get_their_own_answers(engine, bare):
    prompts = [(3 + number, 20 + number, 40 + number) for number in range(8)]
    alone = [ask(engine, bare, prompt_ids=prompt, max_tokens=3) for prompt in prompts]
    together: dict[int, object] = {}

    def run(number: int) -> None:
        together[number] = ask(engine, bare, prompt_ids=prompts[number], max_tokens=3)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[number] for number in range(8)] == alone


def test_a_used_engine_is_ready_and_names_its_models(engine, bare):
    ask(engine, bare)
    assert engine.state()["state"] == "ready"
    assert "random" in engine.state()["models"]


@pytest.mark.parametrize("kind", ["echo", "process"])
def test_an_engine_is_idle_until_it_is_asked_and_closed_for_good(kind, process, bare):
    engine = EchoEngine() if kind == "echo" else process()
    assert engine.state()["state"] == "idle"
    engine.close()
    with pytest.raises(EngineUnavailable, match="closed"):
        ask(engine, bare)
    engine.close()


# -- the real process --------------------------------------------------------------------------------------------------


def test_an_answer_that_is_given_is_as_likely_as_its_tokens_are(engine, bare):
    one, other = [7, 11, 23], [11]
    found = engine.score(bare, PROMPT, [one, other, one])
    assert found[0] == pytest.approx(found[2])
    assert max(found) <= 0
    assert found[0] == pytest.approx(sum(engine.score(bare, (*PROMPT, *one[:at]), [[one[at]]])[0] for at in range(3)), abs=1e-3)


def test_an_unloaded_adapter_is_gone_and_no_other_answers_differently(engine, base):
    one, two = tuned(base, "one"), tuned(base, "two")
    before = [ask(engine, model, max_tokens=6) for model in (one, two)]
    going_on = engine.generate(two, Generation(PROMPT, 6))
    begun = list(next(going_on).token_ids)
    engine.unload(one.adapter_folder)
    assert (one.id in engine.state()["models"], two.id in engine.state()["models"]) == (False, True)
    assert [*begun, *(token for piece in going_on for token in piece.token_ids)] == before[1][0]
    assert [ask(engine, model, max_tokens=6) for model in (one, two)] == before  # loaded anew
    engine.unload(base / "never-loaded")


def test_adapters_share_their_base_and_do_not_mix(shared_process, base, bare):
    plain = ask(shared_process, bare, max_tokens=12)
    one, two = (ask(shared_process, tuned(base, name), max_tokens=12) for name in ("one", "two"))
    assert plain != one != two != plain
    answers = [shared_process.generate(model, Generation(PROMPT, 12)) for model in (tuned(base, "one"), tuned(base, "two"), bare)]
    taken: list[list[int]] = [[], [], []]
    for pieces in zip(*answers, strict=True):  # in turns, token by token
        for number, piece in enumerate(pieces):
            taken[number].extend(piece.token_ids)
    assert taken == [one[0], two[0], plain[0]]


def test_it_answers_as_the_engine_that_trained(shared_process, base):
    from luthier.modeling.load import load_base
    from luthier.modeling.plain import PlainEngine
    from luthier.modeling.types import LoraShape, Sampling

    engine = PlainEngine(load_base(base / "base", "cpu"), LoraShape(4, 8), seed=0)
    engine.load_adapter(base / "one")
    expected = engine.generate([PROMPT], Sampling(10))[0]
    assert ask(shared_process, tuned(base, "one"), max_tokens=10)[0] == list(expected.token_ids)


def test_what_cannot_be_answered_is_told_apart(shared_process, base, bare, tmp_path):
    with pytest.raises(FieldInvalid, match="context"):
        ask(shared_process, bare, prompt_ids=(5,) * 100_000)
    with pytest.raises(FieldInvalid, match="ids lie between"):
        ask(shared_process, bare, prompt_ids=(61,))
    with pytest.raises(BaseUnavailable):
        ask(shared_process, ServedModel("gone", tmp_path / "nowhere", None))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactCorrupt, match="plain LoRA") as caught:
        ask(shared_process, ServedModel("broken", base / "base", tmp_path))
    assert str(tmp_path) not in str(caught.value)


def busy_of(engine: EngineProcess) -> int:
    return engine._child.client.get("/health").json()["busy"]


def test_a_client_that_hangs_up_stops_the_generation(process, bare):
    engine = process()
    answer = engine.generate(bare, Generation(PROMPT, 90_000))
    next(answer)
    assert busy_of(engine) == 1
    answer.close()
    closed_at = time.monotonic()
    while busy_of(engine):
        assert time.monotonic() - closed_at < 5  # within a second, where nothing else runs


def test_more_than_may_wait_are_refused_with_a_time_to_come_back(process, bare):
    engine = process("--active", "1", "--waiting", "1")
    running = engine.generate(bare, Generation(PROMPT, 90_000))
    next(running)
    waiting = threading.Thread(target=ask, args=(engine, bare))
    waiting.start()
    while busy_of(engine) < 2:
        pass
    with pytest.raises(TooMany) as caught:
        ask(engine, bare)
    assert caught.value.retry_after_s >= 1
    running.close()
    waiting.join()


def test_models_beyond_the_bound_leave_and_come_back_when_asked(process, base):
    engine = process()
    models = [ServedModel(f"model_{number}", base / "base", base / "one") for number in range(20)]
    answers = [ask(engine, model) for model in models]
    listed = engine._child.client.get("/v1/models").json()["data"]
    assert [entry["id"] for entry in listed] == [model.id for model in models[4:]]
    assert ask(engine, models[0]) == answers[0]


# httpcore leaves a socket to the garbage collector when nobody listens at its path any more.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed:ResourceWarning")
def test_a_killed_process_is_started_anew(process, bare):
    engine = process()
    before = ask(engine, bare)
    pid = engine.state()["pid"]
    os.kill(pid, signal.SIGKILL)
    assert ask(engine, bare) == before
    assert engine.state()["pid"] != pid


def test_a_process_that_dies_in_an_answer_is_told(process, bare):
    engine = process()
    answer = engine.generate(bare, Generation(PROMPT, 90_000))
    next(answer)
    os.kill(engine.state()["pid"], signal.SIGKILL)
    with pytest.raises(EngineUnavailable, match="ended while it answered"):
        list(answer)


def test_a_process_that_cannot_start_is_told_with_its_status(tmp_path, bare):
    engine = EngineProcess(tmp_path, child_environment(), command=(sys.executable, "-c", "print('why'); raise SystemExit(3)"))
    with pytest.raises(EngineUnavailable, match="status 3") as caught:
        ask(engine, bare)
    assert str(tmp_path) not in str(caught.value)
    assert "why" in (tmp_path / "engine.log").read_text()
    assert engine.state()["state"] == "failed"
    engine.close()


def test_a_process_that_never_answers_is_ended(tmp_path, bare):
    script = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    command = (sys.executable, "-c", f"import os; os.chdir({str(tmp_path)!r}); {script}")
    engine = EngineProcess(tmp_path, child_environment(), start_s=1, command=command)
    engine_end = time.monotonic() + 30
    with pytest.raises(EngineUnavailable, match="did not answer within 1 s"):
        ask(engine, bare)
    assert time.monotonic() < engine_end
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_without_requests_it_ends_by_itself_and_is_idle(process, bare):
    engine = process(idle_s=0.5)
    ask(engine, bare)
    psutil.Process(engine.state()["pid"]).wait(10)
    while engine.state()["pid"] is not None:
        pass
    assert engine.state()["state"] == "idle"
    assert ask(engine, bare)[1] == "length"


def test_a_run_folder_with_a_long_name_works(tmp_path, bare):
    folder = tmp_path / ("long" * 30)
    engine = EngineProcess(folder, child_environment(), command=SERVER)
    assert ask(engine, bare)[1] == "length"
    engine.close()


STARTER = """
import sys, threading, time
from pathlib import Path
from luthier.backends.engines.process import EngineProcess
from luthier.backends.engines.vllm import Upstream, VllmEngine
from luthier.seams import Classification, Generation, ServedClassifier, ServedModel
engine = EngineProcess(Path(sys.argv[1]), {}, command=sys.argv[3:])
model = ServedModel("random", Path(sys.argv[2]), None)
# From a thread that ends: the engine must outlive it.
thread = threading.Thread(target=lambda: list(engine.generate(model, Generation((5,), 1))))
thread.start(); thread.join()
list(engine.generate(model, Generation((5,), 1)))
print(engine.state()["pid"], flush=True)
time.sleep(60)
"""


def test_it_outlives_the_thread_that_started_it_but_not_the_process(tmp_path, bare):
    command = [sys.executable, "-c", STARTER, str(tmp_path), str(bare.base_folder), *SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starter:
        engine = psutil.Process(int(starter.stdout.readline()))
        assert engine.is_running()
        starter.kill()
    psutil.wait_procs([engine], timeout=10)
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE


def test_the_socket_is_its_owners_alone(shared_process, bare):
    ask(shared_process, bare)
    socket = next(shared_process._folder.glob("*.sock"))
    assert socket.stat().st_mode & 0o777 == 0o600


def test_a_base_that_gave_way_meanwhile_is_loaded_again(tmp_path, monkeypatch):
    """Another model took its place between the loading and the question."""
    engine, told, left = EngineProcess(tmp_path, {}), [], [True]
    child = SimpleNamespace(loaded=set(), ended=lambda wait_s=0: False)
    monkeypatch.setattr(engine, "_ready", lambda: child)

    def load(child, model):
        told.append(model)
        child.loaded.add(model)

    def classified(child, model, questions):
        if left.pop():
            raise NotFound("model")
        return ["an answer"]

    monkeypatch.setattr(process_module, "_load", load)
    monkeypatch.setattr(process_module, "_classified", classified)
    model = ServedClassifier("a", tmp_path, base_folder=tmp_path / "base")
    left[:] = [False, True]
    assert engine.classify(model, [Classification(text="x")]) == ["an answer"]
    assert [each.base_folder for each in told] == [tmp_path / "base"] * 2
    left[:] = [True, True]
    with pytest.raises(EngineUnavailable, match="Too many models"):
        engine.classify(model, [Classification(text="x")])


def test_a_closed_engine_classifies_nothing(process):
    for closed in (EchoEngine(), process()):
        closed.close()
        with pytest.raises(EngineUnavailable):
            closed.classify(ServedClassifier("model_1", Path("/nowhere"), None), [Classification(image=(0.0, 1.0))])


def test_a_classifier_tells_how_likely_each_class_is(engine, tmp_path):
    model = ServedClassifier("model_c", small_classifier(tmp_path / "c"), None)
    image, other = Classification(image=(0.0, 0.0, 1.0, 0.0)), Classification(image=(1.0, 0.0, 0.0, 0.0))
    (found,) = engine.classify(model, [image])
    assert len(found.classes) == len(found.probabilities) > 1
    assert sum(found.probabilities) == pytest.approx(1)
    both = engine.classify(model, [other, image])
    assert (len(both), both[1]) == (2, found)
    with pytest.raises(FieldInvalid):
        engine.classify(model, [image, Classification()])


def small_classifier(folder: Path) -> Path:
    from luthier.modeling.classifiers.registry import entry_of, options_of
    from luthier.modeling.classifiers.saving import About, TorchClassifier

    entry = entry_of("mlp")
    about = About(model="mlp", options={"hidden_size": 2}, reads="images", pixels=4, classes=("a", "b"))
    folder.mkdir()
    TorchClassifier(about, entry.build(options_of(entry, about.options), about.shape)).save(folder)
    return folder
