"""The engine process: `python -m luthier.modeling.server --socket PATH`. `completions.py` says what it answers.

It knows no tenant and no key: the socket is its owner's alone (mode 0600), and all rights were checked before.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path

import torch
import uvicorn

from luthier.modeling.completions import Engine
from luthier.modeling.models import Models
from luthier.modeling.turns import Turns

_DRAIN_S = 2
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def _listen(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # born private: a chmod would come too late
    try:
        listener.bind(str(path))
        listener.listen(128)  # at once: who connects from now on waits and is not refused
    finally:
        os.umask(before)
    return listener


def _end_with_parent(server: uvicorn.Server, pipe: int) -> None:
    if sys.platform == "linux":
        # Linux sends it when the thread that started this process ends; the starter keeps that thread for its life.
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGTERM)

    def watch() -> None:
        while os.read(pipe, 4096):
            pass
        server.should_exit = True

    threading.Thread(target=watch, name="parent", daemon=True).start()


async def _serve(server: uvicorn.Server, engine: Engine, listener: socket.socket, idle_s: float) -> None:
    async def end_when_idle() -> None:
        while engine.idle_s < idle_s:
            await asyncio.sleep(min(1.0, idle_s / 4))
        server.should_exit = True

    watching = asyncio.create_task(end_when_idle())
    await server.serve(sockets=[listener])
    watching.cancel()


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m luthier.modeling.server", description=__doc__)
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--idle-s", type=float, default=600, help="end after this long without a request")
    parser.add_argument("--parent-pipe", type=int, help="end when this descriptor does")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.add_argument("--engine", choices=["transformers", "llama.cpp"], default="transformers")
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    parser.add_argument("--active", type=int, default=8, help="answers computed at a time")
    parser.add_argument("--waiting", type=int, default=32, help="requests that may wait; one more gets 429")
    return parser.parse_args(arguments)


def _models(given: argparse.Namespace, held: ExitStack) -> Models:
    if given.engine != "llama.cpp":
        return Models(given.device)
    from luthier.modeling.llama_serving import LlamaLoader

    scratch = held.enter_context(tempfile.TemporaryDirectory(dir=given.socket.parent, prefix="gguf-"))
    return Models("cpu", loader=LlamaLoader(Path(scratch), given.active, given.threads))


def main(arguments: list[str] | None = None) -> int:
    given = _arguments(arguments)
    if given.threads:
        torch.set_num_threads(given.threads)
    with ExitStack() as held:
        return _answer(given, _models(given, held))


def _answer(given: argparse.Namespace, models: Models) -> int:
    turns = Turns(models, active=given.active, waiting=given.waiting)
    engine = Engine(models, turns)
    config = uvicorn.Config(engine.app(), log_level="warning", lifespan="off", timeout_graceful_shutdown=_DRAIN_S)
    server = uvicorn.Server(config)
    if given.parent_pipe is not None:
        _end_with_parent(server, given.parent_pipe)
    listener = _listen(given.socket)
    try:
        asyncio.run(_serve(server, engine, listener, given.idle_s))
    finally:
        given.socket.unlink(missing_ok=True)
    if not turns.close(_DRAIN_S):
        os._exit(0)  # a long computation holds the thread; nobody waits for its result
    return 0


if __name__ == "__main__":
    sys.exit(main())
