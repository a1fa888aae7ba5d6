"""A language model behind an OpenAI-compatible endpoint, as a real server on this machine that says what a test tells it to."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


def reply(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]})


@pytest.fixture
def server(monkeypatch):
    """A real server that gives the replies of `script` in turn, the last one forever; a number is a delay in seconds."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            httpd.seen.append((self.path, self.headers["Authorization"], body))
            step = httpd.script.pop(0) if len(httpd.script) > 1 else httpd.script[0]
            if isinstance(step, float):
                time.sleep(step)
                return
            status, text = step
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.seen, httpd.script, httpd.waits = [], [reply("Reason: yes")], []
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()
