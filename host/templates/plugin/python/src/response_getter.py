"""Gets one value out of a finished task, for callers that ask with `getter=…`.

This one knows `getter=headline`: the first line of the agent's answer.
"""

import json
from typing import Optional

from gateway import failure
from wit_world import exports
from wit_world.imports import task


class ResponseGetter(exports.ResponseGetter):
    def get_value(self, path: str) -> Optional[str]:
        if path != "headline":
            raise failure("invalid-input", f"there is `headline`, but no {path!r}")
        # JSON text, so a string comes in its quotes; None where nothing is there.
        result = json.loads(task.json("/result") or "null")
        if not isinstance(result, str) or not result.strip():
            return None
        return json.dumps(result.strip().splitlines()[0].rstrip())
