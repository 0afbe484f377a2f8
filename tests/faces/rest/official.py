"""The official client at the platform behind a real socket, and an engine that says what a test wants."""

from contextlib import contextmanager
from pathlib import Path

import openai
from tests.faces.rest.conftest import World, listening

import luthier
from luthier.datasets.rendering import Renderer
from luthier.seams import Likely, Piece

TINY_FOLDER = Path(luthier.__file__).parent / "bases" / "tiny"


class Scripted:
    """An engine that says one text, with made-up likelihoods where they are asked for."""

    def __init__(self, text):
        self.text = text
        self.asked = []

    def generate(self, model, request):
        self.asked.append(request)
        for token in Renderer.load(TINY_FOLDER)._tokens.as_text(self.text).ids:
            told = () if request.logprobs is None else (Likely(token, -0.5, ((token, -0.5), (5, -2.0))[: request.logprobs]),)
            yield Piece((token,), None, told)
        yield Piece((), "stop")

    def score(self, model, prompt_ids, answers):
        return [0.0 for _ in answers]

    def unload(self, folder):
        pass

    def state(self):
        return {"state": "ready", "models": []}

    def close(self):
        pass


@contextmanager
def client_of(world, *, strict=True):
    """The official client, strict about what it reads, over a real socket."""
    with (
        listening(world) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key=world.key, max_retries=0, _strict_response_validation=strict) as client,
    ):
        yield client


@contextmanager
def served(tmp_path, engine=None, embedder=None, **settings):
    world = World(tmp_path / "data", engine, embedder=embedder, **settings)
    world.build_base()
    with client_of(world) as client:
        yield world, client
    world.platform.close()
