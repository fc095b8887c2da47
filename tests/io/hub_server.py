"""A hub on this machine: the files of one repository, for the hub's own client."""

import contextlib
import hashlib
import http.server
import json
import threading
from collections.abc import Iterator, Mapping


REPO, COMMIT = "some/model", "a" * 40


class Served:
    """What a server gives, and what it was asked for.

    - `files`: By name.
    - `cut`: Of these it sends the first half, and then nothing.
    - `asked`: The names of the files of which bytes were sent, and from which on.
    """

    def __init__(self, files: Mapping[str, bytes]):
        self.files = dict(files)
        self.cut: set[str] = set()
        self.asked: list[tuple[str, int]] = []
        self.url = ""


@contextlib.contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[Served]:
    served = Served(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self._answer(with_body=True)

        def do_HEAD(self):
            self._answer(with_body=False)

        def _answer(self, *, with_body):
            path = self.path.partition("?")[0]
            name = path.partition(f"/{REPO}/resolve/")[2].partition("/")[2]
            if path.startswith("/api/"):
                # A list of files, or what a repository is.
                data = json.dumps(_tree(served) if "/tree/" in path else _info(served))
                self._send(200, data.encode(), with_body, {})
            elif name in served.files:
                self._send_file(name, with_body)
            else:
                self._send(404, b"", with_body, {"X-Error-Code": "EntryNotFound"})

        def _send_file(self, name, with_body):
            data = served.files[name]
            ranged = self.headers.get("Range") if with_body else None
            first = int(ranged.partition("=")[2].partition("-")[0]) if ranged else 0
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(data)}"'}
            if ranged:
                end = f"{len(data) - 1}/{len(data)}"
                headers["Content-Range"] = f"bytes {first}-{end}"
            if with_body:
                served.asked.append((name, first))
            if with_body and name in served.cut:
                headers["Content-Length"] = str(len(data) - first)
                self._head(206 if ranged else 200, headers)
                self.wfile.write(data[first : len(data) // 2])
                self.close_connection = True
                return
            self._send(206 if ranged else 200, data[first:], with_body, headers)

        def _send(self, code, data, with_body, headers):
            self._head(code, headers | {"Content-Length": str(len(data))})
            if with_body:
                self.wfile.write(data)

        def _head(self, code, headers):
            self.send_response(code)
            for key, value in headers.items():
                self.send_header(key, value)
            self.end_headers()

        def log_message(self, format, *args):
            del format, args

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _info(served):
    names = [{"rfilename": name} for name in served.files]
    return {"id": REPO, "sha": COMMIT, "siblings": names}


def _tree(served):
    return [
        dict(type="file", path=name, size=len(data), oid=hashlib.sha1(data).hexdigest())
        for name, data in served.files.items()
    ]


def _digest(data):
    return hashlib.sha256(data).hexdigest()
