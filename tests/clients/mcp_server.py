"""An MCP server of a Python library, with two tools. Arguments: `fastmcp` or `mcp`, and a port of 127.0.0.1."""

import sys

library, port = sys.argv[1], int(sys.argv[2])
if library == "fastmcp":
    from fastmcp import FastMCP

    server = FastMCP("tested")
else:
    from mcp.server import MCPServer

    server = MCPServer("tested")


@server.tool()
def echo(message: str) -> str:
    """Repeats a message."""
    return message


@server.tool()
def fail(message: str) -> str:
    """Fails with a message."""
    raise ValueError(message)


if library == "fastmcp":
    server.run(transport="http", host="127.0.0.1", port=port, show_banner=False)
else:
    server.run(transport="streamable-http", host="127.0.0.1", port=port)
