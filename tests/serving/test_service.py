"""Chat: which model is meant, what it is sent, what comes back, and what is refused before anything starts."""

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

import luthier
from luthier import ids
from luthier.accounts.types import Actor, Role
from luthier.backends.storage.local import LocalStorage
from luthier.bases.service import Bases
from luthier.billing.service import Billing
from luthier.database import Database, Row
from luthier.datasets.rendering import Renderer
from luthier.errors import (
    ArtifactCorrupt,
    BaseUnavailable,
    EngineUnavailable,
    FieldInvalid,
    Gone,
    InUse,
    ModelNotAllowed,
    NotFound,
    RenderingDiffers,
)
from luthier.jobs.spec import RunSpec, Sources
from luthier.registry.catalogue import Catalogue
from luthier.registry.files import ModelFiles
from luthier.registry.service import Registry
from luthier.registry.types import Finished, Stage
from luthier.seams import Piece
from luthier.serving.drift.buffer import Observer
from luthier.serving.notes import Notes
from luthier.serving.service import Serving
from luthier.serving.types import ChatMessage, ChatRequest
from luthier.values import BaseSource, Source

TINY = Path(luthier.__file__).parent / "bases" / "tiny"
ALICE = Actor("team_alice", "user_alice", Role.ADMIN)
BOB = Actor("team_bob", "user_bob", Role.ADMIN)
RENDERER = Renderer.load(TINY)


class ScriptedEngine:
    """An engine that says what it was told to say, one token a piece, and notes what it was asked."""

    def __init__(self, text: str = "Hello there", finish: str = "stop") -> None:
        self.token_ids = RENDERER._tokens.as_text(text).ids
        self.finish = finish
        self.asked = []
        self.closed = 0
        self.fails_after: int | None = None

    def generate(self, model, request):
        self.asked.append((model, request))
        try:
            for count, token in enumerate(self.token_ids):
                if count == self.fails_after:
                    raise ConnectionResetError
                yield Piece((token,))
            yield Piece((), self.finish)
        finally:
            self.closed += 1

    def score(self, model, prompt_ids, answers):
        return [0.0 for _ in answers]

    def unload(self, folder):
        pass

    def state(self):
        return {"state": "ready"}

    def close(self):
        pass


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = Database(folder / "luthier.db")
        Row.metadata.create_all(self.database.engine)
        self.storage = LocalStorage(folder)
        self.bases = Bases(folder / "bases")
        files = ModelFiles(self.storage, folder / "cache")
        self.registry = Registry(self.database, files, self.bases, Catalogue(self.database, files), lambda: datetime.now(UTC))
        self.engine = ScriptedEngine()
        self.billing = Billing(self.database, lambda: datetime.now(UTC))
        notes = Notes(self.billing.tokens, Observer(0, lambda: datetime.now(UTC)))
        self.serving = Serving(self.registry, self.bases, self.engine, notes)

    def build_base(self) -> Path:
        folder = self.bases.folder(self.bases.get("luthier/tiny"))
        shutil.copytree(TINY, folder)
        (folder / "model.safetensors").write_bytes(b"weights")
        return folder

    def model(self, name: str = "intents", stage: Stage = Stage.PRODUCTION, revision: str = "1", rendering: str | None = None):
        job_id = ids.new(ids.JOB)
        results = f"users/team_alice/jobs/{job_id}/attempts/1/results"
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            self.storage.write(f"{results}/final_model/{file}", (TINY / file).read_bytes())
        for file in ("adapter_model.safetensors", "adapter_config.json"):
            self.storage.write(f"{results}/final_model/{file}", b"{}")
        self.storage.write(f"{results}/metrics.json", json.dumps({"rendering_sha256": rendering}).encode())
        scores = {"rows": 10, "base": {"loss": 2.0}, "tuned": {"loss": 1.0}}
        self.storage.write(f"{results}/evaluation.json", json.dumps(scores).encode())
        data = Source(id="ds_1", url="file:///x", sha256=hashlib.sha256(b"").hexdigest())
        sources = Sources(dataset=data, base=BaseSource(id="luthier/tiny", revision=revision, url="luthier:tiny"))
        spec = RunSpec(base_model="luthier/tiny", dataset="ds_1", name=name, sources=sources)
        model = self.registry.register(Finished("team_alice", "user_alice", job_id, spec, results))
        return self.registry.transition(ALICE, model.id, stage)


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    yield world
    world.database.close()


