"""A Hugging Face Hub in memory, on 127.0.0.1: the endpoints that the real clients call, and faults on demand.

    with HubServer() as hub:
        hub.fail("PUT", "/lfs/", status=500, times=2)
        ...  # huggingface_hub, datasets and minari, with HF_ENDPOINT=hub.url

A repository is a list of commits, each a dict of all its files: what was committed is whole, what was not is not
there. Large files answer by a redirect to another host ("localhost"), as the Hub's do to its CDN.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

TOKEN, USER = "hf_test_0123456789", "me"
LARGE = (".hdf5", ".parquet", ".png")


@dataclass
class Fault:
    """What happens to the next requests that match.

    kind: "status" answers with `status`; "cut" closes the connection halfway through the body; "lost" does the
    work and closes the connection without an answer; "slow" waits `seconds` first; "html" answers with a page (500, if no status is given)
    that is no JSON.
    """

    method: str
    path: re.Pattern[str]
    kind: str
    status: int
    headers: dict[str, str]
    times: int
    seconds: float
    hits: int = 0


@dataclass
class File:
    """A file of a commit."""

    content: bytes
    large: bool = False
    declared_size: int | None = None  # what the listings say, where it is not the truth

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """Git's hash, of the pointer where the file is large."""
        content = self.content
        if self.large:
            content = f"version https://git-lfs\noid sha256:{self.sha256}\nsize {len(content)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def size(self) -> int:
        return len(self.content) if self.declared_size is None else self.declared_size


Tree = dict[str, File]


@dataclass
class Repo:
    """Commits from the first to the newest, and tags."""

    private: bool = False
    commits: list[tuple[str, Tree]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, tree: Tree) -> str:
        content = json.dumps([len(self.commits), {path: f.sha256 for path, f in sorted(tree.items())}])
        self.commits.append((hashlib.sha1(content.encode()).hexdigest(), tree))
        return self.commits[-1][0]

    @property
    def head(self) -> str:
        return self.commits[-1][0]

    def find(self, revision: str) -> tuple[str, Tree] | None:
        oid = self.head if revision in ("main", "refs/heads/main") else self.tags.get(revision, revision)
        return next((commit for commit in self.commits if commit[0] == oid), None)


