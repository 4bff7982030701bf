"""The gateway's OpenAPI document, read by two who know nothing of it: a validator, and a generator of clients.

Arguments: the document, and the folder that gets the generated package `wardgate_client`. `cargo xtask
clients` runs this. Whatever the validator finds is told; what the generator leaves out fails, unless it is
known to.
"""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path

import openapi_python_client
from openapi_python_client.config import Config, ConfigFile, MetaType
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing.exceptions import Unresolvable

document, folder = map(Path, sys.argv[1:])

# The generator writes JSON, forms and bytes, and no text. Where a body may be of another type as well, its
# client has only the other; of the last one there is only text.
WITHOUT_TEXT = {
    "WARNING parsing POST / within webhook.",
    "WARNING parsing POST /admin/tenants/{tenant}/agents within admin.",
    "WARNING parsing PUT /admin/tenants/{tenant}/agents/{agent} within admin.",
    "WARNING parsing PUT /admin/tenants/{tenant}/channels/{name} within admin.",
    "WARNING parsing PUT /admin/tenants/{tenant}/plugins/{name}/grants within admin."
    " Endpoint will not be generated.",
}
NO_TEXT = "Unsupported content type text/plain"

# What it does not know, and is to be read as.
TYPES = {"application/toml": "text/plain", "application/wasm": "application/octet-stream"}


def told(error):
    # A message may have all that is wrong in it, which is too much to read.
    return f"  {error.json_path}: {error.message[:300]}"


def the_document_is_valid():
    validator = OpenAPIV31SpecValidator(json.loads(document.read_text()))
    try:
        errors = [told(error) for error in validator.iter_errors()]
    except Unresolvable as error:
        # It has the whole document in its message.
        errors = [f"  a $ref to {error.ref}, which does not exist"]
    assert not errors, "openapi-spec-validator finds\n" + "\n".join(errors)


def a_client_is_generated():
    package = folder / "wardgate_client"
    # What an earlier run generated could hide that something is missing now.
    shutil.rmtree(package, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    config = Config.from_sources(
        # No hooks: they would only make it look better.
        ConfigFile(content_type_overrides=TYPES, post_hooks=[]),
        meta_type=MetaType.NONE,
        document_source=document,
        file_encoding="utf-8",
        overwrite=False,
        output_path=package,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        found = openapi_python_client.generate(config=config)
    errors = [
        f"  {error.header}\n  {error.detail}"
        for error in found
        if error.header not in WITHOUT_TEXT or set(str(error.detail).split("\n")) != {NO_TEXT}
    ]
    assert not errors, "openapi-python-client finds\n" + "\n".join(errors)
    gone = WITHOUT_TEXT - {error.header for error in found}
    assert not gone, f"openapi-python-client has these now, so this script need not know them: {gone}"


the_document_is_valid()
a_client_is_generated()
