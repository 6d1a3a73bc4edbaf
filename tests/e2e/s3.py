"""An S3 server on loopback, moto's, on a free port and ours alone; and one in front of it that is often too busy."""

import http.client
import os
import socket
import subprocess
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from obstore.store import S3Store

PROGRAM = Path(__file__).resolve().parents[2] / ".venv-s3" / "bin" / "moto_server"
needed = pytest.mark.skipif(not PROGRAM.is_file(), reason="`make e2e` installs the server")


@dataclass(frozen=True)
class Server:
    """A server that runs, with a bucket that is new."""

    process: "subprocess.Popen[bytes]"
    address: str  # host:port
    bucket: str

    @property
    def store(self) -> S3Store:
        """The bucket."""
        return S3Store(
            self.bucket,
            endpoint=f"http://{self.address}",
            access_key_id="any",
            secret_access_key="any",
            region="us-east-1",
            client_options={"allow_http": True},
        )


@contextmanager
def running(**environment: str) -> Iterator[Server]:
    """Start a server, with a bucket, and stop it at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [PROGRAM, "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    server = Server(process, f"127.0.0.1:{port}", f"flowerpress-{uuid.uuid4().hex[:12]}")
    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None
            try:
                request = urllib.request.Request(f"http://{server.address}/{server.bucket}", method="PUT")
                with urllib.request.urlopen(request, timeout=5) as reply:
                    assert reply.status == 200
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield server
    finally:
        process.kill()
        process.wait(20)


@contextmanager
def busy(target: str, times: int) -> Iterator[str]:
    """Start a server that says 503 to so many requests, and then what ``target`` says; yield its host:port."""
    left, lock = [times], threading.Lock()

    class Front(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            with lock:
                left[0] -= 1
                refused = left[0] >= 0
            if refused:
                self.send_response(503)
                self.send_header("content-length", "0")
                self.end_headers()
                return
            there = http.client.HTTPConnection(target)
            there.request(self.command, self.path, body, dict(self.headers))
            reply = there.getresponse()
            data = reply.read()
            self.send_response(reply.status)
            for name, value in reply.getheaders():
                if name.lower() not in ("transfer-encoding", "content-length", "connection", "server", "date"):
                    self.send_header(name, value)
            length = reply.getheader("content-length") if self.command == "HEAD" else None
            self.send_header("content-length", length or str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any

        def log_message(self, *_: Any) -> None:
            pass

    front = ThreadingHTTPServer(("127.0.0.1", 0), Front)
    thread = threading.Thread(target=front.serve_forever)
    thread.start()
    try:
        yield "{}:{}".format(*front.server_address)
    finally:
        front.shutdown()
        thread.join()
        front.server_close()