def asks(model: str, text: str = "Hi", **fields) -> ChatRequest:
    return ChatRequest(model=model, messages=(ChatMessage(role="user", content=text),), **fields)


def test_a_tuned_model_answers_with_its_adapter_on_its_base(world):
    base, model = world.build_base(), world.model()
    answer = world.serving.answer(ALICE, asks("intents", max_tokens=7, temperature=0.5, top_p=0.9, seed=3))
    assert (answer.text, answer.finish_reason, answer.model) == ("Hello there", "stop", model.id)
    served, request = world.engine.asked[0]
    assert (served.id, served.base_folder) == (model.id, base)
    assert (served.adapter_folder / "adapter_model.safetensors").is_file()
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (7, 0.5, 0.9, 3)
    assert request.stop_ids == tuple(sorted(RENDERER.stop_ids))
    assert list(request.prompt_ids) == RENDERER.prompt([{"role": "user", "content": "Hi"}])
    assert answer.prompt_tokens == len(request.prompt_ids)
    assert answer.completion_tokens == len(world.engine.token_ids)


def test_a_model_is_served_with_the_rendering_that_it_was_trained_with_or_not_at_all(world):
    world.build_base()
    same = world.model("same", rendering=RENDERER.fingerprint)
    assert same.card.lineage.rendering_sha256 == RENDERER.fingerprint
    assert world.registry.pinned(ALICE, "same").base.rendering_sha256 == RENDERER.fingerprint
    assert world.serving.answer(ALICE, asks("same")).text == "Hello there"
    world.model("other", rendering="0" * 64)
    with pytest.raises(RenderingDiffers, match="The model other has another tokenizer or chat template"):
        world.serving.answer(ALICE, asks("other"))
    assert len(world.engine.asked) == 1


@pytest.mark.parametrize("ref", ["luthier/tiny", "tiny"])
def test_a_bare_base_answers_too(world, ref):
    base = world.build_base()
    assert world.serving.answer(ALICE, asks(ref)).model == "luthier/tiny"
    served, _ = world.engine.asked[0]
    assert (served.base_folder, served.adapter_folder) == (base, None)


def test_a_model_wins_over_the_short_name_of_a_base(world):
    world.build_base()
    model = world.model("tiny")
    assert world.serving.answer(ALICE, asks("tiny")).model == model.id


@pytest.mark.parametrize("stage", list(Stage))
def test_every_version_answers_by_its_number_whatever_its_stage(world, stage):
    world.build_base()
    model = world.model(stage=stage)
    assert world.serving.answer(ALICE, asks("intents@1")).model == model.id


def test_the_answer_comes_in_pieces_and_the_last_one_says_why_it_ended(world):
    world.build_base()
    world.engine.finish = "length"
    deltas = list(world.serving.chat(ALICE, asks("luthier/tiny")))
    assert "".join(delta.text for delta in deltas) == "Hello there"
    assert len(deltas) > 2
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
    assert world.engine.closed == 1


def test_a_reader_who_leaves_stops_the_engine(world):
    world.build_base()
    deltas = world.serving.chat(ALICE, asks("luthier/tiny"))
    next(deltas)
    deltas.close()
    assert world.engine.closed == 1


def test_a_reader_who_never_reads_stops_the_engine_too(world):
    world.build_base()
    world.serving.chat(ALICE, asks("luthier/tiny")).close()
    assert world.engine.closed == 1


@pytest.mark.parametrize(
    ("ref", "error"),
    [
        ("model_" + "0" * 26, NotFound),
        ("nobody", NotFound),
        ("nobody@2", NotFound),
        ("acme/unknown", ModelNotAllowed),
        ("../../etc/passwd", ModelNotAllowed),
    ],
)
def test_an_unknown_model_is_refused_before_anything_starts(world, ref, error):
    world.build_base()
    with pytest.raises(error):
        world.serving.chat(ALICE, asks(ref))
    assert world.engine.asked == []


def test_another_teams_model_is_unknown(world):
    world.build_base()
    model = world.model()
    for ref in (model.id, "intents", "intents@1"):
        with pytest.raises(NotFound):
            world.serving.chat(BOB, asks(ref))


def test_a_model_is_not_deleted_while_it_answers_and_another_is(world):
    world.build_base()
    model, other = world.model(stage=Stage.STAGING), world.model("other", stage=Stage.STAGING)
    answer = world.serving.chat(ALICE, asks(model.id))
    with pytest.raises(InUse, match="is being served"):
        world.registry.delete(ALICE, model.id)
    world.registry.delete(ALICE, other.id)
    assert "".join(delta.text for delta in answer) == "Hello there"
    hung_up = world.serving.chat(ALICE, asks(model.id))
    hung_up.close()
    world.registry.delete(ALICE, model.id)


