"""backup_label of a finished backup, plain or tar."""

from __future__ import annotations

import io
import os
import tarfile

from engine.backup.basebackup import Shape
from engine.errors import CellarmanError
from engine.wal import codec

_HEAD = 64 << 10
"""Bytes of base.tar to look through: the server sends backup_label first (basebackup.c)."""
LABEL = "backup_label"


def read(data: str, shape: Shape) -> str:
    """Return the text of the backup_label in a backup's `data` directory; raises CellarmanError when there is none."""
    if not shape.tar:
        try:
            with open(os.path.join(data, LABEL), encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except OSError as error:
            raise CellarmanError("the backup has no backup_label", str(error)) from error
    path = os.path.join(data, shape.base_tar)
    try:
        head = codec.read_head(path, _HEAD)
        with tarfile.open(fileobj=io.BytesIO(head), mode="r|") as tar:
            for member in tar:
                if member.name in (LABEL, f"./{LABEL}"):
                    file_ = tar.extractfile(member)
                    assert file_ is not None
                    return file_.read().decode("utf-8", "surrogateescape")
    except (OSError, tarfile.TarError) as error:
        raise CellarmanError("the backup has no backup_label", f"{path}: {error}") from error
    raise CellarmanError("the backup has no backup_label", f"{path} does not begin with it")
