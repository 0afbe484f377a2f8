"""There is one way out to servers that users name: nobody else opens connections."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "src/luthier"
CLIENTS = {"requests", "httpx", "aiohttp", "urllib3", "http.client", "urllib.request", "smtplib", "ftplib", "websockets"}
CLIENTS |= {"obstore", "boto3", "huggingface_hub"}
ALLOWED = {
    "backends/outbound.py": "the guarded way out itself",
    "backends/fetchers/https.py": "the types of what it answers",
    "backends/fetchers/buckets.py": "buckets whose prefixes the admin's settings name",
    "backends/notifiers/mail.py": "the relay that the admin's settings name, no user",
    "backends/engines/child.py": "our own engine process, on loopback",
    "backends/engines/process.py": "our own engine process, on loopback",
    "backends/trackers/mlflow.py": "what MLflow's client raises; it talks to the server that the admin's settings name",
    "backends/engines/unix_http.py": "our own engine process, on loopback",
    "backends/engines/vllm.py": "the server that the admin's settings name",
    "modeling/hub.py": "base models of the catalogue, from the hub that the settings name",
    "faces/sdk": "the client's side: it talks to our server",
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nobody_but_the_guarded_client_talks_to_servers():
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        for name in imports(path)
        if any(name == client or name.startswith(f"{client}.") for client in CLIENTS)
    }
    assert sorted(name for name in found if not name.startswith(tuple(ALLOWED))) == []
    assert [place for place in ALLOWED if not any(name.startswith(place) for name in found)] == []
