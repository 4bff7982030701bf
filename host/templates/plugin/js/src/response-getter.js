// Gets one value out of a finished task, for callers that ask with `getter=…`.
//
// This one knows `getter=headline`: the first line of the agent's answer.

import * as task from "wardgate:plugin/task@{{interface-version}}";
import { failure } from "./gateway.js";

export const responseGetter = {
  getValue(path) {
    if (path !== "headline") {
      throw failure("invalid-input", `there is \`headline\`, but no ${JSON.stringify(path)}`);
    }
    // JSON text, so a string comes in its quotes; null where nothing is there.
    const result = JSON.parse(task.json("/result") ?? "null");
    if (typeof result !== "string" || result.trim() === "") {
      return null;
    }
    return JSON.stringify(result.trim().split("\n")[0].trimEnd());
  },
};
