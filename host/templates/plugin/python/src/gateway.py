"""What every role needs: failures.

Each call gets an instance of its own, made from a snapshot that the build took after importing app.py:
what stands at the top level of a module runs during the build, once, and cannot call the gateway. Import
every module at the top level too, since there are no files to import from during a call.
"""

from typing import Optional

from componentize_py_types import Err
from wit_world.imports.types import Failure


def failure(code: str, message: str, retry_after_ms: Optional[int] = None) -> Err[Failure]:
    """A failure, to be raised: `raise failure("not-found", "there is no such order")`.

    These codes become an HTTP status: invalid-input 400, unauthorized 401, forbidden 403, not-found 404,
    conflict 409, rate-limited 429, upstream 502, timeout 504. Any other code is allowed and becomes 500.

    `Err` is raised, not returned. Any other exception that leaves the plugin is no failure but a crash. A
    call of the gateway that fails raises such an `Err` itself; uncaught, it becomes the plugin's failure.
    """
    return Err(Failure(code, message, retry_after_ms, extra=None))
