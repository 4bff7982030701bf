// Shapes the answer in the provider's own format.
//
// This one answers `{"text": "…"}`: to the request itself, or, where the caller does not wait, to the URL in
// the setting `reply-url`, once the agent is done.

import * as egress from "wardgate:plugin/egress@{{interface-version}}";
import * as task from "wardgate:plugin/task@{{interface-version}}";
import * as config from "wasi:config/store@0.2.0-rc.1";
import { attempt, bytesOf, failure } from "./gateway.js";

export const replier = {
  reply() {
    const headers = [["content-type", "application/json"]];
    return { status: 200, headers, body: bytesOf(message()), extra: null };
  },

  deliver() {
    const url = config.get("reply-url");
    if (url === null) {
      throw failure("not-configured", "the setting `reply-url` is missing");
    }
    const outgoing = {
      method: "POST",
      url,
      headers: [["content-type", "application/json"]],
      body: bytesOf(message()),
      timeoutMs: 10_000,
      extra: null,
    };
    // Instead of null, the name of a granted credential: the gateway attaches it. An argument that is
    // null cannot be left out.
    const { status } = attempt(() => egress.send(outgoing, null));
    // `upstream`, `timeout` and `rate-limited` are delivered again later; the rest is final.
    if (status === 429) {
      throw failure("rate-limited", "the chat wants us to slow down");
    }
    if (status >= 500) {
      throw failure("upstream", `the chat answered ${status}`);
    }
    if (status < 200 || status > 299) {
      throw failure("rejected", `the chat answered ${status}`);
    }
  },
};

/** The agent's answer. The task has none yet where the caller is answered before the agent is done. */
function message() {
  const result = JSON.parse(task.json("/result") ?? "null");
  return JSON.stringify({ text: typeof result === "string" ? result : "I am working on it." });
}
