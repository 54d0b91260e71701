"""Hyperparameters, lossless: the text as it was written beside the value it decodes to.

SDKs send them in two encodings (v2: JSON of every value, v3 and boto3: strings bare), and neither says which.
Decoding first and writing the result back is what turns the git revision `12345e6` into 12345000000.0; so the text is
kept, numbers keep their spelling in argv and in variables, and the decoded value is there for those who ask for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.document import Document, Number, plain, spell, too_deep
from trainkit.errors import Mistake

FILE = "hyperparameters.json"
OWN_PREFIX = "trainkit_"
FRAMEWORK_PREFIX = "sagemaker_"
_FOR_THE_HARNESS = frozenset(
    {
        *("sagemaker_program", "sagemaker_submit_directory", "sagemaker_enable_cloudwatch_metrics", "sagemaker_region"),
        *("sagemaker_container_log_level", "sagemaker_job_name", "sagemaker_s3_output"),
        *("default_user_module_name", "_tuning_objective_metric"),
    }
)
"""What SDKs and the tuner tell the container, and the toolkit keeps out of SM_FRAMEWORK_PARAMS."""
LONGEST = 131_072 - 1024
"""Bytes of one argument or variable: Linux refuses to start a program with a longer one (less room for the name)."""


def decode(text: str) -> Any:
    """The JSON value of `text`; the text itself where it is none (`Adam`, `007`, `NaN`)."""

    def finite(number: str) -> float:
        value = float(number)
        if math.isinf(value):
            raise ValueError(number)
        return value

    try:
        value = json.loads(text, parse_float=finite, parse_constant=lambda name: finite("inf"))
    except (ValueError, RecursionError):
        return text
    return text if too_deep(value) else value


def value_of(text: str) -> Any:
    """The JSON value of `text`, its numbers as they were written; the text itself where it spells none."""
    try:
        value = json.loads(text, parse_int=Number, parse_float=Number, parse_constant=Number)
    except (ValueError, RecursionError):
        return text
    return text if too_deep(value) else value


def portable(text: str) -> bool:
    """Whether an argument or a variable can carry `text`: `"\\u0000"` decodes to what none can."""
    return "\0" not in text and _encodes(text)


@dataclass(frozen=True, slots=True)
class Hyperparameters(Mapping[str, Any]):
    """Maps a name to its decoded value; `texts` has the same names with what was written, in the file's order."""

    texts: Mapping[str, str]

    def __getitem__(self, name: str) -> Any:
        return decode(self.texts[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def own(self) -> Mapping[str, str]:
        """Settings of trainkit that came as hyperparameters, without their prefix. The script never sees them."""
        return {name.removeprefix(OWN_PREFIX): t for name, t in self.texts.items() if name.startswith(OWN_PREFIX)}

    @property
    def for_script(self) -> Hyperparameters:
        """What trainkit.job() shows."""
        return Hyperparameters({name: t for name, t in self.texts.items() if not name.startswith(OWN_PREFIX)})

    @property
    def of_script(self) -> Hyperparameters:
        """What argv and SM_HPS have: without what SDKs tell the container, which no script's parser knows."""
        hidden = (OWN_PREFIX, FRAMEWORK_PREFIX)
        return Hyperparameters(
            {n: t for n, t in self.texts.items() if not n.startswith(hidden) and n not in _FOR_THE_HARNESS}
        )

    @property
    def of_framework(self) -> dict[str, Any]:
        """SM_FRAMEWORK_PARAMS, decoded."""
        return {n: self[n] for n in self.texts if n.startswith(FRAMEWORK_PREFIX) and n not in _FOR_THE_HARNESS}


def read(raw: Document, *, source: Path, mistakes: list[Mistake]) -> Hyperparameters:
    """Strings are kept as they are; real JSON values, which some clients write, keep their spelling."""
    texts = {}
    for name, value in raw.items():
        text = value if isinstance(value, str) else spell(value)
        if not name:
            mistakes.append(Mistake(str(source), '""', plain(value), "has an empty name", "Give it a name"))
        elif "\0" in name or "\0" in text:
            mistakes.append(
                Mistake(str(source), name, None, "contains a NUL character", "No argument or variable can: take it out")
            )
        elif not _encodes(name) or not _encodes(text):
            mistakes.append(
                Mistake(str(source), name, None, "contains half a surrogate pair", "Write whole characters, or UTF-8")
            )
        elif len(name.encode()) > 1000 or len(text.encode()) > LONGEST:
            size = len(name.encode()) + len(text.encode())
            mistakes.append(
                Mistake(
                    str(source), name[:100], None, f"is {size} bytes long, and no argument can be",
                    f"Keep to {LONGEST} bytes (SageMaker to 2,500 characters): put it into a file of a channel",
                )
            )  # fmt: skip
        else:
            texts[name] = text
    return Hyperparameters(texts)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
