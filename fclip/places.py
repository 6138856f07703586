"""A folder, here or in an object store, for the few small files of an index.

    place = Place("s3://bucket/garments-index")          # or a folder of this machine
    place.write("index.json", data)

A file appears whole or not at all: object stores promise that, and here it is written beside and renamed. Credentials
are those that pyarrow (and LanceDB) find: AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, …; AWS_ENDPOINT_URL is the
address of an S3 server that is not Amazon's.

Every method raises StoreUnavailableError when the object store cannot be reached, and UserError when it has no such
bucket or refuses a key or what its owner may not do.
"""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from fclip.errors import StoreUnavailableError, UserError
from fclip.files import expand, writable, write_bytes


class Place:
    """A folder or an object store's prefix.

    Attributes:
        uri: as it was given, without a slash at the end.
        path: the folder of this machine; None where it is an object store's.
    """

    def __init__(self, uri: str | Path) -> None:
        text = str(uri)
        self.path = None if "://" in text else Path(expand(text))
        self.uri = text.rstrip("/") if self.path is None else str(self.path)

    def __str__(self) -> str:
        return self.uri

    def join(self, name: str) -> str:
        """What lies in it, by name."""
        return f"{self.uri}/{name}"

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none."""
        if self.path is not None:
            file = self.path / name
            return file.read_bytes() if file.is_file() else None
        system, path = self._system()
        try:
            with system.open_input_stream(f"{path}/{name}") as stream:
                return stream.read()
        except FileNotFoundError:
            self._check_bucket(system, path)
            return None
        except OSError as error:
            raise self._failed(error) from error

    def mark(self, name: str) -> Any:
        """What changes when a file is written anew; None where there is none. Costs less than reading."""
        if self.path is not None:
            try:
                about = (self.path / name).stat()
            except OSError:
                return None
            return about.st_ino, about.st_mtime_ns, about.st_size
        system, path = self._system()
        try:
            if system.type_name == "s3":  # its times are seconds: two files of one second differ in their hash
                with system.open_input_stream(f"{path}/{name}") as stream:
                    return tuple(sorted(stream.metadata().items()))
            info = system.get_file_info(f"{path}/{name}")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error
        return (info.mtime_ns, info.size) if info.is_file else None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file in place of what is there."""
        if self.path is not None:
            write_bytes(writable(self.path / name), data)
            return
        system, path = self._system()
        try:
            if system.type_name == "local":
                system.create_dir(path)
            with system.open_output_stream(f"{path}/{name}") as stream:
                stream.write(data)
        except OSError as error:
            raise self._failed(error) from error

    def remove(self, name: str) -> None:
        """Removes a file if it is there."""
        if self.path is not None:
            (self.path / name).unlink(missing_ok=True)
            return
        system, path = self._system()
        try:
            system.delete_file(f"{path}/{name}")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise self._failed(error) from error

    def empty(self) -> bool:
        """Whether nothing lies there."""
        if self.path is not None:
            return not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir()))
        from pyarrow.fs import FileSelector

        system, path = self._system()
        try:
            return not system.get_file_info(FileSelector(path, allow_not_found=True))
        except OSError as error:
            raise self._failed(error) from error

    def _system(self) -> tuple[Any, str]:
        from pyarrow.fs import FileSystem

        try:
            system, path = FileSystem.from_uri(self.uri)
        except (ValueError, OSError) as error:  # pyarrow's errors are both
            reason = str(error).splitlines()[0]
            raise UserError(f"expected a folder, s3://… or gs://…, got {self.uri}: {reason}") from None
        return system, path.rstrip("/")

    def _check_bucket(self, system: Any, path: str) -> None:
        """What is not there may be so for want of a bucket. Who may not ask for buckets is not told."""
        from pyarrow.fs import FileType

        with suppress(OSError):
            if system.type_name == "s3" and system.get_file_info(path.split("/")[0]).type == FileType.NotFound:
                raise UserError(f"there is no bucket for {self.uri}; create it, or correct the address")

    def _failed(self, error: Exception) -> UserError | StoreUnavailableError:
        reason = str(error).splitlines()[0]
        if "NO_SUCH_BUCKET" in reason:
            return UserError(f"there is no bucket for {self.uri}; create it, or correct the address")
        if found := re.search("ACCESS_DENIED|INVALID_ACCESS_KEY_ID|SIGNATURE_DOES_NOT_MATCH", reason):
            return UserError(f"{self.uri} refuses ({found[0]}); set AWS_ACCESS_KEY_ID and the like of who may do this")
        return StoreUnavailableError(f"{self.uri} cannot be reached: {reason[:200]}")
