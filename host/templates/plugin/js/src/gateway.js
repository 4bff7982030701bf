// What every role needs: failures, and text as bytes.
//
// This runs in QuickJS inside of a sandbox. There is no Node and no browser: no `console`, `fetch`, `URL`,
// `Intl`, `TextEncoder` or `TextDecoder`. What a plugin has is JavaScript itself and what wit/world.wit imports.

/**
 * A failure, to be thrown: `throw failure("not-found", "there is no such order")`.
 *
 * These codes become an HTTP status: invalid-input 400, unauthorized 401, forbidden 403, not-found 404,
 * conflict 409, rate-limited 429, upstream 502, timeout 504. Any other code is allowed and becomes 500.
 *
 * It has to be a plain object with the fields of the WIT record, as made here. An `Error` that leaves the
 * plugin is no failure but a crash, and so are a missing `message` and a BigInt: numbers of type u64 are
 * ordinary numbers here, in both directions.
 */
export function failure(code, message, retryAfterMs = null) {
  return { code, message, retryAfterMs, extra: null };
}

/**
 * Calls the gateway and makes its failure the plugin's own: `attempt(() => secrets.open("signing"))`.
 *
 * An import that fails throws an `Error` whose `payload` is the failure; uncaught it would be a crash.
 */
export function attempt(call) {
  try {
    return call();
  } catch (error) {
    throw error.payload?.code === undefined ? error : error.payload;
  }
}

/** The UTF-8 bytes of a string. */
export function bytesOf(text) {
  return Uint8Array.from(unescape(encodeURIComponent(text)), (character) => character.charCodeAt(0));
}
