"""Decides whether a request comes from whom it says, before anything else looks at it.

This one wants the header `x-signature-256: sha256=…`, the HMAC-SHA256 of the body in hexadecimal, made with
the secret that the operator granted as `signing`. The secret's bytes stay with the gateway: a plugin has
it checked, and while a secret is being rotated its old and its new value both count.
"""

import re

from gateway import failure
from wit_world import exports
from wit_world.exports.verifier import Principal
from wit_world.imports import request, secrets

SIGNATURE = re.compile(r"sha256=((?:[0-9a-fA-F]{2})+)")


class Verifier(exports.Verifier):
    def verify(self) -> Principal:
        signature = SIGNATURE.fullmatch(request.header("x-signature-256") or "")
        if signature is None:
            raise failure("unauthorized", "x-signature-256 is missing or malformed")
        key = secrets.open("signing")
        # The body as it arrived: the same JSON, parsed and written again, has another signature. It is hashed
        # where the gateway has it, so that a long one costs the plugin nothing.
        signatures = [bytes.fromhex(signature[1])]
        if not secrets.hmac_verify_body(key, "sha256", b"", b"", signatures):
            raise failure("unauthorized", "the signature does not match")
        # The signature says that the sender is genuine, not who it is. If a signed part of the request
        # does, return it as `id`.
        return Principal(id=None, attributes=None, extra=None)
