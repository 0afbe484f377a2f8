"""Job directories that somebody tampered with: each ends with its code and advice, and all around the attempt stays as it was."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.training.conftest import Submitted
from tests.training.test_gang_process import GRPO, PROMPTS

from luthier.jobs.directory import EXIT_SETUP, Manifest, ManifestFile
from luthier.training.__main__ import EXIT_NO_LAST_WORD, main
from luthier.training.checkpoints import sha256_of

pytestmark = pytest.mark.slow

TRAIN = {"max_steps": 6, "save_steps": 3, "learning_rate": 0.01, "batch_size": 2}
DEEP = "[" * 1_000_000


def seen(folder: Path, leaving_out: Path) -> dict[str, str]:
    """Every file around an attempt, with what is in it and where links lead."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if leaving_out in (path, *path.parents):
            continue
        if path.suffix == ".lock":  # of the cache of bases, empty
            continue
        if path.is_symlink():
            found[str(path)] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@pytest.fixture
def world(tmp_path: Path, bases: Path) -> Path:
    """A folder that holds a job, the base, and what is nobody's business."""
    (tmp_path / "outside" / "deep").mkdir(parents=True)
    (tmp_path / "outside" / "secret").write_text("s3cret", "utf-8")
    (tmp_path / "outside" / "deep" / "1.jsonl").write_text('{"prompt": "s3cret", "completion": "s3cret"}\n', "utf-8")
    shutil.copytree(bases, tmp_path / "bases")
    return tmp_path


@dataclasses.dataclass
class Ended:
    """How an attempt on a tampered directory ended."""

    exit_status: int
    job: Submitted

    @property
    def code(self) -> str | None:
        status = self.job.status
        return status.failure.code if status and status.failure else None


