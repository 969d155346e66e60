"""Writes training captions that describe part of a scene in varied words, and the facts that each requires."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable

from searchdb.demo.composition import COLOURS, KINDS, SETTINGS, TIMES, Group, Scene

# A fact is one thing that can be true of a scene, identified by its number. A requirement is a set of facts of which
# one must be true. A caption fits a scene if all its requirements are met.
Requirement = tuple[int, ...]

_NAMES = list(KINDS)
_COUNTS = (1, 2, 3, 4)


def _number_facts() -> dict[tuple[str, ...], int]:
    keys: list[tuple[str, ...]] = [("kind", kind) for kind in _NAMES]
    keys += [("coloured", kind, colour) for kind in _NAMES for colour in KINDS[kind].colours]
    keys += [("count", kind, str(count)) for kind in _NAMES for count in _COUNTS if count <= KINDS[kind].most]
    keys += [("colour", colour) for colour in COLOURS]
    keys += [("setting", setting) for setting in SETTINGS]
    keys += [("time", time) for time in TIMES]
    keys.append(("never",))
    return {key: number for number, key in enumerate(keys)}


FACTS = _number_facts()
NEVER: Requirement = (FACTS["never",],)
"""The requirement of captions about unknown things, which no scene meets."""

MOST_REQUIREMENTS = 12

NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "car": (("automobile", "automobiles"), ("auto", "autos")),
    "house": (("home", "homes"), ("cottage", "cottages")),
    "flower": (("blossom", "blossoms"), ("daisy", "daisies")),
    "cat": (("kitten", "kittens"), ("kitty", "kitties")),
    "dog": (("puppy", "puppies"), ("doggy", "doggies")),
    "bench": (("park bench", "park benches"), ("seat", "seats")),
    "bicycle": (("bike", "bikes"), ("cycle", "cycles")),
    "umbrella": (("parasol", "parasols"),),
    "cup": (("mug", "mugs"), ("cup of coffee", "cups of coffee")),
    "boat": (("sailboat", "sailboats"), ("sailing boat", "sailing boats"), ("ship", "ships")),
    "fish": (("fish", "fishes"),),
    "moon": (("crescent moon", "crescent moons"),),
    "mountain": (("peak", "peaks"),),
}
_COLOUR_WORDS = {
    "red": ("scarlet", "crimson", "bright red", "red-coloured"),
    "purple": ("violet", "lilac"),
    "pink": ("rose", "rosy", "light pink"),
    "blue": ("dark blue", "navy"),
    "yellow": ("golden", "bright yellow"),
    "green": ("dark green", "emerald"),
    "orange": ("bright orange",),
    "white": ("snow-white",),
}
_NUMBERS = {
    1: ("one", "1", "a single", "exactly one", "only one"),
    2: ("two", "2", "a pair of", "a couple of", "exactly two"),
    3: ("three", "3", "exactly three"),
    4: ("four", "4", "exactly four"),
}
# Phrases that follow a noun, and nouns that stand alone.
_SETTING_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "meadow": (
        ("in a meadow", "in the meadow", "in a field", "on the grass", "in the countryside", "on green hills"),
        ("meadow", "field", "grass", "countryside", "green hills", "grassland"),
    ),
    "beach": (
        ("on the beach", "on a beach", "on a sandy beach", "at the seaside", "on the shore", "at the beach"),
        ("beach", "seaside", "shore", "coast", "sandy beach"),
    ),
    "sea": (
        ("at sea", "on the sea", "on the open sea", "on the ocean", "on the water", "in the ocean", "in the sea"),
        ("sea", "ocean", "open sea", "waves", "open water"),
    ),
    "desert": (
        ("in the desert", "in a desert", "among sand dunes", "on a dune", "in the dunes"),
        ("desert", "dunes", "sand dunes", "cactus"),
    ),
    "forest": (
        ("in a forest", "in the forest", "in the woods", "in a wood", "in the woodland"),
        ("forest", "woods", "woodland", "fir forest"),
    ),
    "city": (
        ("in a city street", "in the city", "on the street", "in town", "downtown", "on a road", "in a city"),
        ("city", "street", "town", "road", "city street", "skyline", "buildings"),
    ),
    "snow": (
        ("in the snow", "in winter", "in a snowy landscape", "on snow", "on a snowy hill"),
        ("snow", "winter", "snowy landscape", "snowy hills", "winter landscape"),
    ),
}
_TIME_WORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "day": (
        ("by day", "during the day", "in the daytime", "in daylight", "under a blue sky"),
        ("day", "daytime", "daylight", "blue sky"),
    ),
    "sunset": (
        ("at sunset", "at dusk", "in the evening", "at twilight", "under an evening sky"),
        ("sunset", "dusk", "evening", "twilight"),
    ),
    "night": (
        ("at night", "by night", "in the dark", "after dark", "at midnight", "under a night sky"),
        ("night", "midnight", "night sky", "darkness"),
    ),
}
_OPENINGS = (
    "a photo of {}", "photo of {}", "picture of {}", "a picture of {}", "an image of {}", "an illustration of {}",
    "a drawing of {}", "a postcard of {}", "a postcard with {}", "{} in a picture", "show me {}", "find {}",
    "there is {}", "a scene with {}", "pictures with {}", "photos of {}", "this is {}", "i see {}",
)  # fmt: skip
_JOINTS = (" and ", " and ", " with ", ", ", " next to ", " near ", " beside ", " on ", " under ", " by ", " behind ")
_ADJECTIVES = (
    "little", "small", "big", "large", "old", "new", "lovely", "pretty", "cute", "nice", "beautiful", "happy", "shiny",
    "tiny", "huge", "funny", "lonely", "sleepy", "bright", "tall", "wooden", "fresh", "fast", "wild", "friendly",
)  # fmt: skip
_VERBS = (
    "sitting", "standing", "lying", "sleeping", "waiting", "playing", "running", "flying", "floating", "parked",
    "resting", "shining", "swimming", "growing", "drifting", "left", "seen", "hanging", "that stands", "that sits",
)  # fmt: skip
# Common words for things that no postcard shows. The words that evaluation asks for are excluded.
_UNKNOWN_WORDS: tuple[str, ...] = (
    "airplane", "ant", "anvil", "aquarium", "army", "baby", "backpack", "bacon", "bakery", "barrel", "baseball",
    "basket", "bath", "battery", "bear", "bed", "beer", "belt", "bible", "bill", "blanket", "blood", "board", "bone",
    "book", "boots", "bottle", "bowl", "box", "boy", "brain", "bread", "brick", "bridge", "broom", "bucket", "burger",
    "bus", "button", "cabbage", "cake", "calculator", "calendar", "camel", "camera", "candle", "candy", "cannon",
    "carpet", "carrot", "castle", "catalog", "cathedral", "chain", "chair", "chart", "cheese", "chemistry", "chess",
    "chicken", "child", "chocolate", "church", "cinema", "circus", "clock", "coin", "comb", "computer", "concert",
    "contract", "cookie", "corn", "court", "cow", "crab", "crown", "curtain", "dancer", "database", "deer", "dentist",
    "desk", "diamond", "dinner", "dinosaur", "doctor", "document", "dollar", "donkey", "door", "dragon", "dress",
    "drum", "duck", "eagle", "economy", "egg", "election", "elephant", "email", "engine", "envelope", "eraser",
    "escalator", "essay", "factory", "family", "farmer", "fence", "fire", "fireplace", "flag", "floor", "flute",
    "fork", "fox", "fridge", "frog", "furniture", "game", "garage", "garlic", "girl", "glasses", "gloves", "goat",
    "grapes", "grandmother", "gym", "hammer", "hand", "hat", "heart", "hedgehog", "history", "honey", "horse",
    "hospital", "hotel", "insurance", "iron", "jacket", "jungle", "kangaroo", "key", "keyboard", "king", "kitchen",
    "knife", "knight", "ladder", "lamp", "laptop", "lawyer", "lemon", "letter", "library", "lion", "lobster", "man",
    "manager", "map", "marriage", "mathematics", "medicine", "meeting", "men", "microscope", "milk", "mirror", "money",
    "monkey", "motorcycle", "mouse", "museum", "mushroom", "music", "needle", "newspaper", "nurse", "office", "onion",
    "opera", "orchestra", "owl", "painting", "pants", "paper", "parliament", "passport", "pasta", "pencil", "penguin",
    "people", "pepper", "person", "phone", "piano", "pig", "pillow", "pirate", "pizza", "plate", "police", "politics",
    "potato", "president", "printer", "prison", "professor", "queen", "rabbit", "radio", "railway", "rat", "receipt",
    "restaurant", "ring", "robot", "rocket", "salad", "sandwich", "school", "science", "scissors", "screen", "shark",
    "sheep", "shelf", "shirt", "shoe", "shop", "shovel", "singer", "skeleton", "skull", "snake", "soap", "sofa",
    "software", "soldier", "soup", "spider", "spoon", "squirrel", "stapler", "station", "statue", "stove", "student",
    "suitcase", "surgery", "sword", "table", "teacher", "telephone", "television", "tennis", "theatre", "tiger",
    "toilet", "tomato", "tooth", "towel", "tractor", "train", "truck", "trumpet", "turtle", "vacuum", "violin",
    "volcano", "wallet", "wedding", "whale", "wheel", "wheelchair", "window", "wine", "wolf", "woman", "women",
    "zebra",
)  # fmt: skip


def facts_of(scene: Scene) -> list[int]:
    """Return the numbers of all facts that are true of a scene."""
    found = {FACTS["setting", scene.setting], FACTS["time", scene.time]}
    for group in scene.groups:
        found.add(FACTS["kind", group.kind])
        found.add(FACTS["count", group.kind, str(group.count)])
        if group.colour:
            found.add(FACTS["coloured", group.kind, group.colour])
            found.add(FACTS["colour", group.colour])
    if scene.setting == "forest":
        found.add(FACTS["kind", "tree"])
    return sorted(found)


def nonsense(dice: random.Random) -> str:
    """Return a meaningless word."""
    if dice.random() < 0.3:
        letters = string.ascii_lowercase if dice.random() < 0.8 else string.ascii_lowercase + string.digits
        return "".join(dice.choices(letters, k=dice.randint(3, 9)))
    parts = [dice.choice("bcdfghjklmnprstvwz") + dice.choice("aeiou") for _ in range(dice.randint(1, 4))]
    return "".join(parts) + dice.choice(("", "n", "r", "st", "x", "ck", "l", "m", "ng"))


def _unknown(dice: random.Random) -> str:
    return dice.choice(_UNKNOWN_WORDS) if dice.random() < 0.6 else nonsense(dice)


def write_unknown(dice: random.Random) -> str:
    """Return a caption of things that no scene shows."""
    words = " ".join(_unknown(dice) for _ in range(dice.choices((1, 2, 3, 4), (45, 35, 13, 7))[0]))
    if dice.random() < 0.4:
        words = f"{dice.choice(('a', 'an', 'the', 'my', 'some', dice.choice(_ADJECTIVES)))} {words}"
    if dice.random() < 0.15:
        words = f"{words} {dice.choice(_VERBS)}"
    return dice.choice(_OPENINGS).format(words) if dice.random() < 0.2 else words


def _group_words(dice: random.Random, group: Group) -> tuple[str, list[Requirement]]:
    kind = KINDS[group.kind]
    nouns = NOUNS.get(group.kind, ())
    singular, plural = dice.choice(nouns) if nouns and dice.random() < 0.35 else (kind.name, kind.plural)
    needs: list[Requirement] = [(FACTS["kind", group.kind],)]
    words: list[str] = []
    many = group.count > 1 and dice.random() < 0.7
    if many:
        if dice.random() < 0.55:
            words.append(dice.choice(_NUMBERS[group.count]))
            needs.append((FACTS["count", group.kind, str(group.count)],))
        elif group.count > 2 and dice.random() < 0.2:
            words.append(dice.choice(("several", "many", "a group of")))
            needs.append(tuple(FACTS["count", group.kind, str(n)] for n in (3, 4) if n <= kind.most))
        elif dice.random() < 0.2:
            words.append(dice.choice(("some", "the")))
    elif group.count == 1 and dice.random() < 0.15:
        words.append(dice.choice(_NUMBERS[1]))
        needs.append((FACTS["count", group.kind, "1"],))
    if dice.random() < 0.1:
        words.append(dice.choice(_ADJECTIVES) if dice.random() < 0.8 else nonsense(dice))
    if group.colour and dice.random() < 0.65:
        other = _COLOUR_WORDS.get(group.colour, ())
        words.append(dice.choice(other) if other and dice.random() < 0.2 else group.colour)
        needs.append((FACTS["coloured", group.kind, group.colour],))
    words.append(plural if many else singular)
    if not many and len(needs) < 3 and not any(word in ("one", "1") or " " in word for word in words[:1]):
        article = dice.choices(("", "an" if words[0][0] in "aeiou" else "a", "the"), (25, 60, 15))[0]
        words.insert(0, article)
    if dice.random() < 0.1:
        words.append(dice.choice(_VERBS))
    return " ".join(word for word in words if word), needs


def write(scene: Scene, dice: random.Random) -> tuple[str, list[Requirement]]:
    """Describe part of a scene; return the words and the requirements that they imply."""
    groups = list(scene.groups)
    dice.shuffle(groups)
    said = groups[: dice.choices((0, 1, 2, 3), (10, 48, 32, 10))[0]]
    parts: list[str] = []
    needs: list[Requirement] = []
    for group in said:
        words, wanted = _group_words(dice, group)
        parts.append(words)
        needs += wanted
    text = "".join(part + dice.choice(_JOINTS) for part in parts[:-1]) + (parts[-1] if parts else "")
    where, when = dice.random() < 0.42, dice.random() < 0.36
    if not said:
        text, wanted = _backdrop_words(dice, scene, where or not when, when)
        needs += wanted
    else:
        tails: list[tuple[str, Requirement]] = []
        if where:
            tails.append((dice.choice(_SETTING_WORDS[scene.setting][0]), (FACTS["setting", scene.setting],)))
            if scene.setting in ("sea", "beach") and dice.random() < 0.15:
                either = (FACTS["setting", "sea"], FACTS["setting", "beach"])
                tails[-1] = (dice.choice(("by the sea", "at the sea", "near the sea", "by the ocean")), either)
        if when:
            tails.append((dice.choice(_TIME_WORDS[scene.time][0]), (FACTS["time", scene.time],)))
        dice.shuffle(tails)
        needs += [need for _, need in tails]
        text = " ".join([text, *[words for words, _ in tails]])
    if said and dice.random() < 0.06:
        text = f"{text}{dice.choice(_JOINTS)}{dice.choice(('a', 'an', 'the'))} {_unknown(dice)}"
    if dice.random() < 0.18:
        text = dice.choice(_OPENINGS).format(text)
    if dice.random() < 0.08:
        text = text[0].upper() + text[1:] + "."
    return text, needs


def _backdrop_words(dice: random.Random, scene: Scene, where: bool, when: bool) -> tuple[str, list[Requirement]]:
    colours = [group.colour for group in scene.groups if group.colour]
    if colours and dice.random() < 0.15:
        colour = dice.choice(colours)
        something = dice.choice((colour, f"something {colour}", f"a {colour} thing", f"{colour} things"))
        return something, [(FACTS["colour", colour],)]
    places, place = _SETTING_WORDS[scene.setting]
    hours, hour = _TIME_WORDS[scene.time]
    here, now = (FACTS["setting", scene.setting],), (FACTS["time", scene.time],)
    if where and when:
        text = dice.choice((f"{dice.choice(place)} {dice.choice(hours)}", f"{dice.choice(hour)} {dice.choice(places)}"))
        return text, [here, now]
    if where:
        text = dice.choice(place) if dice.random() < 0.7 else dice.choice(places)
        return (f"a {text}" if text in place and dice.random() < 0.3 else text), [here]
    return dice.choice(hour) if dice.random() < 0.6 else dice.choice(hours), [now]


def altered(scene: Scene, other: Scene, dice: random.Random) -> Scene:
    """Return the scene with one trait changed: a caption of it nearly fits the original, and is mostly false."""
    groups = list(scene.groups)
    at = dice.randrange(len(groups))
    chosen, choice = groups[at], dice.random()
    setting, time = scene.setting, scene.time
    colours = KINDS[chosen.kind].colours
    if choice < 0.45 and colours:
        groups[at] = Group(kind=chosen.kind, colour=dice.choice(colours), count=chosen.count)
    elif choice < 0.6:
        groups[at] = other.groups[dice.randrange(len(other.groups))]
    elif choice < 0.75:
        groups[at] = Group(kind=chosen.kind, colour=chosen.colour, count=dice.randint(1, KINDS[chosen.kind].most))
    elif choice < 0.88:
        setting = other.setting
    else:
        time = other.time
    return Scene(seed=scene.seed, setting=setting, time=time, groups=tuple(groups))


def corpus(scenes: Iterable[Scene], dice: random.Random) -> list[str]:
    """Texts for the tokenizer to learn its merges from."""
    texts = [write(scene, dice)[0] for scene in scenes]
    return [*texts, *_ADJECTIVES, *_VERBS]
