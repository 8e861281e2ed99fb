"""A real HTTP(S) server of a test: what it gives is set path by path, and what was asked of it is kept."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import ssl
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class Served:
    """One server.

    Attributes:
        files: Content by path: bytes, something for JSON, a status with headers and bytes, or a function that takes
            what writes to the connection.
        asked: Paths that were asked for, with their queries.
        headers: Headers of the last request.
    """

    def __init__(self, scheme, port):
        self.url, self.host = f"{scheme}://127.0.0.1:{port}", f"127.0.0.1:{port}"
        self.files, self.asked, self.headers = {}, [], {}

    def put_json(self, path, document):
        self.files[path] = json.dumps(document).encode()

    def images(self):
        return [path for path in self.asked if path.endswith(".tif")]


@contextmanager
def serving(tls=None):
    """Serve on a port of its own; `tls` is a context for HTTPS."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            served.asked.append(self.path)
            served.headers = dict(self.headers)
            found = served.files.get(self.path.partition("?")[0], (404, {}, b""))
            if callable(found):
                self.close_connection = True
                with suppress(OSError):  # whoever asked had enough
                    found(self.wfile.write)
                return
            status, headers, body = found if isinstance(found, tuple) else (200, {}, found)
            version = f'"{hash(body)}"'
            if status == 200 and self.headers.get("If-None-Match") == version:
                status, body = 304, b""
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body)), "ETag": version} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    served = Served("https" if tls else "http", server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def certified(folder):
    """Return a context for HTTPS on loopback and the file of the one that vouches for it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, secret = folder / "authority.pem", folder / "key.pem"
    pem.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, secret)
    return context, pem
