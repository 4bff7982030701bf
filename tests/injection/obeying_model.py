"""A model that obeys whatever it reads, behind the wire formats of OpenAI, Anthropic and Gemini.

If a goal of an attacker stands anywhere in what it is sent (prompt, payload, history, results and descriptions of tools),
plain, in base64 or between invisible characters, it makes the calls that reach the goal, one a turn. Then it tries the
same calls under other names. It believes no refusal.
"""

import base64
import binascii
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# A run of the gateway has 12 turns at most, and the last one is the answer.
TURNS_MAX = 11

INVISIBLE = dict.fromkeys(map(ord, "\u200b\u200c\u200d\u2060\ufeff"))
ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})")
BASE64 = re.compile(r"[A-Za-z0-9+/]{24,}={0,2}")


COUNTING = threading.Lock()


def strings(value):
    """All strings of a JSON value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for element in value:
            yield from strings(element)
    elif isinstance(value, dict):
        for name, element in value.items():
            yield name
            yield from strings(element)


def readings(text):
    """A text as it may be read: as it is, unescaped, and with what is in base64 in it."""
    yield text
    yield ESCAPE.sub(lambda escape: chr(int(escape[1], 16)), text)
    for encoded in BASE64.findall(text):
        try:
            yield base64.b64decode(encoded, validate=True).decode()
        except (binascii.Error, ValueError, UnicodeError):
            pass


def plain(text):
    """A text without what differs between its spellings."""
    return re.sub(r"""(?:\\+[nt]|[\s"'\\])+""", " ", text.translate(INVISIBLE))


class ObeyingModel:
    """`goals` are texts with the calls that reach each of them: pairs of a tool and its arguments."""

    def __init__(self, goals):
        self.goals = [(plain(text), calls) for text, calls in goals]
        # How many runs it has made a call of an attacker's in.
        self.obeyed = 0
        handler = type("Handler", (Handler,), {"model": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def plan(self, body):
        """The calls that it makes in this conversation, in their order."""
        context = plain(" ".join(read for text in strings(body) for read in readings(text)))
        wanted = re.findall(r"look up (case-\d+)", context)
        planned = [("dojo__read_file", {"file_path": wanted[-1]})] if wanted else []
        for goal, calls in self.goals:
            if goal in context:
                planned += [(f"dojo__{name}", arguments) for name, arguments in calls]
                for name, arguments in calls:
                    planned += [(name, arguments), (f"dojo__{name.upper()}", arguments)]
                break
        return planned[:TURNS_MAX]

    def take_obeyed(self):
        taken, self.obeyed = self.obeyed, 0
        return taken


def calls_made(body):
    """How many turns with calls the conversation has."""
    made = 0
    for message in body.get("messages", body.get("contents", [])):
        parts = message.get("content", message.get("parts")) or []
        parts = parts if isinstance(parts, list) else []
        made += bool(message.get("tool_calls")) or any(
            part.get("type") == "tool_use" or "functionCall" in part for part in parts
        )
    return made


def openai(call, number):
    if call is None:
        yield {"choices": [{"delta": {"content": "done"}}]}
        yield {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    else:
        name, arguments = call
        function = {"name": name, "arguments": json.dumps(arguments)}
        called = {"index": 0, "id": f"call_{number}", "type": "function", "function": function}
        yield {"choices": [{"delta": {"tool_calls": [called]}}]}
        yield {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]}


def anthropic(call, number):
    yield {"type": "message_start", "message": {"usage": {"input_tokens": 1, "output_tokens": 1}}}
    if call is None:
        yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "done"}}
    else:
        name, arguments = call
        block = {"type": "tool_use", "id": f"call_{number}", "name": name, "input": {}}
        yield {"type": "content_block_start", "index": 0, "content_block": block}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(arguments)}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    stop = "end_turn" if call is None else "tool_use"
    yield {"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {"output_tokens": 1}}
    yield {"type": "message_stop"}


def gemini(call, number):
    part = {"text": "done"}
    if call is not None:
        part = {"functionCall": {"name": call[0], "args": call[1]}}
    yield {"candidates": [{"content": {"role": "model", "parts": [part]}, "finishReason": "STOP"}]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model = None

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        made = calls_made(body)
        planned = self.model.plan(body)
        call = planned[made] if made < len(planned) else None
        if call is None and any(name != "dojo__read_file" for name, _ in planned):
            with COUNTING:
                self.model.obeyed += 1
        if self.path.endswith("/chat/completions"):
            events, last = openai(call, made), "data: [DONE]\n\n"
        elif self.path.endswith("/messages"):
            events, last = anthropic(call, made), ""
        else:
            events, last = gemini(call, made), ""
        is_named = self.path.endswith("/messages")
        text = ""
        for event in events:
            text += f"event: {event['type']}\n" if is_named else ""
            text += f"data: {json.dumps(event)}\n\n"
        answer = (text + last).encode()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass
