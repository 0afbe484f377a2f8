"""A server that speaks vLLM's protocol as far as an engine uses it, and answers with the prompt's tokens backwards.

As vLLM does: an adapter that is loaded already is an error, an unknown model is 404, a stop token is the last of the token ids,
and a client that goes ends the answer.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        loaded = [{"id": name, "object": "model", "parent": "upstream-base"} for name in self.server.loaded]
        self._send(200, {"object": "list", "data": [*loaded, {"id": "upstream-base", "object": "model", "parent": None}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, body, self.headers.get("authorization")))
        if self.server.refuses is not None:
            self._send(*self.server.refuses)
        elif self.path == "/v1/load_lora_adapter":
            self._load(body)
        elif self.path == "/v1/unload_lora_adapter":
            self.server.loaded.remove(body["lora_name"])
            self._send(200, "Success")
        elif body["model"] not in {*self.server.loaded, "upstream-base"}:
            self._send(404, {"error": {"message": "The model does not exist.", "type": "NotFoundError", "code": 404}})
        else:
            self._answer(body)

    def _load(self, body):
        name = body["lora_name"]
        if name in self.server.loaded:
            message = f"The lora adapter '{name}' has already been loaded."
            self._send(400, {"error": {"message": message, "type": "InvalidUserInput", "code": 400}})
        elif not (Path(body["lora_path"]) / "adapter_config.json").is_file():
            self._send(400, {"error": {"message": f"No adapter in {body['lora_path']}.", "type": "BadRequestError", "code": 400}})
        else:
            self.server.loaded.append(name)
            self._send(200, f"Success: LoRA adapter '{name}' added successfully.")

    def _answer(self, body):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        # Endless where so many are asked: only a client that goes ends it.
        answer = list(reversed(body["prompt"])) * (body["max_tokens"] // len(body["prompt"]) + 1)
        try:
            for count, token in enumerate(answer[: body["max_tokens"]], 1):
                stops = token in body["stop_token_ids"]
                finish = "stop" if stops else "length" if count == body["max_tokens"] else None
                self._event({"choices": [self._choice(body, token, finish)]})
                self.server.sent += 1
                if stops:
                    break
            self.wfile.write(b"data: [DONE]\n\n")
        except OSError:
            self.server.left.set()
        self.close_connection = True

    def _choice(self, body, token, finish):
        logprobs = None
        if "logprobs" in body:
            name = f"token_id:{token}"
            others = {f"token_id:{token + n}": -0.5 - n for n in range(body["logprobs"])}
            logprobs = {"tokens": [name], "token_logprobs": [-0.5], "top_logprobs": [others], "text_offset": [0]}
        return {"index": 0, "text": "x", "token_ids": [token], "finish_reason": finish, "stop_reason": None, "logprobs": logprobs}

    def _event(self, event):
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status, body):
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class FakeVllm(ThreadingHTTPServer):
    """Listens on loopback until it is closed."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.asked, self.loaded, self.sent = [], [], 0
        self.left = threading.Event()
        self.refuses = None
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self):
        self.shutdown()
        self.server_close()
