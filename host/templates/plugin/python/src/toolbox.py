"""Tools that an agent may call; one to one with MCP tools.

This one has a single tool, `count_words`, since language models count badly.
"""

import json

from gateway import failure
from wit_world import exports
from wit_world.exports.toolbox import Tool

# The arguments as JSON Schema. The model reads it, so describe what is not plain.
INPUT = {
    "type": "object",
    "properties": {"text": {"type": "string", "description": "The text whose words to count"}},
    "required": ["text"],
    "additionalProperties": False,
}

# Without annotations a tool counts as one that destroys things, and webhook tasks may not call it.
ANNOTATIONS = {"readOnlyHint": True, "openWorldHint": False}


class Toolbox(exports.Toolbox):
    def list_tools(self) -> list[Tool]:
        tool = Tool(
            name="count_words",
            title=None,
            description="Counts the words of a text.",
            # Everything of type `json` in the interface is JSON text.
            input_schema=json.dumps(INPUT),
            output_schema=None,
            annotations=json.dumps(ANNOTATIONS),
            extra=None,
        )
        return [tool]

    def call_tool(self, name: str, arguments: str) -> str:
        # A failure is shown to the model as the tool's error, so that it can do better.
        if name != "count_words":
            raise failure("not-found", f"there is no tool `{name}`")
        text = json.loads(arguments).get("text")
        if not isinstance(text, str):
            raise failure("invalid-input", "`text` has to be a string")
        return json.dumps({"words": len(text.split())})
