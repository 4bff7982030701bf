"""Turns a provider's payload into parameters of an agent run.

This one starts a run for each message of a chat; one chat is one thread. It looks up the values that it
needs (RFC 6901 pointers into the payload) instead of parsing all of it.
"""

from collections.abc import Iterable
from typing import Optional

from gateway import failure
from wit_world import exports
from wit_world.exports.payload_mapper import Mapped
from wit_world.imports import request


class PayloadMapper(exports.PayloadMapper):
    # `spec` is the caller's `params_mapping`, for mappers that take instructions: JSON text or None.
    def map_payload(self, spec: Optional[str]) -> Mapped:
        text = request.scalar("/message/text")
        if text is None:
            return mapped("ignore")  # a sticker, a member who left: nothing to answer
        chat = request.scalar("/message/chat/id")
        if chat is None:
            raise failure("invalid-input", "the message has no chat")
        # The provider's own id of this delivery: when it is sent again, no second run starts.
        delivery_id = request.header("x-delivery-id")
        return mapped("run", [("prompt", text), ("task_id", chat)], delivery_id)


def mapped(
    action: str, params: Iterable[tuple[str, str]] = (), delivery_id: Optional[str] = None
) -> Mapped:
    """The records of the interface have no defaults: every field is given, be it None."""
    return Mapped(
        action=action,
        params=list(params),
        # A JSON object, as text, that takes the place of the payload in the agent's context.
        context=None,
        delivery_id=delivery_id,
        # For the action `reply`: an HttpReply of wit_world.imports.types.
        reply=None,
        extra=None,
    )
