"""Has the gateway call the tools of real MCP servers.

Arguments: the gateway's URL, a key, the organization, an operator's key, and the JavaScript file of server-everything.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

url, key, organization, operator, everything = sys.argv[1:]
here = os.path.dirname(os.path.abspath(__file__))


def call(method, path, body=None, with_key=operator):
    request = urllib.request.Request(
        url + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"x-api-key": with_key, "content-type": "application/json"},
    )
    try:
        return json.loads(urllib.request.urlopen(request, timeout=120).read() or b"null")
    except urllib.error.HTTPError as error:
        raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()}")


def free_port():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def wait_for(port, process):
    for _ in range(600):
        if process.poll() is not None:
            raise SystemExit(f"a server has ended: {process.args}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nobody listens: {process.args}")


def check(server, call_of_tools, expected):
    """Lists the tools of a server, calls some in a run, and compares their results with the expected ones."""
    admin = f"/admin/tenants/{organization}"
    listed = call("GET", f"{admin}/mcp-servers/{server}/tools")
    names = [tool["name"] for tool in listed["tools"]]
    agent = {"name": server, "mcp_servers": [{"server": server}], "allow_destructive_tools": True}
    agent = call("POST", f"{admin}/agents", agent)["id"]
    answer = call("POST", f"/v1/agents/{agent}/invoke", {"input": {"text": call_of_tools}}, key)
    called = json.loads(answer["result"])["tools"]
    seen = [(tool["name"], tool["is_error"], tool["result"]) for tool in called]
    for (name, is_error, part), (tool, was_error, result) in zip(expected, seen, strict=True):
        assert name in names and tool == name, (names, tool)
        assert (is_error, part in json.dumps(result)) == (was_error, True), (name, result)
    print(f"{server}: {len(names)} tools, {len(seen)} called")


servers = {}
running = []
quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
try:
    for library in ["fastmcp", "mcp"]:
        port = free_port()
        command = [sys.executable, os.path.join(here, "mcp_server.py"), library, str(port)]
        running.append(subprocess.Popen(command, **quiet))
        wait_for(port, running[-1])
        servers[library] = port
    port = free_port()
    environment = dict(os.environ, PORT=str(port))
    command = ["node", everything, "streamableHttp"]
    running.append(subprocess.Popen(command, env=environment, **quiet))
    wait_for(port, running[-1])
    servers["everything"] = port
    for name, port in servers.items():
        definition = {"url": f"http://127.0.0.1:{port}/mcp"}
        call("PUT", f"/admin/tenants/{organization}/mcp-servers/{name}", definition)
    for name in ["fastmcp", "mcp"]:
        check(
            name,
            f'{name}__echo {{"message": "hello"}} {name}__fail {{"message": "the reason"}}',
            [(f"{name}__echo", False, "hello"), (f"{name}__fail", True, "fail")],
        )
    check(
        "everything",
        'everything__get-sum {"a": 2, "b": 3} everything__get-tiny-image {} '
        'everything__get-structured-content {"location": "New York"}',
        [
            ("everything__get-sum", False, "5"),
            ("everything__get-tiny-image", False, "image/png, not shown"),
            ("everything__get-structured-content", False, "humidity"),
        ],
    )
finally:
    for process in running:
        process.kill()
