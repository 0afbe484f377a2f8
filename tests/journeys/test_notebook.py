"""The notebook of the examples, cell by cell in a real kernel, beside a real platform."""

import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "examples" / "interactive.ipynb"
FEW_STEPS = 'changed = {"train": {"epochs": 1, "warmup_steps": 0}, "evaluate": {"rows": 2, "max_new_tokens": 8}}'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(420),
    # Jupyter's own: the kernel is asked over a loopback port, and its client leaves sockets to the collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_every_cell_runs_and_the_loss_is_drawn(house, monkeypatch):
    client = house.start()
    monkeypatch.setenv("LUTHIER_API_URL", house.url() or "")
    monkeypatch.setenv("LUTHIER_API_KEY", (house.data / "admin.key").read_text().strip())
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (given,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    given.source = FEW_STEPS

    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": os.fspath(NOTEBOOK.parent)}}).execute()

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    assert "of them to learn" in printed
    assert "fits: True" in printed
    assert printed.count("exact match") == 2
    assert [output for output in outputs if "image/png" in output.get("data", {})]
    assert {job.state for job in client.jobs.list()} == {"succeeded"}


def test_the_notebook_is_stored_without_what_it_printed():
    cells = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells if cell["cell_type"] == "code")
