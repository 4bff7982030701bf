// Tools that an agent may call; one to one with MCP tools.
//
// This one has a single tool, `count_words`, since language models count badly.

import { failure } from "./gateway.js";

/** The arguments as JSON Schema. The model reads it, so describe what is not plain. */
const INPUT = {
  type: "object",
  properties: { text: { type: "string", description: "The text whose words to count" } },
  required: ["text"],
  additionalProperties: false,
};

/** Without annotations a tool counts as one that destroys things, and webhook tasks may not call it. */
const ANNOTATIONS = { readOnlyHint: true, openWorldHint: false };

export const toolbox = {
  listTools() {
    return [
      {
        name: "count_words",
        title: null,
        description: "Counts the words of a text.",
        // Everything of type `json` in the interface is JSON text.
        inputSchema: JSON.stringify(INPUT),
        outputSchema: null,
        annotations: JSON.stringify(ANNOTATIONS),
        extra: null,
      },
    ];
  },

  callTool(name, json) {
    // A failure is shown to the model as the tool's error, so that it can do better.
    if (name !== "count_words") {
      throw failure("not-found", `there is no tool \`${name}\``);
    }
    const { text } = JSON.parse(json);
    if (typeof text !== "string") {
      throw failure("invalid-input", "`text` has to be a string");
    }
    return JSON.stringify({ words: text.split(/\s+/).filter((word) => word !== "").length });
  },
};
