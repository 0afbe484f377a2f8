"""A base comes whole or not at all, once, and always from the same commit. The hub is a fake on the loopback."""

import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from luthier import wiring
from luthier.backends.storage.local import LocalStorage
from luthier.errors import BaseUnavailable, ModelNotAllowed
from luthier.jobs.directory import JobDirectory
from luthier.jobs.spec import RunSpec, Sources
from luthier.modeling.fetch import fetch_base
from luthier.seams import Launch
from luthier.settings import Settings, child_environment
from luthier.values import BaseSource, Source

REPO = "someone/small-model"
FILES = ("config.json", "model.safetensors", "generation_config.json")


class FakeHub:
    """Speaks what the hub library asks: which commit a revision is, what is in it, and the files."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.commits = {"main": "a" * 40}
        self.files = files
        self.sent: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def about(self, revision: str) -> tuple[int, dict]:
        commit = self.commits.get(revision, revision)
        if commit not in self.commits.values():
            return 404, {"error": "Revision Not Found"}
        files = [
            {"rfilename": name, "size": len(data), "lfs": {"sha256": self.digest(name), "size": len(data), "pointerSize": 1}}
            if name.endswith(".safetensors")
            else {"rfilename": name, "size": len(data)}
            for name, data in self.files.items()
        ]
        return 200, {"id": REPO, "modelId": REPO, "sha": commit, "siblings": files, "private": False, "tags": [], "downloads": 0}

    def digest(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()

    def _handler(hub):  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                if path.startswith(f"/api/models/{REPO}/revision/"):
                    status, body = hub.about(path.rsplit("/", 1)[-1])
                    headers = {"X-Error-Code": "RevisionNotFound"} if status == 404 else {}
                    self.answer(status, json.dumps(body).encode(), headers)
                elif path.startswith(f"/{REPO}/resolve/"):
                    commit, name = path.split("/")[-2:]
                    if self.command == "GET":
                        hub.sent.append(name)
                    self.answer(200, hub.files[name], {"ETag": f'"{hub.digest(name)}"', "X-Repo-Commit": commit})
                else:
                    self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

            do_HEAD = do_GET

            def answer(self, status: int, body: bytes, headers: dict) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *details: object) -> None:
                pass

        return Handler


@pytest.fixture
def hub(base_folder):
    files = {name: (base_folder / name).read_bytes() for name in FILES}
    files |= {
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "pytorch_model.bin": b"pickle",
        "modeling_evil.py": b"code",
        "README.md": b"hello",
        "onnx/model.safetensors": b"elsewhere",
    }
    hub = FakeHub(files)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


def fetch(hub, cache, revision="main", repo=REPO, on_progress=lambda done: None):
    return fetch_base((REPO, revision, f"hub:{repo}"), cache, on_progress, endpoint=hub.endpoint)


def test_weights_config_and_tokenizer_come_and_nothing_else(hub, tmp_path):
    told: list[float] = []
    folder = fetch(hub, tmp_path / "cache", on_progress=told.append)
    assert folder == tmp_path / "cache" / "someone--small-model" / "main"
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, "tokenizer.json", "tokenizer_config.json"])
    assert (folder / "model.safetensors").read_bytes() == hub.files["model.safetensors"]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert not {"pytorch_model.bin", "modeling_evil.py"} & set(hub.sent)


def test_what_is_there_is_not_fetched_again(hub, tmp_path):
    first = fetch(hub, tmp_path)
    hub.sent.clear()
    assert fetch(hub, tmp_path) == first
    assert hub.sent == []


def test_a_name_means_the_commit_that_the_first_fetch_found(hub, tmp_path):
    import shutil

    folder = fetch(hub, tmp_path)
    assert (folder.parent / "main.commit").read_text().strip() == "a" * 40
    shutil.rmtree(folder)
    hub.commits = {"main": "b" * 40}
    with pytest.raises(BaseUnavailable, match="revision does not exist"):
        fetch(hub, tmp_path)  # the old commit is gone: told, not replaced by another one in silence
    hub.commits["old"] = "a" * 40
    fetch(hub, tmp_path)


def test_a_pinned_commit_needs_no_note(hub, tmp_path):
    folder = fetch(hub, tmp_path, revision="a" * 40)
    assert folder.name == "a" * 40
    assert not list(folder.parent.glob("*.commit"))


def test_many_at_once_fetch_once(hub, tmp_path):
    folders = []
    threads = [threading.Thread(target=lambda: folders.append(fetch(hub, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(folders) == 4
    assert hub.sent.count("model.safetensors") == 1


def nothing_left(cache) -> bool:
    return [path.name for path in cache.rglob("*") if path.is_file() and not path.name.endswith(".lock")] == []


def test_a_file_with_another_checksum_is_refused_and_leaves_nothing(hub, tmp_path):
    hub.digest = lambda name: "0" * 64
    with pytest.raises(BaseUnavailable, match="checksum"):
        fetch(hub, tmp_path / "cache")
    assert nothing_left(tmp_path / "cache")


def test_a_config_that_asks_to_run_code_is_refused_before_the_weights_come(hub, tmp_path):
    hub.files["config.json"] = b'{"auto_map": {"AutoModel": "modeling_evil.Model"}}'
    with pytest.raises(ModelNotAllowed):
        fetch(hub, tmp_path / "cache")
    assert "model.safetensors" not in hub.sent
    assert nothing_left(tmp_path / "cache")


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_repository_that_lacks_a_part_is_refused(hub, tmp_path, missing):
    del hub.files[missing]
    with pytest.raises(BaseUnavailable, match=r"has no"):
        fetch(hub, tmp_path)
    assert hub.sent == []


def test_unknown_repositories_and_revisions_are_told_apart(hub, tmp_path):
    with pytest.raises(BaseUnavailable, match="does not know it"):
        fetch(hub, tmp_path, repo="someone/else")
    with pytest.raises(BaseUnavailable, match="revision does not exist"):
        fetch(hub, tmp_path, revision="v9")


def test_who_stops_the_fetch_leaves_nothing_behind(hub, tmp_path):
    class Stop(Exception):
        pass

    def stop(done: float) -> None:
        raise Stop

    with pytest.raises(Stop):
        fetch(hub, tmp_path / "cache", on_progress=stop)
    assert nothing_left(tmp_path / "cache")


def unreachable_endpoint() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def test_an_unreachable_hub_is_told_soon_and_names_the_base_that_needs_none(tmp_path):
    started = time.monotonic()
    with pytest.raises(BaseUnavailable, match="cannot be reached") as caught:
        fetch_base((REPO, "main", f"hub:{REPO}"), tmp_path, lambda done: None, endpoint=unreachable_endpoint())
    assert "luthier/tiny" in str(caught.value.hint)
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("base_id", ["../../etc/passwd", "a/../b", "/abs", "", ".hidden/x"])
def test_an_id_never_leads_out_of_the_cache(tmp_path, base_id):
    with pytest.raises(BaseUnavailable):
        fetch_base((base_id, "main", "hub:x/y"), tmp_path, lambda done: None)
    assert nothing_left(tmp_path)


def run_command(endpoint: str, *arguments: str) -> tuple[int, list[dict]]:
    command = [sys.executable, "-m", "luthier.modeling.fetch", *arguments]
    environment = child_environment(Settings(hub_url=endpoint))
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def test_the_command_tells_progress_and_errors_line_by_line(hub, tmp_path):
    source = ["--id", REPO, "--revision", "main", "--url", f"hub:{REPO}", "--cache", str(tmp_path)]
    status, lines = run_command(unreachable_endpoint(), *source)
    assert (status, [*lines[-1]]) == (1, ["error"])
    assert lines[-1]["error"]["code"] == "base_unavailable"
    status, lines = run_command(hub.endpoint, *source)
    assert (status, lines[-1]) == (0, {"done": True})
    assert lines[-2] == {"progress": 1.0}


def test_a_trainer_fetches_from_the_hub_that_the_settings_name(hub, tmp_path):
    source = Source(id="ds_1", url="file:///nowhere", sha256="0" * 64)
    sources = Sources(dataset=source, base=BaseSource(id=REPO, revision="a" * 40, url=f"hub:{REPO}"))
    job = JobDirectory(LocalStorage(tmp_path / "job"), "")
    job.write_spec(RunSpec(base_model=REPO, dataset="ds_1", sources=sources).model_dump(mode="json"))
    executor = wiring.executor(Settings(data=tmp_path, hub_url=hub.endpoint))
    launch = Launch(((tmp_path / "job").as_uri(),), "trainer.log", (tmp_path / "bases").as_uri(), "test")
    handle = executor.start(launch)
    while executor.poll(handle) is None:
        threading.Event().wait(0.02)
    assert set(hub.sent) == {*FILES, "tokenizer.json", "tokenizer_config.json"}, (tmp_path / "trainer.log").read_text()
    executor.close()


def test_the_hub_library_of_the_machine_is_asked_where_no_setting_names_another(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror.example")
    assert child_environment(Settings(data=tmp_path))["HF_ENDPOINT"] == "http://mirror.example"
    assert child_environment(Settings(data=tmp_path, hub_url="http://hub.example"))["HF_ENDPOINT"] == "http://hub.example"
    monkeypatch.delenv("HF_ENDPOINT")
    assert child_environment(Settings(data=tmp_path))["HF_ENDPOINT"] == "https://huggingface.co"


BUILD = """
import functools
from luthier.modeling import fetch, tiny
tiny.build_tiny = functools.partial(tiny.build_tiny, recipe=tiny.TinyRecipe(steps=2, warmup_steps=1))
raise SystemExit(fetch.main())
"""


def test_a_tiny_base_is_built_without_a_word_but_its_progress(tmp_path):
    """Another library's bar would be drawn into the one of `luthier bases fetch`."""
    source = ["--id", "luthier/tiny", "--revision", "1", "--url", "luthier:tiny", "--cache", str(tmp_path)]
    command = [sys.executable, "-c", BUILD, *source]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    assert json.loads(done.stdout.splitlines()[-1]) == {"done": True}
