// Decides whether a request comes from whom it says, before anything else looks at it.
//
// This one wants the header `x-signature-256: sha256=…`, the HMAC-SHA256 of the body in hexadecimal, made
// with the secret that the operator granted as `signing`. The secret's bytes stay with the gateway: a
// plugin has it checked, and while a secret is being rotated its old and its new value both count.

import * as request from "wardgate:plugin/request@{{interface-version}}";
import * as secrets from "wardgate:plugin/secrets@{{interface-version}}";
import { attempt, failure } from "./gateway.js";

export const verifier = {
  verify() {
    const header = /^sha256=((?:[0-9a-f]{2})+)$/i.exec(request.header("x-signature-256") ?? "");
    if (header === null) {
      throw failure("unauthorized", "x-signature-256 is missing or malformed");
    }
    const key = attempt(() => secrets.open("signing"));
    const signature = Uint8Array.fromHex(header[1]);
    // The body as it arrived: the same JSON, parsed and written again, has another signature. It is hashed
    // where the gateway has it, so that a long one costs the plugin nothing.
    const [before, after] = [new Uint8Array(), new Uint8Array()];
    if (!attempt(() => secrets.hmacVerifyBody(key, "sha256", before, after, [signature]))) {
      throw failure("unauthorized", "the signature does not match");
    }
    // The signature says that the sender is genuine, not who it is. If a signed part of the request
    // does, return it as `id`.
    return { id: null, attributes: null, extra: null };
  },
};
