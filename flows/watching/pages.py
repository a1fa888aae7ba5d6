"""The reports of a checkout, served beside Prefect's page by the checkout's own server: `/data/report/index.html`.

A browser opens no file from a page that came over HTTP, so the links of a run lead here. Reports alone are served, no models
and no data; to whom Prefect's API answers, when that wants to know who asks; and nothing in them can run.
"""

from __future__ import annotations

import base64
import hmac
import re
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

REPORT = re.compile(r"^(report|studies/[\w-]+/report)/[\w./-]+$")
SAFE = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data: 'self'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
"""A report is one page of text, styles and pictures; a script that came into it from somebody's record does not run."""


class Reports(StaticFiles):
    """Those files below data/ that are reports."""

    def __init__(self, root: Path, secret: str | None) -> None:
        """Serve the checkout at `root`; `secret` is the `user:password` that is wanted, if any."""
        super().__init__(directory=root / "data", check_dir=False)
        self._wanted = f"Basic {base64.b64encode(secret.encode()).decode()}" if secret else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: 401 to a stranger, 404 for what is no report."""
        given = Headers(scope=scope).get("authorization", "")
        if self._wanted and not hmac.compare_digest(given.encode(), self._wanted.encode()):
            await Response(status_code=401, headers={"WWW-Authenticate": 'Basic realm="temper"'})(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a report's file."""
        if not REPORT.match(path):
            return PlainTextResponse("no report", status_code=404)
        answer = await super().get_response(path, scope)
        answer.headers.update(SAFE)
        return answer


def add(app: Any, root: Path) -> None:
    """Serve the reports of the checkout at `root` through Prefect's app, before its own page, which takes every address."""
    from prefect.settings import get_current_settings

    secret = get_current_settings().server.api.auth_string
    reports = Mount("/data", app=Reports(root, secret.get_secret_value() if secret else None))
    assert isinstance(app, Starlette)
    app.router.routes.insert(0, reports)
