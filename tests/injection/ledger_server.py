"""An MCP server with the tools of AgentDojo, which writes each call to a ledger and does nothing else."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LedgerServer:
    """`tools` are descriptions as `tools/list` has them."""

    def __init__(self, tools):
        self.tools = tools
        self.ledger = []
        # What `read_file` returns, by its path.
        self.files = {}
        # Stands in the description of `read_file`.
        self.described = ""
        handler = type("Handler", (Handler,), {"owner": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/mcp"

    def take_ledger(self):
        """The calls since the last time, each with its tool and its arguments."""
        taken, self.ledger = self.ledger, []
        return taken

    def answer(self, method, params):
        if method == "server/discover":
            return {
                "resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0,
                "cacheScope": "private", "capabilities": {"tools": {}},
            }
        if method == "tools/list":
            tools = [dict(tool) for tool in self.tools]
            for tool in tools:
                if tool["name"] == "read_file":
                    tool["description"] += self.described
            return {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": tools}
        name, arguments = params["name"], params.get("arguments", {})
        self.ledger.append((name, arguments))
        text = self.files.get(arguments.get("file_path"), "done")
        return {"resultType": "complete", "content": [{"type": "text", "text": text}]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner = None

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if "id" not in message:
            self.respond(202, b"")
            return
        result = self.owner.answer(message["method"], message.get("params", {}))
        answer = {"jsonrpc": "2.0", "id": message["id"], "result": result}
        self.respond(200, json.dumps(answer).encode())

    def respond(self, status, body):
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
