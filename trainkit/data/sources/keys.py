"""Objects of S3 by the beginning of their keys, and the sizes of objects whose names are known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trainkit.data.items import Item
from trainkit.storage import files
from trainkit.storage.s3 import S3Store, split

_AT_ONCE = 16  # HEADs on their way
_WORTH = 10  # HEADs that one LIST replaces: it takes ten times as long, and costs as much as twelve


def beginning(
    url: str, *, environ: Mapping[str, str], after: str = "", delimiter: str = ""
) -> Iterator[list[Item | str]]:
    """Page after page of the objects whose URLs begin with `url`; with a delimiter also folders, as plain URLs."""
    store = S3Store.of(environ)
    bucket, prefix = split(url)
    page: dict[str, Any] = {"StartAfter": after} if after else {}
    page |= {"Delimiter": delimiter} if delimiter else {}
    top = f"s3://{bucket}/"
    while True:
        answer = store.request("list_objects_v2", url, "list it", key=None, Prefix=prefix, **page)
        found: list[Item | str] = [
            Item(top + one["Key"], one["Size"], one["ETag"])
            for one in answer.get("Contents", ())
            if not one["Key"].endswith("/")
        ]
        yield found + [top + one["Prefix"] for one in answer.get("CommonPrefixes", ())]
        if not answer.get("IsTruncated"):
            return
        page |= {"ContinuationToken": answer["NextContinuationToken"]}


def sizes(urls: Iterable[str], *, environ: Mapping[str, str]) -> dict[str, Item]:
    """What is known of each of these objects; those that are missing are left out.

    Objects that lie close together are listed, a thousand a request; the others are asked for one by one.
    """
    by_folder: dict[str, set[str]] = defaultdict(set)
    for url in urls:
        by_folder[url.rpartition("/")[0] + "/"].add(url)
    known: dict[str, Item] = {}
    alone: set[str] = set()
    for top, wanted in by_folder.items():
        if top.startswith("s3://") and len(wanted) >= _WORTH:
            known |= _listed(top, wanted, environ=environ)
        alone |= {url for url in wanted if url not in known}
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="head") as pool:
        for one in pool.map(files.head, sorted(alone)):
            if one is not None:
                known[one.url] = Item(one.url, one.size, one.etag)
    return known


def _listed(top: str, wanted: set[str], *, environ: Mapping[str, str]) -> dict[str, Item]:
    """Those of a folder's objects that a listing finds, as long as its pages are worth their while."""
    first, last = min(wanted), max(wanted)
    known: dict[str, Item] = {}
    # StartAfter leaves out the key itself, and nothing lies between a key and the same without its last character
    # but what is left out again below.
    after = split(first)[1][:-1]
    for pages, page in enumerate(beginning(top, environ=environ, after=after), 1):
        known |= {one.url: one for one in page if isinstance(one, Item) and one.url in wanted}
        ended = any(isinstance(one, Item) and one.url >= last for one in page)
        if ended or len(known) < pages * _WORTH:
            break
    return known