def test_a_deleted_model_is_gone(world):
    world.build_base()
    model = world.model(stage=Stage.STAGING)
    world.serving.answer(ALICE, asks(model.id))
    world.registry.delete(ALICE, model.id)
    with pytest.raises(Gone):
        world.serving.chat(ALICE, asks(model.id))


def test_a_base_that_is_not_here_is_named_with_what_to_do(world):
    for ref in ("luthier/tiny", world.model().id):
        with pytest.raises(BaseUnavailable, match="luthier bases fetch luthier/tiny"):
            world.serving.chat(ALICE, asks(ref))


def test_a_model_is_never_put_on_another_revision_of_its_base(world):
    world.build_base()
    model = world.model(revision="2")
    with pytest.raises(BaseUnavailable):
        world.serving.chat(ALICE, asks(model.id))


def test_weights_that_rotted_are_refused(world):
    world.build_base()
    model = world.model()
    path = world.folder / f"users/team_alice/models/{model.id}/weights/adapter_model.safetensors"
    path.unlink()
    path.write_bytes(b"[]")
    with pytest.raises(ArtifactCorrupt):
        world.serving.chat(ALICE, asks(model.id))


def test_a_conversation_longer_than_the_context_is_refused_with_the_counts(world):
    world.build_base()
    with pytest.raises(FieldInvalid, match=r"has \d{4} tokens; with its answer it may have 1024") as refused:
        world.serving.chat(ALICE, asks("luthier/tiny", "word and another " * 1000))
    assert (refused.value.error_code, refused.value.param) == ("context_length", "messages")
    assert world.engine.asked == []


def test_an_answer_gets_no_more_tokens_than_the_context_has_left(world):
    world.build_base()
    world.serving.answer(ALICE, asks("luthier/tiny", max_tokens=100_000))
    _, request = world.engine.asked[0]
    assert len(request.prompt_ids) + request.max_tokens == 1024


def test_messages_that_are_no_conversation_are_refused(world):
    world.build_base()
    request = ChatRequest(model="luthier/tiny", messages=(ChatMessage(role="tool", content="x"),))
    with pytest.raises(FieldInvalid) as refused:
        world.serving.chat(ALICE, request)
    assert refused.value.param == "messages"


@pytest.mark.parametrize("after", [0, 1])
def test_an_engine_that_dies_is_told_as_unavailable(world, after):
    world.build_base()
    world.engine.fails_after = after
    with pytest.raises(EngineUnavailable):
        world.serving.answer(ALICE, asks("luthier/tiny"))
    assert world.engine.closed == 1


def test_an_engine_that_cannot_start_is_told_before_the_first_piece(world):
    world.build_base()
    world.engine.fails_after = 0
    with pytest.raises(EngineUnavailable):
        world.serving.chat(ALICE, asks("luthier/tiny"))


def test_c08_who_hangs_up_pays_for_what_was_sent(world):
    world.build_base()
    deltas = world.serving.chat(ALICE, asks("luthier/tiny"))
    text = next(deltas).text
    while not text:
        text = next(deltas).text
    deltas.close()
    (usage,) = world.billing.usage(ALICE).tokens
    assert (usage.requests, usage.prompt_tokens) == (1, len(world.engine.asked[0][1].prompt_ids))
    assert 1 <= usage.completion_tokens < len(world.engine.token_ids)


def test_a_whole_answer_is_metered_to_the_token(world):
    world.build_base()
    model = world.model()
    answer = world.serving.answer(ALICE, asks("intents"))
    world.serving.answer(ALICE, asks("intents"))
    (usage,) = world.billing.usage(ALICE).tokens
    assert (usage.model, usage.kind, usage.requests) == (model.id, "chat", 2)
    assert (usage.prompt_tokens, usage.completion_tokens) == (2 * answer.prompt_tokens, 2 * answer.completion_tokens)


def test_what_breaks_off_is_metered_up_to_there(world):
    world.build_base()
    world.engine.fails_after = 1
    with pytest.raises(EngineUnavailable):
        world.serving.answer(ALICE, asks("luthier/tiny"))
    assert world.billing.usage(ALICE).tokens[0].completion_tokens == 1
