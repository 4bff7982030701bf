"""Shapes the answer in the provider's own format.

This one answers `{"text": "…"}`: to the request itself, or, where the caller does not wait, to the URL in the
setting `reply-url`, once the agent is done.
"""

import json

from gateway import failure
from wit_world import exports
from wit_world.imports import egress, task

# wasi:config. A module is named after its interface, which is `store` here and in wasi:keyvalue: where
# wit/world.wit imports both, they are `wasi_config_store` and `wasi_keyvalue_store`.
from wit_world.imports import store as config
from wit_world.imports.egress import Outgoing
from wit_world.imports.types import HttpReply


class Replier(exports.Replier):
    def reply(self) -> HttpReply:
        headers = [("content-type", "application/json")]
        return HttpReply(status=200, headers=headers, body=message(), extra=None)

    def deliver(self) -> None:
        url = config.get("reply-url")
        if url is None:
            raise failure("not-configured", "the setting `reply-url` is missing")
        outgoing = Outgoing(
            method="POST",
            url=url,
            headers=[("content-type", "application/json")],
            body=message(),
            timeout_ms=10_000,
            extra=None,
        )
        # Instead of None, the name of a granted credential: the gateway attaches it.
        status = egress.send(outgoing, None).status
        # `upstream`, `timeout` and `rate-limited` are delivered again later; the rest is final.
        if status == 429:
            raise failure("rate-limited", "the chat wants us to slow down")
        if status >= 500:
            raise failure("upstream", f"the chat answered {status}")
        if not 200 <= status <= 299:
            raise failure("rejected", f"the chat answered {status}")


def message() -> bytes:
    """The agent's answer. The task has none yet where the caller is answered before the agent is done."""
    result = json.loads(task.json("/result") or "null")
    text = result if isinstance(result, str) else "I am working on it."
    return json.dumps({"text": text}).encode()
