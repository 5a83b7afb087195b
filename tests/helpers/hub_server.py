"""A hub on 127.0.0.1: listings, revisions, redirects to a CDN, ranges, gates, and connections that break."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """What the server serves, and what it was asked.

    Args:
        repos: files by repository id.
        gated: repositories whose files need `token`.
        token: the one accepted token.
        cut_after: a large file breaks off after so many bytes, as often as `cuts` says.
        pause_after: a large file stalls after so many bytes until `go_on` is set.
        listing: what it answers instead of a listing.
        renamed: repositories by former id.
        requests: (method, path, headers by lower-case name) of every request.
    """

    repos: dict[str, dict[str, bytes]]
    gated: tuple[str, ...] = ()
    token: str = "secret"
    large_bytes: int = 1000
    cut_after: int = 0
    cuts: int = 0
    pause_after: int = 0
    ranges: bool = True
    damage: bool = False
    down: int = 0
    listing: bytes | None = None
    renamed: dict[str, str] = field(default_factory=dict)
    paused: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    sent_bytes: int = 0
    port: int = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_large(self, data: bytes) -> bool:
        return len(data) >= self.large_bytes

    def asked(self, part: str, method: str = "GET") -> list[dict[str, str]]:
        """Headers of the requests whose path holds `part`."""
        return [headers for verb, path, headers in self.requests if verb == method and part in path]


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that hangs up is part of the tests

    handler = type("Handler", (_Handler,), {"hub": hub})
    server = Server(("127.0.0.1", 0), handler)
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go_on.set()
        server.shutdown()
        server.server_close()


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path, {k.lower(): v for k, v in self.headers.items()}))
        if self.hub.down:
            return self._send(self.hub.down, b"down")
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            return self._blob(parts[1])
        repo_id = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        if repo_id in self.hub.renamed:
            return self._send(307, b"", {"Location": self.path.replace(repo_id, self.hub.renamed[repo_id])})
        files = self.hub.repos.get(repo_id)
        if files is None:
            return self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        if parts[0] == "api" and self.hub.listing is not None:
            return self._send(200, self.hub.listing, {"Content-Type": "text/html"})
        if parts[0] == "api":
            revision = parts[5] if len(parts) > 5 else "main"
            if revision not in ("main", "v1", COMMIT):
                return self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
            listing = self._tree(files) if parts[4:5] == ["tree"] else self._info(repo_id, files)
            return self._send(200, json.dumps(listing).encode(), {"Content-Type": "application/json"})
        if repo_id in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        return self._file(files, "/".join(parts[4:]))

    def _info(self, repo_id: str, files: dict[str, bytes]) -> dict[str, object]:
        siblings = []
        for name, data in files.items():
            row: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": git_oid(data)}
            if self.hub.is_large(data):
                row["lfs"] = {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                    "pointerSize": 134,
                }
            siblings.append(row)
        return {"id": repo_id, "modelId": repo_id, "sha": COMMIT, "siblings": siblings}

    def _tree(self, files: dict[str, bytes]) -> list[dict[str, object]]:
        rows = []
        for name, data in files.items():
            row: dict[str, object] = {"type": "file", "path": name, "size": len(data), "oid": git_oid(data)}
            if self.hub.is_large(data):
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            rows.append(row)
        return rows

    def _file(self, files: dict[str, bytes], name: str) -> None:
        headers = {"X-Repo-Commit": COMMIT}
        if name not in files:
            return self._send(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
        data = files[name]
        if not self.hub.is_large(data):
            return self._send(200, data, {**headers, "ETag": f'"{git_oid(data)}"'})
        digest = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
        # Another host name than the hub's, as in life: the token must not follow there.
        return self._send(302, b"", {**headers, "Location": f"http://localhost:{self.hub.port}/cdn/{digest}"})

    def _blob(self, digest: str) -> None:
        every = [data for files in self.hub.repos.values() for data in files.values()]
        data = next(d for d in every if hashlib.sha256(d).hexdigest() == digest)
        if self.hub.damage:
            data = b"x" + data[1:]
        start, wanted = 0, self.headers.get("Range", "")
        if wanted.startswith("bytes=") and self.hub.ranges:
            start = int(wanted[6:].partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if self.hub.pause_after and not self.hub.go_on.is_set():
            self._write(body[: self.hub.pause_after])
            self.hub.paused.set()
            self.hub.go_on.wait(60)
            body = body[self.hub.pause_after :]
        if self.hub.cuts > 0:
            self.hub.cuts -= 1
            self._write(body[: self.hub.cut_after])
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self._write(body)

    def _write(self, body: bytes) -> None:
        if self.command == "GET":
            self.wfile.write(body)
            self.wfile.flush()
            self.hub.sent_bytes += len(body)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
