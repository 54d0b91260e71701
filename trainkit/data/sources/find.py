"""From what a channel says, or a user, to a Listing.

    a path            the files below it, or itself              by name, as text: 10 comes before 9
    s3://bucket/x     the objects below x/, or the object x      by key, as text: the order of the storage
    any fsspec URL    likewise
    *.manifest        the objects that it names                  as they stand there (see manifests)
    job               where the job's request says the channel is: asked by DescribeTrainingJob (see described)

The same data has the same order whether it was mounted or is read directly.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from trainkit.data.items import Item, Listing
from trainkit.data.sources import described, keys, manifests
from trainkit.data.sources.near import suggestions
from trainkit.errors import ConfigError, Mistake, StorageError
from trainkit.storage import files
from trainkit.storage.store import ObjectMissing, failure, folder

JOB = "job"
"""What TRAINKIT_CHANNEL_<NAME> says to have the job's own S3Uri asked for."""


def find(
    where: str,
    *,
    channel: str = "",
    said_by: str = "",
    mode: str = "File",
    own_share: bool = False,
    environ: Mapping[str, str] = os.environ,
    ask: described.Ask = described.ask,
) -> Listing:
    """The items at a path or URL. `own_share`: each host has other files there (ShardedByS3Key); such a share may be
    empty, everything else may not. `ask`: who knows where the job has the channel.

    Raises ConfigError for a channel that cannot be read in this way, StorageError where nothing is there (with what is
    there instead) or where it cannot be listed.
    """
    if where == JOB and channel:
        told = ask(channel, environ=environ)
        return _of_kind(told, environ=environ)
    if mode == "Pipe" and "://" not in where:
        raise ConfigError([_pipe(channel, said_by)])
    if where.endswith(".manifest") and (one := files.head(where)):
        return manifests.read(Item(one.url, one.size, one.etag), environ=environ)
    return _below(where, own_share=own_share, environ=environ)


def _of_kind(told: described.Described, *, environ: Mapping[str, str]) -> Listing:
    if told.kind == "S3Prefix":
        return _beginning(told.uri, environ=environ)
    one = files.head(told.uri)
    if one is None:
        raise _missing(told.uri, environ=environ)
    return manifests.read(Item(one.url, one.size, one.etag), environ=environ)


def _below(where: str, *, own_share: bool, environ: Mapping[str, str]) -> Listing:
    """What is in a folder, or one object. One request per thousand keys, and one more for an object."""
    if found := files.list(where):
        return Listing(tuple(Item(one.url, one.size, one.etag) for one in found), folder(where), own_share)
    if not where.endswith("/") and (one := files.head(where)):
        return Listing((Item(one.url, one.size, one.etag),), where.rpartition("/")[0] + "/" if "/" in where else "")
    if own_share:
        return Listing((), folder(where), own_share)
    raise _missing(where, environ=environ)


def _beginning(uri: str, *, environ: Mapping[str, str]) -> Listing:
    """What the service takes for a channel: all keys that begin with this text, `train` also `train-2/x`."""
    items = tuple(one for page in keys.beginning(uri, environ=environ) for one in page if isinstance(one, Item))
    if not items:
        raise _missing(uri, environ=environ)
    return Listing(items, uri.rpartition("/")[0] + "/")


def _missing(where: str, *, environ: Mapping[str, str]) -> StorageError:
    near = suggestions(where, environ=environ)
    remedy = f"Beside it are {', '.join(near)}" if near else "Compare the name, letter by letter"
    return failure(where, "list it", "nothing is there: no file, and none below it", remedy, kind=ObjectMissing)


def _pipe(channel: str, said_by: str) -> Mistake:
    return Mistake(
        said_by or "inputdataconfig.json", f"{channel}.TrainingInputMode", "Pipe",
        "a pipe brings bytes once and in one order, without files to list: RecordIO or lines, nothing else",
        "Use FastFile, or have the objects read directly: TRAINKIT_CHANNEL_<NAME>=s3://… or =job",
    )  # fmt: skip
