"""A real S3 endpoint on loopback (moto), and a relay before it that fails when it is told to."""

import http.client
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

from moto.server import ThreadedMotoServer

Fault = Callable[[str, bytes], bytes | int]
"""(path, body of the answer) -> what arrives instead: less of it breaks the connection off; or the
status of an error."""

NAMES = (
    "Content-Length",
    "Content-Type",
    "Content-Range",
    "ETag",
    "Last-Modified",
    "x-amz-request-id",
)


class Relay(socketserver.ThreadingTCPServer):
    """Hands requests on, and answers back through `fault`."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, target: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target
        self.fault: Fault = lambda path, body: body
        self.reads: list[str] = []
        """Paths of the GET requests that were answered."""

    @property
    def endpoint(self) -> str:
        """Of the S3 service, to read from."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def direct_endpoint(self) -> str:
        """Of the S3 service without the relay, which understands no chunked uploads."""
        return f"http://{self.target[0]}:{self.target[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Relay

    def _relay(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        upstream = http.client.HTTPConnection(*self.server.target)
        upstream.request(self.command, self.path, body, dict(self.headers.items()))
        answer = upstream.getresponse()
        content, status = answer.read(), answer.status
        upstream.close()
        sent: bytes | int = content
        if self.command == "GET":
            self.server.reads.append(self.path)
            sent = self.server.fault(self.path, content)
        is_error = isinstance(sent, int)
        if isinstance(sent, int):
            status, content, sent = sent, b"", b""
        self.send_response_only(status)
        for name in NAMES:
            if name in answer.headers and not (name == "Content-Length" and is_error):
                self.send_header(name, answer.headers[name])
        if "Content-Length" not in answer.headers or is_error:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        self.close_connection = len(sent) < len(content)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _relay  # noqa: N815  http.server's names

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@contextmanager
def object_store(bucket: str) -> Iterator[Relay]:
    """A store with one empty bucket; its endpoint is the relay's."""
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    connection = http.client.HTTPConnection(host, port)
    connection.request("PUT", f"/{bucket}")
    connection.close()
    with Relay((host, port)) as relay:
        threading.Thread(target=relay.serve_forever, args=(0.01,), daemon=True).start()
        yield relay
        relay.shutdown()
    store.stop()
