"""From a channel of the job, or any path or URL, to a stream of batches."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.job.facts import Source, World

if TYPE_CHECKING:
    from trainkit.data.fetch.fetcher import Name
    from trainkit.data.open import Keep
    from trainkit.data.piped import PipeStream
    from trainkit.data.stream import Choices, Stream


def open_channel(
    name: str,
    source: Source | None,
    choices: Choices,
    *,
    world: World,
    run_dir: str | None,
    fetcher: Name | None,
    keep: Keep | None,
) -> Stream | PipeStream:
    """A stream over `source`; over the path or URL `name` where that is no channel. `run_dir`: of this generation."""
    from trainkit.data.open import Place, open_stream
    from trainkit.data.piped import Piped, open_pipe

    if source is None:
        return open_stream(name, choices, rank=world.rank, ranks=world.world_size, fetcher=fetcher, keep=keep)
    if source.mode == "Pipe" and "://" not in source.where:
        if fetcher or keep or choices.processes:
            problem = "nothing is fetched from a pipe, or kept, and transforms run in threads"
            raise ValueError(f"{name} is in Pipe mode: {problem}. Leave fetcher, cache and processes out")
        piped = Piped(
            name, source.said_by, Path(source.where), source.content_type, source.wrapped, source.gzipped,
            source.own_share, world.local_rank, world.local_world_size, world.host_rank, len(world.hosts),
            used_up=Path(run_dir).parent / f"pipe-{name}" if run_dir else None,  # one for all generations
        )  # fmt: skip
        return open_pipe(piped, choices, rank=world.rank, ranks=world.world_size)
    place = Place(
        name, source.said_by, source.mode, content_type=source.content_type, own_share=source.own_share,
        local_rank=world.local_rank, local_ranks=world.local_world_size,
    )  # fmt: skip
    return open_stream(
        source.where, choices, rank=world.rank, ranks=world.world_size, place=place, fetcher=fetcher, keep=keep
    )
