"""Five generated task families over the invented world, mirrors of the paper's five benchmarks.

Each with exact scoring.

| name | mirrors | what must be learned | metric |
| --- | --- | --- | --- |
| instruction | Alpaca | to follow an instruction about a known person (a fact in the weights) | exact match |
| context | Dolly | to answer from a passage about a stranger (the fact is in the prompt) | exact match |
| reading | BoolQ | a yes/no question about a passage, with knowledge of the world | accuracy by likelihood |
| entailment | QNLI | whether a sentence entails a statement | accuracy by likelihood |
| arithmetic | GSM8K | to set up and solve a one-step sum, ending in `#### number` | final number correct |
"""

from __future__ import annotations

import random
from collections.abc import Callable

from grit.backbone.world import (
    ATTRIBUTES,
    PROPERTIES,
    THINGS,
    Person,
    has_property,
    invent,
    population,
    sentence,
)
from grit.tasks.base import Example, Task, without_overlap
from grit.tasks.scoring import exact_match, number_match

TRAIN_EXAMPLES, EVALUATION_EXAMPLES = 2000, 400

_QUESTIONS = {
    "town": ("Where does {n} live?", "Name the town of {n}."),
    "craft": ("What is the craft of {n}?", "Name the trade of {n}."),
    "animal": ("Which animal does {n} own?", "Name the animal of {n}."),
    "colour": ("What colour is the door of {n}?", "Name the door colour of {n}."),
    "food": ("What does {n} like to eat?", "Name the food of {n}."),
}


def _instruction(rng: random.Random) -> tuple[str, str]:
    person, attribute = rng.choice(population()[0]), rng.choice(ATTRIBUTES)
    question = rng.choice(_QUESTIONS[attribute]).format(n=person.name)
    style = rng.choice(
        (
            "Answer briefly.",
            "Give a short answer.",
            "Reply in a word or two.",
            "Say only what is asked.",
            "Be brief.",
        )
    )
    polite = rng.choice(("", "Please. ", "Tell me. ", "Think. "))
    return f"Instruction: {polite}{question} {style}\nResponse:", f" {person.value(attribute)}"


def _passage(rng: random.Random, count: int) -> tuple[Person, list[str], str]:
    person = invent(rng, rng.choice(population()[1]))
    attributes = rng.sample(ATTRIBUTES, count)
    return person, attributes, " ".join(sentence(rng, person, attribute) for attribute in attributes)


def _context(rng: random.Random) -> tuple[str, str]:
    person, attributes, passage = _passage(rng, 3)
    attribute = rng.choice(attributes)
    question = rng.choice(_QUESTIONS[attribute]).format(n=person.name)
    return f"Context: {passage}\nQuestion: {question}\nAnswer:", f" {person.value(attribute)}"


def _about_property(rng: random.Random) -> tuple[Person, str, bool]:
    person, attribute = invent(rng, rng.choice(population()[1])), rng.choice(sorted(PROPERTIES))
    return person, attribute, has_property(attribute, person.value(attribute))


def _reading(rng: random.Random) -> tuple[str, str]:
    person, attribute, holds = _about_property(rng)
    lines = [sentence(rng, person, attribute), sentence(rng, person, rng.choice(("town", "colour")))]
    rng.shuffle(lines)
    question = {
        "animal": "Is the animal of {n} a bird?",
        "craft": "Does {n} work indoors?",
        "food": "Is the food of {n} sweet?",
    }[attribute]
    return (
        f"Passage: {' '.join(lines)}\nQuestion: {question.format(n=person.name)}\nAnswer:",
        " yes" if holds else " no",
    )


def _entailment(rng: random.Random) -> tuple[str, str]:
    person, attribute, holds = _about_property(rng)
    statement = {
        "animal": "{n} keeps a bird.",
        "craft": "{n} has an indoor craft.",
        "food": "{n} likes sweet food.",
    }[attribute]
    return (
        f"Sentence: {sentence(rng, person, attribute)}\nStatement: {statement.format(n=person.name)}\nLabel:",
        " true" if holds else " false",
    )


def _arithmetic(rng: random.Random) -> tuple[str, str]:
    left, right = rng.randint(1, 12), rng.randint(1, 9)
    name, thing = rng.choice(population()[1]), rng.choice(THINGS)
    if rng.random() < 0.5:
        return (
            f"Problem: {name} had {left} {thing} and got {right} more. How many {thing} now?\nSolution:",
            f" {left} + {right} = {left + right} #### {left + right}",
        )
    whole = left + right
    return (
        f"Problem: {name} had {whole} {thing} and lost {right}. How many {thing} now?\nSolution:",
        f" {whole} - {right} = {left} #### {left}",
    )


_Generator = Callable[[random.Random], tuple[str, str]]
_FAMILIES: dict[str, tuple[_Generator, tuple[str, ...]]] = {
    "instruction": (_instruction, ()),
    "context": (_context, ()),
    "reading": (_reading, (" yes", " no")),
    "entailment": (_entailment, (" true", " false")),
    "arithmetic": (_arithmetic, ()),
}
NAMES = tuple(_FAMILIES)


def _examples(name: str, seed: int, count: int) -> tuple[Example, ...]:
    generate, labels = _FAMILIES[name]
    rng = random.Random(f"{name}/{seed}")
    pairs = [generate(rng) for _ in range(count)]
    return tuple(
        Example(example_id=f"{name}-{seed}-{i}", prompt=p, answer=a, labels=labels)
        for i, (p, a) in enumerate(pairs)
    )


def load(name: str) -> Task:
    """One of `NAMES`.

    The examples are the same on every machine, and no evaluation prompt occurs in training.
    """
    train = _examples(name, 1, TRAIN_EXAMPLES)
    evaluation = without_overlap(train, _examples(name, 2, EVALUATION_EXAMPLES))
    labels = _FAMILIES[name][1]
    return Task(
        name=name,
        train=train,
        evaluation=evaluation,
        max_new_tokens=16,
        metric="accuracy" if labels else "exact_match",
        decoding="choose" if labels else "generate",
        score=number_match if name == "arithmetic" else exact_match,
    )
