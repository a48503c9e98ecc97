"""A stand-in for the Hugging Face hub on this machine: the part of its protocol that its clients use to read.

It is reached as any other hub is, by ``HF_ENDPOINT``. A repository has one commit and the files of one folder; every
file is handed out directly, as the hub does with small ones. What the hub says in headers is what its clients go by:
``X-Repo-Commit``, ``ETag``, and for what is not there ``X-Error-Code``.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NAME = r"(?P<name>[\w.-]+(?:/[\w.-]+)?)"
FILE = re.compile(rf"/(?P<kind>datasets/)?{NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
ASKED = re.compile(rf"/api/(?P<kind>models|datasets)/{NAME}(?:/(?P<what>revision|tree|paths-info)/(?P<rest>.+))?")


@dataclass
class Repository:
    """One repository: the digits of its commit, and a folder with its files."""

    commit: str
    folder: Path

    def files(self) -> list[str]:
        """Paths inside the repository."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())

    def has(self, revision: str) -> bool:
        """Whether there is such a commit or branch."""
        return revision in (self.commit, "main")

    def entry(self, path: str) -> dict[str, Any] | None:
        """A line of a listing: a file or a folder; None where there is neither."""
        place = self.folder / path
        if place.is_dir():
            return {"type": "directory", "path": path, "oid": etag(path.encode()), "size": 0}
        if not place.is_file():
            return None
        return {"type": "file", "path": path, "oid": etag(place.read_bytes()), "size": place.stat().st_size}

    def tree(self, below: str, recursive: bool) -> list[dict[str, Any]]:
        """The listing of a folder."""
        places = (self.folder / below).rglob("*") if recursive else (self.folder / below).glob("*")
        found = [self.entry(str(place.relative_to(self.folder))) for place in sorted(places)]
        return [entry for entry in found if entry is not None]


@dataclass
class Hub:
    """What the hub has, by ``("models" | "datasets", OWNER/NAME)``.

    Attributes:
        moved: new names by old ones.
        broken: paths whose files break off in the middle.
        asked: every request, as ``GET /path``.
    """

    repositories: dict[tuple[str, str], Repository]
    moved: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    endpoint: str = ""
    asked: list[str] = field(default_factory=list)


def etag(content: bytes) -> str:
    """A digest of a content, as git's blobs have one."""
    return hashlib.sha1(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: Hub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def do_GET(self) -> None:
        self.serve()

    def do_HEAD(self) -> None:
        self.serve()

    def do_POST(self) -> None:
        self.serve()

    def serve(self) -> None:
        """Find the repository, then the file or the listing."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        url = urlsplit(self.path)
        path, query = unquote(url.path), parse_qs(url.query)
        self.hub.asked.append(f"{self.command} {path}")
        found = FILE.fullmatch(path) or ASKED.fullmatch(path)
        if found is None:
            return self.refuse("EntryNotFound")
        if new := self.hub.moved.get(found["name"]):
            return self.send(307, b"", Location=path.replace(found["name"], new))
        kind = {None: "models", "datasets/": "datasets"}.get(found["kind"], found["kind"])
        repository = self.hub.repositories.get((kind, found["name"]))
        if repository is None:
            return self.refuse("RepoNotFound", 401)  # the hub does not tell strangers what is private
        if found.re is FILE:
            return self.send_file(repository, found["revision"], found["path"])
        revision, _, below = (found["rest"] or "main").partition("/")
        if not repository.has(revision):
            return self.refuse("RevisionNotFound")
        if found["what"] == "tree":
            if below and repository.entry(below) is None:
                return self.refuse("EntryNotFound")
            return self.send_json(repository.tree(below, query.get("recursive") == ["true"]))
        if found["what"] == "paths-info":
            wanted = parse_qs(body.decode()).get("paths") or json.loads(body or b"{}").get("paths", [])
            return self.send_json([entry for entry in map(repository.entry, wanted) if entry])
        files = [{"rfilename": file} for file in repository.files()]
        about = {"id": found["name"], "sha": repository.commit, "siblings": files, "private": False, "gated": False}
        return self.send_json(about | {"tags": [], "downloads": 0, "likes": 0, "disabled": False})

    def send_file(self, repository: Repository, revision: str, path: str) -> None:
        """A file's content, or for HEAD what there is to know about it."""
        if not repository.has(revision):
            return self.refuse("RevisionNotFound")
        known = {"X-Repo-Commit": repository.commit}
        place = repository.folder / path
        if not place.is_file():
            return self.refuse("EntryNotFound", **known)
        content = place.read_bytes()
        headers = {**known, "ETag": f'"{etag(content)}"', "Content-Length": str(len(content))}
        return self.send(200, content[: len(content) // 2] if path in self.hub.broken else content, **headers)

    def send_json(self, content: Any) -> None:
        self.send(200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

    def refuse(self, code: str, status: int = 404, **headers: str) -> None:
        """Say no as the hub does."""
        self.send(status, b"{}", **{"X-Error-Code": code}, **headers)

    def send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(content)), "Connection": "close"} | headers  # so that it can be gone
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """Nothing on the terminal; ``Hub.asked`` has it all."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub at ``hub.endpoint`` while the block runs; after it nobody answers there."""
    with ThreadingHTTPServer(("localhost", 0), partial(Handler, hub)) as server:
        hub.endpoint = f"http://localhost:{server.server_port}"
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
