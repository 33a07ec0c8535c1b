"""A bucket of Google Cloud Storage on this machine, as far as orbax asks for one.

In: nothing. Out: a server of the JSON API (objects: list, get, insert in one part, in
several or resumably, copy, move, delete) with a switch that makes it refuse to be
written to.
"""

import base64
import hashlib
import json
import re
import threading
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

OBJECT = re.compile(r"^(?:/download)?/storage/v1/b/([^/]+)/o/([^/]+)$")
COPY = re.compile(
    r"/b/([^/]+)/o/([^/]+)/(copyTo|rewriteTo|moveTo)(?:/b/[^/]+)?/o/([^/]+)$"
)


class Bucket(ThreadingHTTPServer):
    """Its objects by name; close it by `shutdown`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, tuple[int, bytes]] = {}  # generation, content
        self.uploads: dict[str, tuple[str, bytearray]] = {}
        self.broken, self.generation, self.lock = False, 0, threading.Lock()
        self.breaks = ""  # broken from when an object with this in its name is written
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Says nothing of a client that was killed."""

    def write_to(self, folder: Path, below: str) -> None:
        """Its objects below a name as files."""
        for name, (_, content) in self.objects.items():
            if name.startswith(f"{below}/"):
                file = folder / name.removeprefix(f"{below}/")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(content)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        """Sends gcsfs and tensorstore here instead of to Google."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "TENSORSTORE_GCS_HTTP_VERSION": "1.1",
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        }

    def put(self, name: str, content: bytes) -> dict:
        with self.lock:
            self.generation += 1
            self.objects[name] = self.generation, bytes(content)
            self.broken = self.broken or bool(self.breaks and self.breaks in name)
        return self.describe(name)

    def describe(self, name: str) -> dict:
        generation, content = self.objects[name]
        time = "2026-01-01T00:00:00.000Z"
        return {
            "kind": "storage#object",
            "name": name,
            "bucket": "bucket",
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "updated": time,
            "timeCreated": time,
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
        }


class Handler(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def answer(self, code: int, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refused(self) -> bool:
        """Whether a precondition on the generation, or the switch, forbids a write."""
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.broken:
            self.answer(403, {"error": {"code": 403, "message": "bucket is read-only"}})
        return self.server.broken

    def stale(self, query: dict, name: str) -> bool:
        wanted = query.get("ifGenerationMatch")
        found = self.server.objects.get(name, (0, b""))[0]
        if wanted and int(wanted[0]) != found:
            self.answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
            return True
        return False

    def do_GET(self) -> None:
        url, objects = urlsplit(self.path), self.server.objects
        query = parse_qs(url.query)
        if not (found := OBJECT.match(url.path)):
            if url.path.endswith("/o"):
                return self.answer(200, self.listed(query))
            return self.answer(200, {"name": "b"})
        name = unquote(found[2])
        if name not in objects:
            return self.answer(404, {"error": {"code": 404, "message": "not found"}})
        if query.get("alt") != ["media"]:
            return self.answer(200, self.server.describe(name))
        generation, content = objects[name]
        headers = {"x_goog_generation": str(generation)}
        if wanted := re.match(r"bytes=(\d+)-(\d*)$", self.headers.get("Range") or ""):
            begin, size = int(wanted[1]), len(content)
            end = min(int(wanted[2] or size - 1), size - 1)
            headers["Content_Range"] = f"bytes {begin}-{end}/{size}"
            return self.answer(206, content[begin : end + 1], **headers)
        return self.answer(200, content, **headers)

    def listed(self, query: dict) -> dict:
        prefix = query.get("prefix", [""])[0]
        cut = query.get("delimiter", [""])[0]
        items, folders = [], set()
        for name in sorted(self.server.objects):
            rest = name[len(prefix) :]
            if not name.startswith(prefix):
                continue
            if cut and cut in rest:
                folders.add(prefix + rest.partition(cut)[0] + cut)
            else:
                items.append(self.server.describe(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def do_POST(self) -> None:
        if self.refused():
            return None
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path.startswith("/upload/") and url.path[8:] in self.server.uploads:
            return self.more(url.path[8:])
        if copy := COPY.search(url.path):
            source = unquote(copy[2])
            if source not in self.server.objects:
                return self.answer(404, {"error": {"code": 404, "message": source}})
            new = self.server.put(unquote(copy[4]), self.server.objects[source][1])
            if copy[3] == "moveTo":
                del self.server.objects[source]
            return self.answer(200, {"done": True, "resource": new} | new)
        if not url.path.endswith("/o"):
            return self.answer(404, {"error": {"code": 404, "message": url.path}})
        kind, content = query.get("uploadType", ["media"])[0], self.body
        name = query.get("name", [""])[0]
        if kind == "multipart":
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            about, media = BytesParser().parsebytes(head + content).get_payload()
            name = json.loads(about.get_payload())["name"]
            content = media.get_payload(decode=True)
        elif kind == "resumable":
            name = name or json.loads(content)["name"]
            key = str(len(self.server.uploads))
            self.server.uploads[key] = name, bytearray()
            return self.answer(200, {}, Location=f"{self.server.url}/upload/{key}")
        if self.stale(query, name):
            return None
        return self.answer(200, self.server.put(name, content))

    def do_PUT(self) -> None:
        if self.refused():
            return None
        return self.more(urlsplit(self.path).path.rpartition("/")[2])

    def more(self, key: str) -> None:
        """The next part of an upload."""
        name, so_far = self.server.uploads[key]
        so_far += self.body
        if (self.headers.get("Content-Range") or "").endswith("/*"):
            return self.answer(308, {}, Range=f"bytes=0-{len(so_far) - 1}")
        return self.answer(200, self.server.put(name, so_far))

    def do_DELETE(self) -> None:
        if self.refused():
            return None
        found = OBJECT.match(urlsplit(self.path).path)
        gone = self.server.objects.pop(unquote(found[2]), None)
        return self.answer(204 if gone else 404, b"")
