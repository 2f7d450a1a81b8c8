"""Sentences about a digit: many ways to say the same, some of which are kept for the evaluation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from typing import get_args

from ..seeds import derive_seed
from ..sourceconfig import DigitWord, SideWord, WeightWord

NAMES = ("digit", "weight", "slant")
VALUES: tuple[tuple[str, ...], ...] = (get_args(DigitWord), get_args(WeightWord), get_args(SideWord))
"""Of each attribute, by number."""
SYNONYMS = {"thin": ("thin", "light", "fine"), "bold": ("bold", "heavy", "thick")}
UNSAID = -1
"""Value of an attribute that a caption does not speak of."""

# By what is said besides the digit: (weight, side).
PHRASINGS: dict[tuple[bool, bool], tuple[str, ...]] = {
    (True, True): (
        "a {weight} {digit} leaning {side}",
        "a {weight} {digit} slanted to the {side}",
        "a {digit}, {weight}, slanted to the {side}",
        "a {digit} that leans {side}, {weight}",
        "the digit {digit}, {weight} and leaning {side}",
        "{weight} handwritten {digit}, tilted {side}",
        "a {side}-leaning {weight} {digit}",
        "{digit} in {weight} strokes, leaning to the {side}",
        "a {digit} tilted to the {side} with a {weight} stroke",
        "{digit}: {weight}, {side}",
    ),
    (True, False): (
        "a {weight} {digit}",
        "a {digit}, {weight}",
        "the digit {digit}, {weight}",
        "{digit} in {weight} strokes",
        "{weight} handwritten {digit}",
        "{digit}: {weight}",
    ),
    (False, True): (
        "a {digit} leaning {side}",
        "a {digit} slanted to the {side}",
        "a {digit} that leans {side}",
        "the digit {digit}, tilted {side}",
        "a {side}-leaning {digit}",
        "{digit}: {side}",
    ),
    (False, False): ("a {digit}", "the digit {digit}", "handwritten {digit}", "{digit}"),
}
"""What training is told, at random."""
HELD_OUT = (
    "{weight} {digit} which is leaning to the {side}",
    "leaning {side}, a {weight} {digit}",
    "a {weight}, {side}-leaning {digit}",
    "this {digit} is {weight} and leans to the {side}",
    "a picture of a {digit}, {weight}, leaning {side}",
    "one {weight} digit {digit}, slanted {side}",
    "tilted to the {side} in {weight} strokes: {digit}",
    "a {digit} with {weight} lines that is tilted {side}",
)
"""What the evaluation asks with: no caption is phrased so, though all names of values are known."""


def caption(meaning: Sequence[int], seed: int, row: int) -> str:
    """One of the ways to say it, a function of (seed, row); every fourth as a whole sentence.

    `meaning` holds the number of each attribute's value, UNSAID for none. The digit is always said.
    """
    _, weight, side = meaning
    templates = PHRASINGS[weight != UNSAID, side != UNSAID]
    draw = derive_seed("caption", seed, row)
    text = _phrased(templates[draw % len(templates)], meaning, draw >> 16)
    return f"{text[0].upper()}{text[1:]}." if (draw >> 8) % 4 == 0 else text


def held_out_caption(meaning: Sequence[int], number: int) -> str:
    """The `number`-th of the ways that are kept for the evaluation; all attributes are said."""
    return _phrased(HELD_OUT[number % len(HELD_OUT)], meaning, number // len(HELD_OUT))


def _phrased(template: str, meaning: Sequence[int], draw: int) -> str:
    """`draw` picks among words of the same meaning."""
    digit, weight, side = meaning
    words = {"digit": VALUES[0][digit]}
    if weight != UNSAID:
        same = SYNONYMS[VALUES[1][weight]]
        words["weight"] = same[draw % len(same)]
    if side != UNSAID:
        words["side"] = VALUES[2][side]
    return re.sub(r"\ba (?=eight)", "an ", template.format(**words))


def version() -> str:
    """Changes whenever a caption may."""
    return _digest([VALUES, SYNONYMS, [[*key, *texts] for key, texts in PHRASINGS.items()]])


def held_out_version() -> str:
    """Changes whenever a caption of the evaluation may."""
    return _digest([VALUES, SYNONYMS, HELD_OUT])


def _digest(said: object) -> str:
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]
