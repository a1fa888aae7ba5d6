"""A local HTTP server that keeps every JSON body it is sent: what stands behind a webhook in tests."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.flows.test_stage import wait_for


class Receiver:
    """Listens on a free port until `close`."""

    def __init__(self):
        self.bodies: list[tuple[str, dict]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append((self.path, json.loads(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def told(self, text: str, path: str = "/alerts", patience: float = 60) -> dict:
        """Wait for a body sent to `path` whose text has `text` in it, and return it."""
        wait_for(lambda: self._found(text, path), patience=patience)
        return self._found(text, path)[0]

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def _found(self, text: str, path: str) -> list[dict]:
        return [body for place, body in self.bodies if place == path and text in body["text"]]
