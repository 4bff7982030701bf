// Turns a provider's payload into parameters of an agent run.
//
// This one starts a run for each message of a chat; one chat is one thread. It looks up the values that it
// needs (RFC 6901 pointers into the payload) instead of parsing all of it.

import * as request from "wardgate:plugin/request@{{interface-version}}";
import { failure } from "./gateway.js";

export const payloadMapper = {
  // `spec` is the caller's `params_mapping`, for mappers that take instructions: JSON text or null.
  mapPayload(spec) {
    const text = request.scalar("/message/text");
    if (text === null) {
      return { action: "ignore", params: [] }; // a sticker, a member who left: nothing to answer
    }
    const chat = request.scalar("/message/chat/id");
    if (chat === null) {
      throw failure("invalid-input", "the message has no chat");
    }
    return {
      action: "run",
      // A list of tuples is an array of arrays.
      params: [
        ["prompt", text],
        ["task_id", chat],
      ],
      // The provider's own id of this delivery: when it is sent again, no second run starts.
      deliveryId: request.header("x-delivery-id"),
      // A JSON object, as text, that takes the place of the payload in the agent's context.
      context: null,
      // For `action: "reply"`: { status: 200, headers: [], body: bytesOf("…"), extra: null }.
      reply: null,
      extra: null,
    };
  },
};
