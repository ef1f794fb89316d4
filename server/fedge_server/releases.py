"""The release repository over HTTP: static files, read only.

What the files mean, and who signed them, is checked by the gateways; this
only keeps to the folder.
"""

from __future__ import annotations

import os
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

WHOLE_BYTES = 256 * 1024
"""Files up to this size are read at once."""


class ReleaseFiles(StaticFiles):
    """Files under `folder`, which is made where it is missing; hidden ones do not exist.

    Locks and files that are still being written have hidden names.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        super().__init__(directory=folder)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if any(part.startswith(".") for part in Path(path).parts):
            return "", None
        return super().lookup_path(path)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """Small files come from one read: metadata is replaced while it is served, and a length
        taken before the replacement would not fit the bytes after it.
        """
        if stat_result.st_size > WHOLE_BYTES:
            return super().file_response(full_path, stat_result, scope, status_code)
        try:
            content = Path(full_path).read_bytes()
        except OSError as error:
            raise HTTPException(404) from error
        return Response(content, status_code, media_type="application/octet-stream")
