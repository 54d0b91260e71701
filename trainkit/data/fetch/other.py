"""Any protocol that fsspec knows. Both ends of the range are given, so that no size is asked for first."""

from __future__ import annotations

import fsspec

from trainkit.data.fetch.fetcher import Name, Passing
from trainkit.data.items import Item
from trainkit.storage.store import ObjectMissing, failure

_FINAL = (ImportError, ValueError, TypeError, NotImplementedError, IsADirectoryError)


class FsspecReader:
    name: Name = "fsspec"

    def fill(self, item: Item, start: int, view: memoryview, *, timeout: float) -> int:
        doing = f"read {len(view)} bytes from {start}"
        try:
            # Remembered by fsspec for each process: most of them run an event loop, which a fork leaves behind.
            system, path = fsspec.core.url_to_fs(item.url)
            data = system.cat_file(path, start=start, end=start + len(view))
        except FileNotFoundError as error:
            remedy = "It was deleted or renamed meanwhile: leave data alone while it is trained on"
            raise failure(item.url, doing, "it is not there any more", remedy, kind=ObjectMissing) from error
        except PermissionError as error:
            raise failure(item.url, doing, str(error).rstrip("."), "Look at the credentials of that client") from error
        except _FINAL as error:
            problem = f"{type(error).__name__}: {error}".rstrip(".")
            raise failure(item.url, doing, problem, "Look into the documentation of that client") from error
        except Exception as error:  # each of fsspec's protocols raises what its own client raises
            raise Passing(f"{type(error).__name__}: {error}") from error
        if len(data) != len(view):
            raise failure(
                item.url, doing, f"{len(data)} bytes came",
                "It was replaced by a shorter one: leave data alone while it is trained on, and start again",
            )  # fmt: skip
        view[:] = data
        return len(data)

    def close(self) -> None:
        pass  # fsspec keeps its file systems