class HubServer:
    """The server; see the module.

    Attributes:
        url: To give to HF_ENDPOINT.
        large_files: Files of `LARGE` suffixes go by LFS; if False, all go inside the commit.
        requests: "METHOD path" of each request so far.
        before_commit: Called before a commit is taken up, to let another one come first.
    """

    def __init__(self, *, large_files: bool = True):
        self.large_files = large_files
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.before_commit: Callable[[], None] | None = None
        self.lock = threading.RLock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self  # type: ignore[attr-defined]
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(
        self,
        method: str,
        path: str,
        kind: str = "status",
        *,
        status: int = 500,
        times: int = 1,
        seconds: float = 0.0,
        **headers: str,
    ) -> Fault:
        """Let the next `times` requests whose path contains the pattern `path` fail."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.faults.append(Fault(method, re.compile(path), kind, status, named, times, seconds))
        return self.faults[-1]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a repository as they are now."""
        found = self.repos[repo_id].find(revision)
        assert found is not None
        return {path: file.content for path, file in found[1].items()}

    def put(self, repo_id: str, files: dict[str, bytes | File | None]) -> str:
        """Commit files as someone in the browser would; None deletes one."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo())
            tree = dict(repo.commits[-1][1]) if repo.commits else {}
            for path, content in files.items():
                if content is None:
                    del tree[path]
                else:
                    tree[path] = content if isinstance(content, File) else File(content)
            return repo.commit(tree)


class _Answer(Exception):
    """Ends a request."""

    def __init__(self, status: int, body: Any = None, **headers: str):
        self.status, self.headers = status, {k.replace("_", "-"): v for k, v in headers.items()}
        self.body = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()


def _missing(what: str) -> _Answer:
    message = {"RepoNotFound": "Repository not found", "EntryNotFound": "Entry not found"}.get(what, what)
    return _Answer(404, {"error": message}, X_Error_Code=what, X_Error_Message=message)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms for the headers' receipt
    hub: HubServer

    def setup(self) -> None:
        super().setup()
        self.hub = self.server.hub  # type: ignore[attr-defined]
        self.connection.settimeout(30)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        fault = self._fault(path)
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.kind == "cut" and self.command in ("POST", "PUT"):
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        with self.hub.lock:
            self.hub.requests.append(f"{self.command} {path}")
        if fault and fault.kind == "slow":
            time.sleep(fault.seconds)
        if fault and fault.kind == "status":
            answer = _Answer(fault.status, {"error": "A fault on demand"}, **fault.headers)
        elif fault and fault.kind == "html":
            answer = _Answer(fault.status, b"<html>Internal error</html>")
        else:
            answer = self._answer(path, query, body)
        if fault and (fault.kind == "lost" or (fault.kind == "cut" and self.command == "HEAD")):
            self._hang_up()
            return
        cut = fault is not None and fault.kind == "cut"
        try:
            self._send(answer, cut)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _fault(self, path: str) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.hits < fault.times and self.command == fault.method and fault.path.search(path):
                    fault.hits += 1
                    return fault
        return None

    def _answer(self, path: str, query: dict[str, list[str]], body: bytes) -> _Answer:
        for method, pattern, handle in _ROUTES:
            match = pattern.fullmatch(path)
            if match and self.command in method:
                try:
                    handle(self, query=query, body=body, **match.groupdict())
                except _Answer as answer:
                    return answer
        return _Answer(404, {"error": f"The test Hub knows no {self.command} {path}"})

    def _send(self, answer: _Answer, cut: bool) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in answer.headers:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[: len(answer.body) // 2] if cut else answer.body)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(2)

    # ----------------------------------------------------------------------------------- who may do what

    def _user(self) -> str | None:
        given = self.headers.get("Authorization")
        if given is None:
            return None
        if given != f"Bearer {TOKEN}":
            message = "Invalid credentials in Authorization header"
            raise _Answer(401, {"error": message}, X_Error_Message=message)
        return USER

    def _repo(self, repo_id: str, *, write: bool = False) -> Repo:
        user, repo = self._user(), self.hub.repos.get(repo_id)
        if write and user is None:
            raise _Answer(401, {"error": "Invalid username or password."})
        if repo is None or (repo.private and user is None):
            if user is None:  # as the Hub does, which tells a stranger nothing of what there is
                # By the code, since huggingface_hub knows such an answer by its address only where that begins with https.
                message = "Invalid username or password."
                raise _Answer(401, {"error": message}, X_Error_Code="RepoNotFound", X_Error_Message=message)
            raise _missing("RepoNotFound")
        if write and user != repo_id.split("/")[0]:
            raise _Answer(403, {"error": "You do not have write access"}, X_Error_Message="Forbidden")
        return repo

    def _commit(self, repo_id: str, revision: str) -> tuple[str, Tree]:
        found = self._repo(repo_id).find(revision)
        if found is None:
            raise _missing("RevisionNotFound")
        return found

    # ---------------------------------------------------------------------------------------- repositories

    def create(self, query: Any, body: bytes) -> None:
        asked = json.loads(body)
        user = self._user()
        if user is None:
            raise _Answer(401, {"error": "Invalid username or password."})
        owner = asked.get("organization") or user
        if owner != user:
            raise _Answer(403, {"error": "You may not create that"}, X_Error_Message="Forbidden")
        repo_id = f"{owner}/{asked['name']}"
        url = {"url": f"{self.hub.url}/datasets/{repo_id}"}
        with self.hub.lock:
            if repo_id in self.hub.repos:
                raise _Answer(409, url | {"error": "You already created this dataset repo"})
            private = asked.get("private") or asked.get("visibility") == "private"
            self.hub.repos[repo_id] = Repo(private=bool(private))
            self.hub.repos[repo_id].commit({".gitattributes": File(b"*.hdf5 filter=lfs -text\n")})
        raise _Answer(200, url)

    def info(self, query: Any, body: bytes, repo: str, revision: str = "main") -> None:
        oid, tree = self._commit(repo, revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in tree]
        if "blobs" in query:
            for entry, file in zip(siblings, tree.values(), strict=True):
                entry |= {"size": file.size, "blobId": file.blob_id}
                if file.large:
                    entry["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": 130}
        private = self.hub.repos[repo].private
        raise _Answer(200, {"id": repo, "sha": oid, "private": private, "siblings": siblings, "tags": []})

    def listing(self, query: dict[str, list[str]], body: bytes) -> None:
        user, author, search = self._user(), query.get("author", [""])[0], query.get("search", [""])[0]
        found = [
            {"id": repo_id, "private": repo.private, "tags": []}
            for repo_id, repo in self.hub.repos.items()
            if repo_id.startswith(f"{author}/") and search in repo_id and (user or not repo.private)
        ]
        raise _Answer(200, json.dumps(found).encode())

    def tree(
        self, query: dict[str, list[str]], body: bytes, repo: str, revision: str, path: str = ""
    ) -> None:
        _, tree = self._commit(repo, revision)
        recursive = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = {}
        for name in tree:
            if not path or name.startswith(f"{path}/"):
                below = name[len(path) + 1 if path else 0 :].split("/")
                for depth in range(1, len(below) if recursive else min(2, len(below))):
                    folder = "/".join(filter(None, [path, *below[:depth]]))
                    entries[folder] = _folder_entry(folder)
                if recursive or len(below) == 1:
                    entries[name] = _file_entry(name, tree[name])
        if path and not entries:
            raise _missing("EntryNotFound")
        raise _Answer(200, json.dumps(list(entries.values())).encode())

    def paths_info(self, query: Any, body: bytes, repo: str, revision: str) -> None:
        _, tree = self._commit(repo, revision)
        form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
        paths = parse_qs(body.decode())["paths"] if form else json.loads(body)["paths"]
        entries = []
        for path in paths:
            if path in tree:
                entries.append(_file_entry(path, tree[path]))
            elif any(name.startswith(f"{path}/") for name in tree):
                entries.append(_folder_entry(path))
        raise _Answer(200, json.dumps(entries).encode())

    def refs(self, query: Any, body: bytes, repo: str) -> None:
        found = self._repo(repo)
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.head}
        tags = [
            {"name": name, "ref": f"refs/tags/{name}", "targetCommit": oid}
            for name, oid in found.tags.items()
        ]
        raise _Answer(200, {"branches": [main], "converts": [], "tags": tags, "pullRequests": []})

    def tag(self, query: Any, body: bytes, repo: str, revision: str) -> None:
        found = self._repo(repo, write=True)
        oid, _ = self._commit(repo, revision)
        name = json.loads(body)["tag"]
        if name in found.tags:
            raise _Answer(409, {"error": f"Tag {name} exists already"})
        found.tags[name] = oid
        raise _Answer(200)

    # -------------------------------------------------------------------------------------------- uploads

    def validate_yaml(self, query: Any, body: bytes) -> None:
        match = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.S)
        try:
            valid = match is None or isinstance(yaml.safe_load(match[1]), dict)
        except yaml.YAMLError:
            valid = False
        errors = [] if valid else [{"message": "The front matter is no mapping"}]
        raise _Answer(200 if valid else 400, {"errors": errors, "warnings": []})

    def preupload(self, query: Any, body: bytes, repo: str, revision: str) -> None:
        self._repo(repo, write=True)
        _, tree = self._commit(repo, revision)
        files = []
        for asked in json.loads(body)["files"]:
            path = asked["path"]
            large = self.hub.large_files and path.endswith(LARGE)
            there = tree.get(path)
            oid = (there.sha256 if there.large else there.blob_id) if there else None
            mode = "lfs" if large else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        raise _Answer(200, {"files": files})

    def lfs_batch(self, query: Any, body: bytes, repo: str) -> None:
        self._repo(repo, write=True)
        objects = []
        for asked in json.loads(body)["objects"]:
            entry = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.objects:
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append(entry)
        raise _Answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, query: Any, body: bytes, oid: str) -> None:
        if "Authorization" in self.headers:
            raise _Answer(400, {"error": "the login does not belong to the storage"})
        if hashlib.sha256(body).hexdigest() != oid:
            raise _Answer(400, {"error": "the content is not of its hash"})
        with self.hub.lock:
            self.hub.objects[oid] = body
        raise _Answer(200)

    def commit(self, query: Any, body: bytes, repo: str, revision: str) -> None:
        found = self._repo(repo, write=True)
        before, self.hub.before_commit = self.hub.before_commit, None
        if before:
            before()
        with self.hub.lock:
            lines = [json.loads(line) for line in body.splitlines()]
            parent = lines[0]["value"].get("parentCommit")
            if parent is not None and parent != found.head:
                raise _Answer(412, {"error": "A commit has happened since. Please refresh and try again."})
            tree = dict(found.commits[-1][1])
            for line in lines[1:]:
                value = line["value"]
                if line["key"] == "file":
                    tree[value["path"]] = File(base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    if value["oid"] not in self.hub.objects:
                        raise _Answer(400, {"error": f"{value['path']} was not uploaded"})
                    tree[value["path"]] = File(self.hub.objects[value["oid"]], large=True)
                elif line["key"] == "deletedFile":
                    del tree[value["path"]]
                else:
                    raise _Answer(400, {"error": f"the test Hub knows no {line['key']}"})
            oid = found.commit(tree)
        url = f"{self.hub.url}/datasets/{repo}/commit/{oid}"
        raise _Answer(200, {"success": True, "commitOid": oid, "commitUrl": url})

    # ------------------------------------------------------------------------------------------ downloads

    def resolve(self, query: Any, body: bytes, repo: str, revision: str, path: str) -> None:
        oid, tree = self._commit(repo, revision)
        if path not in tree:
            answer = _missing("EntryNotFound")
            answer.headers["X-Repo-Commit"] = oid
            raise answer
        file = tree[path]
        headers = {"X_Repo_Commit": oid, "Accept_Ranges": "bytes"}
        if file.large:
            self.hub.objects.setdefault(file.sha256, file.content)
            location = f"http://localhost:{self.hub.port}/cdn/{file.sha256}"
            linked = {"X_Linked_Size": str(file.size), "X_Linked_ETag": f'"{file.sha256}"'}
            raise _Answer(302, b"", **headers, **linked, Location=location, ETag='"pointer"')
        self._content(file.content, ETag=f'"{file.blob_id}"', **headers)

    def cdn(self, query: Any, body: bytes, oid: str) -> None:
        if "Authorization" in self.headers:
            raise _Answer(400, {"error": "the login does not belong to the CDN"})
        self._content(self.hub.objects[oid], ETag=f'"{oid}"')

    def _content(self, content: bytes, **headers: str) -> None:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if match:
            start, stop = int(match[1]), int(match[2] or len(content) - 1) + 1
            span = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
            raise _Answer(206, content[start:stop], Content_Range=span, **headers)
        if self.command == "HEAD":
            headers["Content_Length"] = str(len(content))
        raise _Answer(200, content, **headers)

    def whoami(self, query: Any, body: bytes) -> None:
        user = self._user()
        if user is None:
            raise _Answer(401, {"error": "Invalid username or password."})
        raise _Answer(200, {"name": user, "type": "user", "orgs": []})


def _file_entry(path: str, file: File) -> dict[str, Any]:
    entry = {"type": "file", "oid": file.blob_id, "size": file.size, "path": path}
    if file.large:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
    return entry


def _folder_entry(path: str) -> dict[str, Any]:
    return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = rf"/api/datasets/{_REPO}"
_REVISION = r"(?P<revision>(?:refs/[^/]+/)?[^/]+)"
_ROUTES: list[tuple[tuple[str, ...], re.Pattern[str], Callable[..., None]]] = [
    (methods, re.compile(pattern), handle)
    for methods, pattern, handle in [
        (("POST",), "/api/repos/create", _Handler.create),
        (("POST",), "/api/validate-yaml", _Handler.validate_yaml),
        (("GET",), "/api/whoami-v2", _Handler.whoami),
        (("GET",), "/api/datasets", _Handler.listing),
        (("GET",), _API, _Handler.info),
        (("GET",), f"{_API}/revision/{_REVISION}", _Handler.info),
        (("GET",), f"{_API}/refs", _Handler.refs),
        (("GET",), f"{_API}/tree/{_REVISION}(?:/(?P<path>.+))?", _Handler.tree),
        (("POST",), f"{_API}/paths-info/{_REVISION}", _Handler.paths_info),
        (("POST",), f"{_API}/preupload/{_REVISION}", _Handler.preupload),
        (("POST",), f"{_API}/commit/{_REVISION}", _Handler.commit),
        (("POST",), f"{_API}/tag/{_REVISION}", _Handler.tag),
        (("POST",), rf"/datasets/{_REPO}\.git/info/lfs/objects/batch", _Handler.lfs_batch),
        (("PUT",), "/lfs/(?P<oid>[0-9a-f]{64})", _Handler.lfs_put),
        (("GET", "HEAD"), "/cdn/(?P<oid>[0-9a-f]{64})", _Handler.cdn),
        (("GET", "HEAD"), f"/datasets/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler.resolve),
    ]
]
