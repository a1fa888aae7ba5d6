"""A proxy before an S3 server that spoils what passes, as a busy, distant or broken storage does."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

FAULTS = ("500", "503", "slow", "truncated")
SLOW = 0.4
"""Seconds that a slow answer takes."""
OWN = ("content-length", "transfer-encoding", "connection", "date", "server")


class Faulty:
    """Spoils the first answer to every request whose path has `where` in it, or all of them `for_good`.

    `500` and `503` answer so; `slow` is late; `truncated` ends in the middle of a body; `garbled` flips a bit of what goes up.
    """

    def __init__(self, upstream: str, fault: str, *, for_good: bool = False, where: str = "") -> None:
        self.spoiled: list[str] = []
        seen: set[tuple[str, str]] = set()

        class Proxy(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                spoil = where in self.path and (for_good or (self.command, self.path) not in seen)
                seen.add((self.command, self.path))
                if spoil and fault.isdigit():
                    faulty.spoiled.append(self.path)
                    self._answer(int(fault), {}, b"")
                    return
                if spoil and fault == "slow":
                    faulty.spoiled.append(self.path)
                    time.sleep(SLOW)
                if spoil and fault == "garbled" and self.command == "PUT" and len(body) > 64:
                    faulty.spoiled.append(self.path)
                    body = body[:32] + bytes([body[32] ^ 1]) + body[33:]
                done = httpx.request(self.command, upstream + self.path, headers=dict(self.headers), content=body)
                cut = spoil and fault == "truncated" and self.command == "GET" and done.status_code < 300
                if cut:
                    faulty.spoiled.append(self.path)
                self._answer(done.status_code, dict(done.headers), done.content, cut)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

            def _answer(self, code: int, headers: dict[str, str], body: bytes, cut: bool = False) -> None:
                self.send_response(code)
                length = headers.get("content-length") if self.command == "HEAD" else None
                for name, value in headers.items():
                    if name.lower() not in OWN:
                        self.send_header(name, value)
                self.send_header("Content-Length", length or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[: len(body) // 2] if cut else body)
                if cut:
                    self.close_connection = True

            def log_message(self, *_) -> None:
                pass

        faulty = self
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
        self.address = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Faulty":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