@pytest.fixture
def train(world: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """One attempt, watched: it ends soon, says nothing of Python's, and changes nothing around it."""

    def run(job: Submitted, *, claimed: bool = False) -> Ended:
        if not claimed:
            job.claim()
        attempt = job.folder / "attempts" / str(job.number)
        before, began = seen(world, attempt), time.monotonic()
        status = main([str(job.folder), "--bases", str(job.bases)])
        assert time.monotonic() - began < 60
        assert seen(world, attempt) == before
        said = capfd.readouterr()
        if attempt.resolve() != attempt:
            return Ended(status, job)
        left = "".join(path.read_text("utf-8", "replace") for path in attempt.rglob("*.json*") if path.is_file())
        for text in (said.out, said.err, left):
            assert "Traceback" not in text
            assert "s3cret" not in text
            assert str(world) not in text
        if job.status and job.status.failure:
            assert "ended with" not in job.status.failure.message, job.status.failure
            assert len(job.status.failure.hint) > 10
        return Ended(status, job)

    return run


@pytest.fixture
def make(world: Path) -> Callable[..., Submitted]:
    return lambda **details: Submitted(world / "jobs" / "job", world / "bases", **{"train": TRAIN, **details})


def sampled(cases: Mapping[str, Any], *names: str) -> list[Any]:
    """These cases always, the others in a full run."""
    assert set(names) <= set(cases)
    return [name if name in names else pytest.param(name, marks=pytest.mark.prove) for name in cases]


# -- the base ----------------------------------------------------------------------------------------------------------


def config_with(**fields: Any) -> Callable[[Path], None]:
    def edit(base: Path) -> None:
        config = json.loads((base / "config.json").read_text("utf-8"))
        (base / "config.json").write_text(json.dumps({**config, **fields}), "utf-8")

    return edit


def text_of(name: str, text: str) -> Callable[[Path], None]:
    return lambda base: (base / name).write_text(text, "utf-8") and None


def header_of_2_to_60(path: Path) -> None:
    path.write_bytes((1 << 60).to_bytes(8, "little") + path.read_bytes()[8:])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


BASES = {
    "auto_map": (config_with(auto_map={"AutoModelForCausalLM": "evil.Evil"}), "base_unavailable"),
    "no-config": (lambda base: (base / "config.json").unlink(), "base_unavailable"),
    "deep-config": (text_of("config.json", DEEP), "base_unavailable"),
    "list-config": (text_of("config.json", "[1]"), "base_unavailable"),
    "odd-config": (config_with(max_position_embeddings="many"), "base_unavailable"),
    "huge-config": (config_with(hidden_size=1 << 60), "base_unavailable"),
    "other-architecture": (config_with(model_type="nothing-known"), "base_unavailable"),
    "no-weights": (lambda base: (base / "model.safetensors").unlink(), "base_unavailable"),
    "cut-weights": (lambda base: cut(base / "model.safetensors"), "base_unavailable"),
    "header-weights": (lambda base: header_of_2_to_60(base / "model.safetensors"), "base_unavailable"),
    "no-tokenizer": (lambda base: (base / "tokenizer.json").unlink(), "base_unavailable"),
    "odd-tokenizer": (text_of("tokenizer.json", "{}"), "base_unavailable"),
    "deep-tokenizer-config": (text_of("tokenizer_config.json", DEEP), None),  # tokenizer.json says all that is needed
    "endless-template": (text_of("chat_template.jinja", "{% for a in range(1000000000) %}{{ a }}{% endfor %}"), "bad_data"),
    "evil-template": (text_of("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}"), "bad_data"),
}


@pytest.mark.parametrize("name", sampled(BASES, "auto_map", "no-config", "deep-config", "header-weights", "evil-template"))
def test_a_base_that_is_not_what_it_should_be_is_refused(make, train, name, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    job = make()
    spoil, code = BASES[name]
    spoil(job.bases / "luthier--tiny" / "1")
    ended = train(job)
    assert (ended.exit_status, ended.code) == (0, code), job.status


PINS = {
    "revision-elsewhere": {"revision": "../../outside"},
    "id-elsewhere": {"id": "../outside"},
    "unknown-source": {"id": "other/base", "url": "https://127.0.0.1:9/base"},
    "unknown-on-the-hub": {"id": "other/base", "url": "hub:other/base"},
}


@pytest.mark.parametrize("name", PINS)
def test_a_pin_that_is_no_base_of_ours_is_refused(make, train, name, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    job = make()
    spec = json.loads((job.folder / "run.yaml").read_text("utf-8"))
    spec["sources"]["base"] |= PINS[name]
    job.sha256 = job.job.write_spec(spec)
    ended = train(job)
    assert (ended.exit_status, ended.code) == (0, "base_unavailable"), job.status


# -- the directory -----------------------------------------------------------------------------------------------------


def linked(path: Path, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


@pytest.mark.parametrize("name", ["run.yaml", "control.json", "attempts", "attempts/1"])
def test_links_in_the_place_of_the_directorys_own_files_are_refused(make, train, world, name):
    job = make()
    job.claim()
    copy = world / "outside" / name.replace("/", "-")
    if (job.folder / name).is_file():
        shutil.copyfile(job.folder / name, copy)
    else:
        copy.mkdir()
    linked(job.folder / name, copy)
    assert train(job, claimed=True).exit_status == EXIT_SETUP


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("events", (EXIT_NO_LAST_WORD, None, None)),
        ("work", (EXIT_NO_LAST_WORD, None, None)),
        ("checkpoints", (0, "failed", "storage")),
        ("results", (0, "failed", "storage")),
        ("status.json", (0, "succeeded", None)),  # the link is replaced, and what it led to stays as it was
    ],
)
def test_links_in_an_attempt_lead_nowhere(make, train, world, name, ends):
    job = make()
    job.claim()
    linked(job.folder / "attempts" / "1" / name, world / "outside" / "deep")
    ended = train(job, claimed=True)
    assert (ended.exit_status, job.status and job.status.state, ended.code) == ends


def test_a_submitted_spec_that_was_edited_is_refused(make, train):
    job = make()
    spec = json.loads((job.folder / "run.yaml").read_text("utf-8"))
    (job.folder / "run.yaml").write_text(json.dumps({**spec, "seed": 7}), "utf-8")
    ended = train(job)
    assert (ended.exit_status, ended.code) == (0, "spec_tampered")


CONTROLS = {
    "deep": DEEP,
    "list": "[]",
    "wrong-type": '{"attempt": "one", "spec_sha256": 1}',
    "negative": '{"attempt": -1, "spec_sha256": "0"}',
    "huge-attempt": '{"attempt": %s, "spec_sha256": "0"}' % ("9" * 300),
    "empty": "",
    "large": " " * 50_000_000,
}


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_file_that_is_none_is_refused(make, train, name):
    job = make()
    job.number = 1
    (job.folder / "control.json").write_text(CONTROLS[name], "utf-8")
    assert train(job, claimed=True).exit_status == EXIT_SETUP


# -- the data ----------------------------------------------------------------------------------------------------------


def repinned(job: Submitted, data: bytes) -> None:
    """Other bytes as the file that was submitted."""
    path = job.folder.with_name(f"{job.folder.name}.jsonl")
    path.write_bytes(data)
    spec = json.loads((job.folder / "run.yaml").read_text("utf-8"))
    spec["sources"]["dataset"]["sha256"] = hashlib.sha256(data).hexdigest()
    job.sha256 = job.job.write_spec(spec)


DATA = {
    "one-line-of-100-MB": lambda: b'{"prompt": "a", "completion": "' + b"a" * 100_000_000 + b'"}\n',
    "deep": lambda: DEEP.encode() + b"\n",
    "array-of-deep": lambda: b"[" + DEEP.encode(),
    "deep-in-a-row": lambda: b'{"prompt": "a", "completion": ' + DEEP.encode() + b"}\n",
    "binary": lambda: os.urandom(100_000),
    "empty": lambda: b"",
    "long-number": lambda: b'{"prompt": ' + b"9" * 1_000_000 + b"}\n",
}


@pytest.mark.parametrize("name", DATA)
def test_data_that_is_none_is_refused(make, train, name):
    job = make()
    repinned(job, DATA[name]())
    ended = train(job)
    assert (ended.exit_status, ended.code) == (0, "bad_data"), job.status


def test_data_that_is_a_link_or_another_file_is_refused(make, train, world):
    job = make()
    path = job.folder.with_name(f"{job.folder.name}.jsonl")
    shutil.move(path, world / "outside" / "rows")
    path.symlink_to(world / "outside" / "rows")
    assert train(job).code == "bad_data"
    path.unlink()
    path.write_text('{"prompt": "a", "completion": "b"}\n', "utf-8")
    assert train(job).code == "bad_data"


# -- checkpoints -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def donors(bases, tmp_path_factory) -> dict[str, Path]:
    """A checkpoint of step 3 of either kind."""
    found = {}
    for name, details in {"sft": {}, "grpo": {"lines": PROMPTS, "more": MORE}}.items():
        job = Submitted(tmp_path_factory.mktemp("donor") / "job", bases, train=TRAIN, **details)
        job.claim()
        assert main([str(job.folder), "--bases", str(bases)]) == 0
        assert job.status.state == "succeeded"
        found[name] = job.folder / "attempts/1/checkpoints/step-00000003"
    return found


MORE = {"method": "grpo", "grpo": GRPO}


def state_with(**fields: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        state = json.loads((folder / "trainer_state.json").read_text("utf-8"))
        for name, value in fields.items():
            holder = state
            *path, last = name.split("__")
            for part in path:
                holder = holder[part]
            holder[last] = value
        (folder / "trainer_state.json").write_text(json.dumps(state), "utf-8")

    return edit


def tensors_with(file: str, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = {name: value.clone() for name, value in load_file(folder / file).items()}
        save_file(edit(tensors), folder / file, metadata={"format": "pt"})

    return spoil


ADAPTER, MOMENTS = "adapter_model.safetensors", "optimizer.safetensors"
CHECKPOINTS = {
    "nan-adapter": (tensors_with(ADAPTER, lambda t: {k: v * float("nan") for k, v in t.items()}), "diverged"),
    "inf-adapter": (tensors_with(ADAPTER, lambda t: {k: v + float("inf") for k, v in t.items()}), "diverged"),
    "other-rank": (tensors_with(ADAPTER, lambda t: {k: torch.cat([v, v]) for k, v in t.items()}), "storage"),
    "fewer-layers": (tensors_with(ADAPTER, lambda t: dict(list(t.items())[:2])), "storage"),
    "header-adapter": (lambda folder: header_of_2_to_60(folder / ADAPTER), "storage"),
    "cut-adapter": (lambda folder: cut(folder / ADAPTER), "storage"),
    "no-adapter": (lambda folder: (folder / ADAPTER).unlink(), "storage"),
    "deep-adapter-config": (text_of("adapter_config.json", DEEP), "storage"),
    "header-moments": (lambda folder: header_of_2_to_60(folder / MOMENTS), "storage"),
    "cut-moments": (lambda folder: cut(folder / MOMENTS), "storage"),
    "no-moments": (lambda folder: (folder / MOMENTS).unlink(), "storage"),
    "moments-of-others": (tensors_with(MOMENTS, lambda t: {f"{k}x": v for k, v in t.items()}), "storage"),
    "moments-of-another-shape": (tensors_with(MOMENTS, lambda t: {k: v.flatten()[:1] for k, v in t.items()}), "storage"),
    "fewer-moments": (tensors_with(MOMENTS, lambda t: dict(list(t.items())[:3])), "storage"),
    "moments-of-integers": (tensors_with(MOMENTS, lambda t: {k: v.to(torch.int8) for k, v in t.items()}), "storage"),
    "nan-moments": (tensors_with(MOMENTS, lambda t: {k: v * float("nan") for k, v in t.items()}), "diverged"),
    "deep-state": (text_of("trainer_state.json", DEEP), "storage"),
    "list-state": (text_of("trainer_state.json", "[]"), "storage"),
    "no-state": (lambda folder: (folder / "trainer_state.json").unlink(), "storage"),
    "step-of-words": (state_with(step="three"), "storage"),
    "other-step": (state_with(step=5), "storage"),
    "huge-step": (state_with(step=10**400), "storage"),
    "huge-tokens": (state_with(tokens_seen=10**400), "storage"),
    "endless-seconds": (state_with(seconds=1e999), "storage"),
    "huge-threads": (state_with(fixed__threads=10**9), "storage"),
    "negative-threads": (state_with(fixed__threads=-1), "storage"),
    "huge-batch": (state_with(fixed__batch_size=10**18), "storage"),
    "batch-of-nothing": (state_with(fixed__batch_size=0), "storage"),
    "tokens-of-nothing": (state_with(fixed__tokens_per_pass=-5), "storage"),
    "other-device": (state_with(fixed__device="abacus"), "storage"),
    "other-engine": (state_with(fixed__engine="steam"), "storage"),
    "other-precision": (state_with(fixed__precision="int1"), "storage"),
    "curve-of-words": (state_with(curve=["a", "b"]), "storage"),
    "curve-of-nothing": (state_with(curve_stride=0), "storage"),
    "watch-of-words": (state_with(loss_watch__first=["a"], loss_watch__smoothed={}), "storage"),
    "watch-of-nothing": (state_with(loss_watch__first=None), "storage"),
    "best-of-words": (state_with(best__since="no"), "storage"),
    "another-version": (state_with(news=1), "storage"),
    "far-best": (state_with(best_checkpoint={"attempt": 10**300, "step": 10**300, "sha256": "../../.."}), "storage"),
}
ANSWERS = {
    "deep": DEEP,
    "list": "[1]",
    "no-json": "{",
    "words": '{"first_step": 2, "answers": ["a"]}',
    "no-answers": '{"first_step": 2, "answers": []}',
    "other-fields": '{"first_step": 2, "answers": [{"ids": "abc"}]}',
    "ids-out-of-vocabulary": json.dumps(
        {
            "first_step": 2,
            "answers": [
                {"ids": [1, 10**9], "answer_at": 1, "old_logps": [-1.0], "reward": 1, "advantage": 1, "base_logps": [-1]}
            ],
        }
    ),
    "lengths-that-differ": json.dumps(
        {
            "first_step": 2,
            "answers": [{"ids": [1, 2], "answer_at": 9, "old_logps": [], "reward": 1, "advantage": 1, "base_logps": []}],
        }
    ),
    "no-numbers": json.dumps(
        {
            "first_step": 2,
            "answers": [{"ids": [1, 2], "answer_at": 1, "old_logps": [1e999], "reward": 1, "advantage": 1, "base_logps": [-1]}],
        }
    ),
}


def resumes_from(job: Submitted, donor: Path, spoil: Callable[[Path], None]) -> None:
    """Give a job the donor's checkpoint, spoiled, with a manifest that agrees: the next attempt goes on from it."""
    folder = job.folder / "attempts/1/checkpoints/step-00000003"
    shutil.copytree(donor, folder)
    (folder / "COMPLETE.json").unlink()
    spoil(folder)
    files = {path.name: ManifestFile(bytes=path.stat().st_size, sha256=sha256_of(path)) for path in sorted(folder.iterdir())}
    (folder / "COMPLETE.json").write_text(Manifest(step=3, files=files).model_dump_json(), "utf-8")
    job.number = 1
    job.claim()
    assert job.job.control().resume_from.step == 3


OFTEN = ("nan-adapter", "header-adapter", "cut-moments", "moments-of-another-shape", "deep-state", "huge-threads", "huge-step")


@pytest.mark.parametrize("name", sampled(CHECKPOINTS, *OFTEN))
def test_a_checkpoint_that_verifies_and_cannot_be_used_fails_with_its_code(make, train, donors, name):
    job = make()
    spoil, code = CHECKPOINTS[name]
    resumes_from(job, donors["sft"], spoil)
    ended = train(job, claimed=True)
    assert (ended.exit_status, ended.code) == (0, code), job.status


@pytest.mark.parametrize("name", sampled(ANSWERS, "deep", "lengths-that-differ"))
def test_answers_that_cannot_be_used_fail_with_their_code(make, train, donors, name):
    job = make(lines=PROMPTS, more=MORE)
    resumes_from(job, donors["grpo"], text_of("answers.json", ANSWERS[name]))
    ended = train(job, claimed=True)
    assert (ended.exit_status, ended.code) == (0, "storage"), job.status


def test_an_untouched_checkpoint_is_gone_on_from(make, train, donors):
    job = make()
    resumes_from(job, donors["sft"], lambda folder: None)
    assert train(job, claimed=True).code is None
    assert (job.status.state, job.status.resumed_from.step) == ("succeeded", 3)


def link_file(world: Path, folder: Path) -> None:
    shutil.copyfile(folder / ADAPTER, world / "outside" / ADAPTER)
    linked(folder / ADAPTER, world / "outside" / ADAPTER)


def link_folder(world: Path, folder: Path) -> None:
    shutil.move(folder.parent, world / "outside" / "checkpoints")
    linked(folder.parent, world / "outside" / "checkpoints")


@pytest.mark.parametrize("link", [link_file, link_folder])
def test_a_checkpoint_behind_a_link_does_not_count(make, train, donors, world, link):
    job = make()
    resumes_from(job, donors["sft"], lambda folder: None)
    link(world, job.folder / "attempts/1/checkpoints/step-00000003")
    assert train(job, claimed=True).code is None
    assert (job.status.state, job.status.resumed_from) == ("succeeded", None)


def test_hostile_members_of_a_gang_end_alone_and_the_others_train_as_ever(world, donors):
    def member(name: str) -> Submitted:
        return Submitted(world / "jobs" / name / "job", world / "bases", TRAIN)

    good, reference = member("good"), member("reference")
    tampered, spec_link, attempts_link, events_link, moments = map(member, ["tampered", "spec", "attempts", "events", "moments"])
    for job in (good, reference, tampered, spec_link, attempts_link, events_link):
        job.claim()
    with (tampered.folder / "run.yaml").open("a") as file:
        file.write(" ")
    linked(spec_link.folder / "run.yaml", good.folder / "run.yaml")
    linked(attempts_link.folder / "attempts", world / "outside")
    linked(events_link.folder / "attempts/1/events", world / "outside" / "deep")
    resumes_from(moments, donors["sft"], CHECKPOINTS["moments-of-another-shape"][0])
    outside = seen(world / "outside", world / "nowhere")

    assert main([str(reference.folder), "--bases", str(reference.bases)]) == 0
    gang = [spec_link, tampered, attempts_link, events_link, moments, good]
    assert main([*(str(job.folder) for job in gang), "--bases", str(good.bases)]) == 0
    assert good.status.state == "succeeded"
    assert good.losses() == reference.losses()
    assert [job.status.failure.code for job in (tampered, moments)] == ["spec_tampered", "storage"]
    assert [spec_link.status, events_link.status] == [None, None]
    assert seen(world / "outside", world / "nowhere") == outside
