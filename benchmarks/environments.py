"""An environment for each peer that cannot live in ours: made once below .bench, by ordinary pip."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy

import luthier

BENCH = Path(__file__).parent.parent / ".bench"
LLAMAFACTORY = BENCH / "llamafactory"
TOGETHER = BENCH / "together"
MLFLOW = BENCH / "mlflow"

_TOGETHER = "together==3.1.1"
_MLFLOW = "mlflow==3.17.2"
_FACTORY = "llamafactory==0.9.5"
# The versions that its own requirements allow, of what training imports; not its web page, pictures, sounds and hubs.
_NEEDS = (
    "accelerate==1.11.0",
    "av",
    "datasets==4.0.0",
    "einops",
    "fastapi",
    "fire",
    "hf-transfer",
    "matplotlib",
    "modelscope",
    "numpy",
    "omegaconf",
    "pandas",
    "peft==0.18.1",
    "protobuf",
    "scipy",
    "sentencepiece",
    "sse-starlette",
    "tiktoken",
    "torchdata==0.11.0",
    "transformers==5.6.0",
    "trl==0.24.0",
    "tyro==0.8.14",
    "uvicorn",
)


def python_of_llamafactory() -> str:
    """Its interpreter. Takes a few minutes at the first call."""
    return str(_made(LLAMAFACTORY) / "bin" / "python")


def python_of_together() -> str:
    """The interpreter that has Together's own package, whose checker of files is measured."""
    done = TOGETHER / "made.txt"
    if not done.is_file() or done.read_text("utf-8") != _TOGETHER:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(TOGETHER)], check=True)
        _pip(TOGETHER, _TOGETHER)
        done.write_text(_TOGETHER, "utf-8")
    return str(TOGETHER / "bin" / "python")


def python_of_mlflow() -> str:
    """The interpreter that has MLflow, with its own packages first; torch and our modules are those of this one."""
    done = MLFLOW / "made.txt"
    if not done.is_file() or done.read_text("utf-8") != _MLFLOW:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(MLFLOW)], check=True)
        _pip(MLFLOW, _MLFLOW)
        ours = [Path(numpy.__file__).parents[1], Path(luthier.__file__).parents[1]]
        (next(MLFLOW.glob("lib/python*/site-packages")) / "ours.pth").write_text("".join(f"{path}\n" for path in ours), "utf-8")
        done.write_text(_MLFLOW, "utf-8")
    return str(MLFLOW / "bin" / "python")


def _made(folder: Path) -> Path:
    done = folder / "made.txt"
    wanted = "\n".join((_FACTORY, *_NEEDS))
    if done.is_file() and done.read_text("utf-8") == wanted:
        return folder
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    # The torch that we train with, so that nobody wins by another one.
    _pip(folder, f"torch=={version('torch').partition('+')[0]}", *_NEEDS)
    _pip(folder, "--no-deps", _FACTORY)
    # It is imported at the start, for data that nobody here has.
    (next(folder.glob("lib/python*/site-packages")) / "torchaudio.py").write_text('"""Stands in for torchaudio."""\n', "utf-8")
    done.write_text(wanted, "utf-8")
    return folder


def _pip(folder: Path, *packages: str) -> None:
    command = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-qq", *packages]
    subprocess.run(command, check=True)
