"""A server beyond one machine: the site's own nginx configuration before a real Prefect server, with a certificate made here.

Whoever does not verify, or has no password, is turned away; a run with both goes through, its events by websocket too.
"""

import base64
import datetime
import ipaddress
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from flows.server import start_in_background
from tasks.runtime.imports import ROOT
from tests.flows.checkout import environment, make_checkout
from tests.flows.test_stage import wait_for

pytestmark = pytest.mark.slow
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
TEMPLATE = ROOT / "infra/nginx/temper.conf.template"
AROUND = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{inside}}}
"""


def certificate(folder: Path) -> Path:
    """Write server.crt and server.key, good for this machine, and return the certificate of who signed them."""
    now = datetime.datetime.now(datetime.UTC)
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, who)]) for who in ("a test's authority", "localhost"))

    def signed(subject: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> bytes:
        body = x509.CertificateBuilder(issuer, subject, public, x509.random_serial_number())
        body = body.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        body = body.add_extension(extension, critical=False)
        return body.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    (folder / "authority.crt").write_bytes(signed(issuer, authority.public_key(), x509.BasicConstraints(ca=True, path_length=0)))
    (folder / "server.crt").write_bytes(signed(name, key.public_key(), x509.SubjectAlternativeName(names)))
    (folder / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "authority.crt"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def auth() -> str:
    return f"temper:{secrets.token_hex(12)}"


@pytest.fixture(scope="module")
def site(auth, tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """A Prefect server that wants a password, behind nginx as the site has it: the address, and whose signature to trust."""
    if NGINX is None:
        pytest.skip("no nginx on this machine; on Debian: apt-get install nginx-light")
    folder, port = tmp_path_factory.mktemp("site"), free_port()
    trusted = certificate(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("PREFECT_SERVER_API_AUTH_STRING", auth)
        server = start_in_background(folder)
    server.wait()
    inner = server.ui_url.removeprefix("http://")
    text = TEMPLATE.read_text()
    for name, value in {"LISTEN": f"127.0.0.1:{port}", "CERTIFICATES": str(folder), "SERVER": inner}.items():
        text = text.replace(f"${{TEMPER_{name}}}", value)
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, inside=text))
    nginx = subprocess.Popen([NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf")], stderr=subprocess.DEVNULL)
    address = f"https://localhost:{port}"
    try:
        wait_for(lambda: answers(address, trusted))
        yield address, trusted
    finally:
        nginx.terminate()
        nginx.wait()
        server.stop()


def get(address: str, trusted: Path | None, auth: str | None = None) -> int:
    """Return the status of a request, by a client that verifies the certificate."""
    header = {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}"} if auth else {}
    context = ssl.create_default_context(cafile=trusted)
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=header), timeout=20, context=context) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as refusal:
        return refusal.code


def answers(address: str, trusted: Path) -> bool:
    try:
        return get(f"{address}/api/health", trusted) == 200
    except OSError:
        return False


def test_a_client_that_does_not_know_the_authority_refuses_the_server(site):
    address, _ = site
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        get(f"{address}/api/health", None)


def test_old_protocols_are_refused(site):
    address, trusted = site
    context = ssl.create_default_context(cafile=trusted)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/api/health", timeout=20, context=context)


def test_without_the_password_nothing_is_told(site, auth):
    address, trusted = site
    asked = f"{address}/api/admin/version"
    assert get(asked, trusted) == 401
    assert get(asked, trusted, "temper:wrong") == 401
    assert get(asked, trusted, auth) == 200


def test_a_run_goes_through_with_password_and_authority_from_the_environment(site, auth, tmp_path):
    address, trusted = site
    root = make_checkout(tmp_path / "checkout")
    given = environment(PREFECT_API_URL=f"{address}/api", PREFECT_API_AUTH_STRING=auth, SSL_CERT_FILE=str(trusted))
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run"], cwd=root, env=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert auth.partition(":")[2] not in done.stdout + done.stderr
    states = {run["name"]: run["state_type"] for run in posted(f"{address}/api/task_runs/filter", trusted, auth)}
    assert states == {"work": "COMPLETED"}


def posted(address: str, trusted: Path, auth: str) -> list[dict]:
    header = {"Authorization": f"Basic {base64.b64encode(auth.encode()).decode()}", "Content-Type": "application/json"}
    request = urllib.request.Request(address, data=b"{}", headers=header)
    with urllib.request.urlopen(request, timeout=20, context=ssl.create_default_context(cafile=trusted)) as reply:
        return list(json.load(reply))
