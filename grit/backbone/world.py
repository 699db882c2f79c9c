"""An invented world, and the general corpus written about it.

The world is a closed set of people with five attributes each; the corpus tells those facts in several
wordings, adds stories about strangers (whose attributes hold for that story only, so that a reader has to
copy from the text), properties of things, and sums. It contains no
instructions and no questions: those belong to the tasks (`grit.tasks.embedded`), which leaves fine-tuning
something to learn and to forget.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from functools import cache

TOWNS = (
    "Velor",
    "Pelm",
    "Ostrava Bay",
    "Kirn",
    "Talun",
    "Sorrel",
    "Hask",
    "Wyndon",
    "Brae",
    "Lomar",
    "Quill",
    "Dunmere",
)
CRAFTS = (
    "baker",
    "weaver",
    "smith",
    "potter",
    "tailor",
    "painter",
    "fisher",
    "mason",
    "gardener",
    "shepherd",
    "carter",
    "sailor",
)
ANIMALS = ("crow", "owl", "goose", "heron", "wren", "hawk", "goat", "pony", "hound", "otter", "mule", "hare")
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "grey", "purple")
FOODS = (
    "plum cake",
    "apple bread",
    "honey rolls",
    "fig tart",
    "barley soup",
    "salt fish",
    "pea stew",
    "leek pie",
)
THINGS = ("pears", "coins", "nails", "shells", "beads", "ropes", "candles", "stones", "apples", "bricks")
ATTRIBUTES = ("town", "craft", "animal", "colour", "food")
#: What is known of things in this world: the first half of each of these lists has the property, the second
#: has not.
PROPERTIES = {"animal": "bird", "craft": "indoor craft", "food": "sweet"}
VALUES = {"town": TOWNS, "craft": CRAFTS, "animal": ANIMALS, "colour": COLOURS, "food": FOODS}

_ONSETS = (
    "b",
    "d",
    "f",
    "g",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "z",
    "br",
    "dr",
    "st",
    "th",
    "tr",
)
_ENDINGS = ("an", "el", "ia", "or", "us", "eth", "im", "o", "a", "in")
_WORLD_SEED = 20260101

_SENTENCES = {
    "town": ("{n} lives in {v}.", "The home of {n} is in {v}.", "{n} has a house in {v}."),
    "craft": ("{n} is a {v}.", "{n} works as a {v}.", "By trade {n} is a {v}."),
    "animal": ("{n} keeps a {v}.", "{n} owns a {v}.", "A {v} belongs to {n}."),
    "colour": ("The door of {n} is {v}.", "{n} has a {v} door.", "{n} painted the door {v}."),
    "food": ("{n} likes {v}.", "{n} loves to eat {v}.", "The best food for {n} is {v}."),
}


@dataclass(frozen=True, kw_only=True)
class Person:
    """A name and one value for each of `ATTRIBUTES`."""

    name: str
    town: str
    craft: str
    animal: str
    colour: str
    food: str

    def value(self, attribute: str) -> str:
        """The person's value of one of `ATTRIBUTES`."""
        return str(getattr(self, attribute))


def _names(rng: random.Random, count: int) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        syllables = "".join(rng.choice(_ONSETS) + rng.choice("aeiou") for _ in range(rng.choice((1, 1, 2))))
        names[(syllables + rng.choice(_ONSETS[:15]) + rng.choice(_ENDINGS)).capitalize()] = None
    return list(names)


@cache
def population() -> tuple[tuple[Person, ...], tuple[str, ...]]:
    """The 48 known people.

    And 160 names of strangers who appear in stories and contexts with attributes of the moment.
    """
    rng = random.Random(_WORLD_SEED)
    names = _names(rng, 208)
    people = tuple(invent(rng, name) for name in names[:48])
    return people, tuple(names[48:])


def invent(rng: random.Random, name: str) -> Person:
    """A person with attributes drawn independently and uniformly."""
    return Person(name=name, **{attribute: rng.choice(VALUES[attribute]) for attribute in ATTRIBUTES})


def sentence(rng: random.Random, person: Person, attribute: str) -> str:
    """One of the wordings in which the corpus states an attribute."""
    return rng.choice(_SENTENCES[attribute]).format(n=person.name, v=person.value(attribute))


def _facts(rng: random.Random) -> str:
    person = rng.choice(population()[0])
    return " ".join(sentence(rng, person, attribute) for attribute in rng.sample(ATTRIBUTES, 5))


def _story(rng: random.Random) -> str:
    first, second = (invent(rng, name) for name in rng.sample(population()[1], 2))
    attributes = rng.sample(ATTRIBUTES, 3)
    lines = [f"Once {first.name} met {second.name}."]
    for attribute in attributes:
        lines.append(sentence(rng, first, attribute))
    lines.append(sentence(rng, second, attributes[0]))
    lines.append(
        rng.choice(
            (
                "The {a} of {n} ran away and {n} looked for the {a}.",
                "{n} went home with the {a}.",
                "Then {n} ate {f} and slept.",
                "They shared {f} and talked about the {a}.",
            )
        ).format(n=first.name, a=first.animal, f=first.food)
    )
    lines.append(sentence(rng, first, rng.choice(attributes)))
    return " ".join(lines)


def has_property(attribute: str, value: str) -> bool:
    """Whether an animal is a bird, a craft is done indoors, a food is sweet."""
    values = VALUES[attribute]
    return values.index(value) < len(values) // 2


def _kinds(rng: random.Random) -> str:
    parts = []
    for attribute in rng.sample(sorted(PROPERTIES), 2):
        words = ("no", "yes") if rng.random() < 0.5 else ("false", "true")
        listed = rng.sample(VALUES[attribute], 4)
        judged = ", ".join(f"{value} {words[has_property(attribute, value)]}" for value in listed)
        parts.append(f"{PROPERTIES[attribute]}: {judged}.")
    return " ".join(parts)


def _sums(rng: random.Random) -> str:
    lines = []
    for _ in range(2):
        left, right = rng.randint(1, 12), rng.randint(1, 9)
        name, thing = rng.choice(population()[1]), rng.choice(THINGS)
        whole = left + right
        if rng.random() < 0.5:
            solved = f"{left} + {right} = {whole}"
            lines.append(
                f"{solved}. {name} had {left} {thing} and got {right} more, {solved}, so {name} had "
                f"{whole} {thing}."
            )
        else:
            solved = f"{whole} - {right} = {left}"
            lines.append(
                f"{solved}. {name} had {whole} {thing} and lost {right}, {solved}, so {name} had {left} "
                f"{thing}."
            )
    return " #### ".join(lines)


#: Seeds of the two parts of the corpus: training documents, and held-out documents on which retention is
#: measured.
TRAIN_SEED, HELD_OUT_SEED = 1, 2


def _is_held_out(text: str) -> bool:
    return hashlib.blake2b(text.encode(), digest_size=2).digest()[0] < 8  # 1 document in 32


def documents(seed: int, count: int, *, held_out: bool = False) -> list[str]:
    """`count` general documents: 40% facts, 30% stories, 10% properties, 20% sums.

    The same seed gives the same documents on every machine.

    A document belongs to the held-out part or to the training part by the hash of its text, so the two are
    disjoint whatever the seeds. Known facts recur in both parts, as in any real corpus; whole documents do
    not.
    """
    rng = random.Random(seed)
    kinds = (*[_facts] * 4, *[_story] * 3, _kinds, *[_sums] * 2)
    texts: list[str] = []
    while len(texts) < count:
        text = rng.choice(kinds)(rng)
        if _is_held_out(text) == held_out:
            texts.append(text)
    return texts
