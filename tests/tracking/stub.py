"""A stand-in for the service of Weights & Biases that keeps what the official client uploads.

It answers what the client asks while it uploads runs, files and artifacts, and nothing else; a question that it does not
know is kept in `unknown`.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Stub:
    """The service on a free port of 127.0.0.1. `runs` maps a run's name to what came of it."""

    def __init__(self):
        self.lock = threading.Lock()
        self.runs = {}
        self.files = {}  # path -> bytes
        self.artifacts = []
        self.unknown = []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def body(self):
                if self.headers.get("Transfer-Encoding") == "chunked":
                    parts = []
                    while size := int(self.rfile.readline(), 16):
                        parts.append(self.rfile.read(size))
                        self.rfile.readline()
                    self.rfile.readline()
                    data = b"".join(parts)
                else:
                    data = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    import gzip

                    data = gzip.decompress(data)
                return data

            def answer(self, value):
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self):
                self.answer({})

            def do_PUT(self):
                data = self.body()
                with stub.lock:
                    stub.files[self.path.removeprefix("/storage/")] = data
                self.answer({})

            def do_POST(self):
                data = self.body()
                if self.path == "/graphql":
                    question = json.loads(data)
                    with stub.lock:
                        answer = stub.graphql(question)
                    self.answer(answer)
                elif match := re.fullmatch(r"/files/([^/]+)/([^/]+)/([^/]+)/file_stream", self.path):
                    with stub.lock:
                        stub.file_stream(match[3], json.loads(data))
                    self.answer({"exitcode": None, "limits": {}})
                else:
                    self.answer({})

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_):
                pass  # a client that hangs up is none

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def run(self, name):
        empty = {"history": [], "events": [], "output": [], "summary": {}, "config": {}, "exit": None, "upserts": []}
        return self.runs.setdefault(name, empty)

    def file_stream(self, name, message):
        """Lines replace those from their offset on, as in the service."""
        run = self.run(name)
        kinds = {"wandb-history.jsonl": "history", "wandb-events.jsonl": "events", "output.log": "output"}
        for file, chunk in (message.get("files") or {}).items():
            if file == "wandb-summary.json":
                for line in chunk["content"]:
                    run["summary"] = json.loads(line)
            elif file in kinds:
                lines = chunk["content"]
                if file.endswith("jsonl"):
                    lines = [json.loads(line) for line in lines]
                kept = run[kinds[file]]
                kept[chunk["offset"] : chunk["offset"] + len(lines)] = lines
        if message.get("complete"):
            run["exit"] = message.get("exitcode")

    def graphql(self, question):
        operation = question.get("operationName") or ""
        values = question.get("variables") or {}
        handler = getattr(self, "on_" + operation, None)
        if handler is None:
            self.unknown.append((operation, question.get("query")))
            return {"data": None}
        try:
            return {"data": handler(values)}
        except Exception as problem:  # the client would ask again and again
            self.unknown.append((operation, f"{problem!r} with {values}"))
            return {"errors": [{"message": f"the stub does not understand: {problem!r}"}]}

    def on_UpsertBucket(self, values):
        run = self.run(values["name"])
        run["upserts"].append(values)
        if values.get("config"):
            run["config"] = json.loads(values["config"])
        entity, project = values.get("entity") or "stub", values.get("project")
        bucket = {
            "id": "id-" + values["name"],
            "name": values["name"],
            "displayName": values.get("displayName"),
            "description": None,
            "config": values.get("config"),
            "sweepName": None,
            "historyLineCount": len(run["history"]),
            "project": {"id": "p", "name": project, "entity": {"id": "e", "name": entity}},
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": len(run["upserts"]) == 1}}

    def on_RunResumeStatus(self, values):
        if values["name"] not in self.runs:
            return {"model": None}
        run = self.runs[values["name"]]
        bucket = {
            "id": "id-" + values["name"],
            "name": values["name"],
            "displayName": run["upserts"][-1].get("displayName"),
            "summaryMetrics": json.dumps(run["summary"]),
            "config": json.dumps(run["config"]),
            "wandbConfig": json.dumps({"t": 1}),
            "tags": run["upserts"][-1].get("tags"),
            "notes": run["upserts"][-1].get("notes"),
        }
        for kind, key in [("history", "history"), ("events", "events"), ("output", "log")]:
            bucket[key + "LineCount"] = len(run[kind])
            if key != "log":
                bucket[key + "Tail"] = json.dumps([json.dumps(line) for line in run[kind][-1:]])
        model = {"id": "p", "name": values["project"], "entity": {"id": "e", "name": "stub"}, "bucket": bucket}
        return {"model": model}

    def on_CreateRunFiles(self, values):
        files = [
            {"name": name, "uploadUrl": f"{self.url}/storage/{values['run']}/{name}"} for name in values["files"]
        ]
        return {"createRunFiles": {"runID": "id-" + values["run"], "uploadHeaders": [], "files": files}}

    def on_Viewer(self, _):
        return {"viewer": {"id": "u", "entity": "stub", "username": "stub", "flags": "{}", "teams": {"edges": []}}}

    def on_ServerFeaturesQuery(self, _):
        return {"serverInfo": {"features": []}}

    def on_CreateArtifact(self, values):
        self.artifacts.append({**values["input"], "committed": False})
        artifact = {"id": f"a{len(self.artifacts) - 1}", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def artifact_path(self, id, name):
        return f"artifact/{id}/{name}"

    def on_CreateArtifactManifest(self, values):
        values = values.get("input", values)
        id = values["artifactID"]
        file = {"id": "f", "uploadUrl": f"{self.url}/storage/{self.artifact_path(id, 'manifest')}", "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": "m" + id, "file": file}}}

    def on_UpdateArtifactManifest(self, values):
        values = values.get("input", values)
        path = self.artifact_path(values["artifactManifestID"][1:], "manifest")
        file = {"id": "f", "uploadUrl": f"{self.url}/storage/{path}", "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": values["artifactManifestID"], "file": file}}}

    def on_CreateArtifactFiles(self, values):
        # Some clients wrap the values.
        values = values.get("input", values)

        def node(spec):
            path = self.artifact_path(spec["artifactID"], spec["name"])
            return {
                "storagePath": path,
                "uploadUrl": f"{self.url}/storage/{path}",
                "uploadHeaders": [],
                "uploadMultipartUrls": None,
                "artifact": {"id": spec["artifactID"]},
            }

        edges = [{"node": node(spec)} for spec in values["artifactFiles"]]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def on_CommitArtifact(self, values):
        values = values.get("input", values)
        artifact = self.artifacts[int(values["artifactID"][1:])]
        artifact["committed"] = True
        return {"commitArtifact": {"artifact": {"id": values["artifactID"], "digest": artifact["digest"]}}}
