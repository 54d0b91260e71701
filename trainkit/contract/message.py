"""The exit message of a processing job: `/opt/ml/output/message`, which the service shows on success, too.

It concatenates what all hosts wrote, cuts that to 1 KB, and fails a job whose message is no UTF-8. So one host writes
one, which is short enough and whole.
"""

from __future__ import annotations

LIMIT = 1000
"""Bytes of the message. The service shows 1,024."""
_WORTH_SAYING = 40  # bytes: less of a script's own words, behind a cause, is noise


def fitted(own: bytes, *, limit: int = LIMIT) -> bytes:
    """A script's message as it can be shown: itself where it is fine, else made valid and cut at a character."""
    return _cut(own.decode("utf-8", "replace").encode(), limit)


def compose(failure: str, own: bytes, *, limit: int = LIMIT) -> bytes:
    """The message of a job that failed: the cause first, then what the script wrote itself, as far as it fits."""
    text = _cut(failure.encode("utf-8", "replace"), limit)
    said = own.decode("utf-8", "replace").strip()
    if not said or said in failure:
        return text
    head, _, evidence = failure.partition("\n\n")  # the script's words say more than the end of a traceback
    text = _cut(head.encode("utf-8", "replace"), limit)
    for part in (said, evidence):
        room = limit - len(text) - 2
        if part and room >= _WORTH_SAYING:
            text += b"\n\n" + _cut(part.encode("utf-8", "replace"), room)
    return text


def _cut(text: bytes, limit: int) -> bytes:
    return text if len(text) <= limit else text[:limit].decode("utf-8", "ignore").encode()
