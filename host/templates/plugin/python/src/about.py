"""Says which settings the plugin takes, and checks them before they take effect.

This one takes `reply-url`, an https URL. All settings are strings.
"""

import json

from wit_world import exports
from wit_world.exports.about import Diagnostic

SCHEMA = {
    "type": "object",
    "properties": {
        "reply-url": {"type": "string", "format": "uri", "description": "Where answers are sent"},
    },
}


class About(exports.About):
    def config_schema(self) -> str:
        return json.dumps(SCHEMA)

    def check_config(self, config: str) -> list[Diagnostic]:
        url = json.loads(config).get("reply-url")
        if url is None or (isinstance(url, str) and url.startswith("https://")):
            return []
        return [Diagnostic(pointer="/reply-url", message="has to begin with https://", extra=None)]
