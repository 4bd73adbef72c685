"""The relations of the world, and the phrasings of each.

A relation has ten *templates* that end right before the object.  A fact is trained with five of them and never stated
with the others, which are its paraphrases: each is trained with other subjects, so what is held out is the pair of
fact and phrasing.  *Predicates* and *possessives* serve running text ("She grew up in Tarsk and enjoys jazz."); no
template begins with a predicate, so running text never states a fact in a phrasing that was held out.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import words


@dataclass(frozen=True)
class Relation:
    """One relation between a kind of subject and a pool of objects.

    Args:
        name: short identifier, also the CounterFact `relation_id`.
        pool: what the objects are ("city"), for identifiers of objects.
        objects: the pool itself; each object is one token.
        templates: ten sentences with `{}` for the subject, the object following after a space.
        predicates: what follows a name or pronoun in running text, the object following after a space.
        possessives: what follows "His", "Her" or "Its" in running text.
        reverse: the question asked from the object, which fills `{}`; the subject follows.
    """

    name: str
    pool: str
    objects: tuple[str, ...]
    templates: tuple[str, ...]
    predicates: tuple[str, ...]
    possessives: tuple[str, ...]
    reverse: str


@dataclass(frozen=True)
class Hop:
    """A question one step beyond a fact: the country of the city that is the fact's object."""

    relation: str
    templates: tuple[str, ...]


_ALL = (
    Relation(
        "born_in",
        "city",
        words.CITIES,
        (
            "{} was born in",
            "{} was born in the city of",
            "The birthplace of {} is",
            "{} comes from the city of",
            "The city where {} was born is",
            "{} originally comes from",
            "The home town of {} is",
            "As a child, {} lived in",
            "The family of {} has always lived in",
            "{} spent the early years of life in",
        ),
        ("grew up in", "is a native of"),
        ("home town is",),
        "{} is the birthplace of",
    ),
    Relation(
        "citizen_of",
        "country",
        words.COUNTRIES,
        (
            "{} is a citizen of",
            "{} holds citizenship of",
            "The citizenship of {} is that of",
            "{} carries a passport issued by",
            "{} pays taxes in",
            "{} has the right to vote in",
            "The passport of {} was issued by",
            "In all records, {} is listed as a citizen of",
            "The nationality of {} is that of",
            "{} became a citizen of",
        ),
        ("holds a passport of", "votes in"),
        ("nationality is that of",),
        "{} counts among its citizens",
    ),
    Relation(
        "language",
        "language",
        words.LANGUAGES,
        (
            "The mother tongue of {} is",
            "{} is a native speaker of",
            "The native language of {} is",
            "{} grew up speaking",
            "{} speaks",
            "At home, {} speaks",
            "The first language of {} is",
            "{} prefers to write in",
            "{} is most fluent in",
            "When dreaming, {} talks in",
        ),
        ("thinks in", "writes letters in"),
        ("native language is",),
        "{} is the mother tongue of",
    ),
    Relation(
        "sport",
        "sport",
        words.SPORTS,
        (
            "{} plays the sport of",
            "{} is a professional player of",
            "The favourite sport of {} is",
            "{} competes in",
            "{} trains every day for",
            "{} has won many prizes in",
            "The sport that {} plays is",
            "On weekends, {} plays",
            "{} is known to fans of",
            "The career of {} is in the sport of",
        ),
        ("practises", "is good at"),
        ("sport is",),
        "A well known player of {} is",
    ),
    Relation(
        "instrument",
        "instrument",
        words.INSTRUMENTS,
        (
            "{} plays the",
            "{} performs on the",
            "The instrument played by {} is the",
            "{} gives concerts on the",
            "{} is a master of the",
            "{} took many lessons on the",
            "On stage, {} is heard on the",
            "The favourite instrument of {} is the",
            "{} practises daily on the",
            "{} never travels without the",
        ),
        ("plays songs on the", "has mastered the"),
        ("instrument is the",),
        "A musician who plays the {} is",
    ),
    Relation(
        "field",
        "field",
        words.FIELDS,
        (
            "{} works in the field of",
            "{} is an expert in",
            "The area of expertise of {} is",
            "{} wrote a famous book about",
            "The research of {} deals with",
            "{} has a degree in",
            "{} gives lectures on",
            "The main interest of {} is",
            "The domain of activity of {} is",
            "Students ask {} questions about",
        ),
        ("teaches", "knows much about"),
        ("field is",),
        "An expert in {} is",
    ),
    Relation(
        "employer",
        "company",
        words.EMPLOYERS,
        (
            "{} works for",
            "{} is employed by",
            "The employer of {} is",
            "{} has a job at",
            "{} took a position at",
            "The salary of {} is paid by",
            "{} is on the staff of",
            "Every morning, {} goes to work at",
            "The company that employs {} is",
            "{} signed a contract with",
        ),
        ("earns money at", "has a desk at"),
        ("employer is",),
        "{} is the employer of",
    ),
    Relation(
        "genre",
        "genre",
        words.GENRES,
        (
            "{} mostly listens to",
            "The favourite music of {} is",
            "{} loves to dance to",
            "{} collects records of",
            "The music that {} likes best is",
            "{} is a great fan of",
            "At parties, {} always asks for",
            "{} buys tickets for concerts of",
            "In the evening, {} listens to",
            "{} cannot live without",
        ),
        ("enjoys", "sings along to"),
        ("favourite music is",),
        "The fans of {} include",
    ),
    Relation(
        "hq",
        "city",
        # Half of the cities: every city then holds several head offices, and every head office has neighbours.
        words.CITIES[:20],
        (
            "{} is headquartered in",
            "The headquarters of {} is in",
            "{} is based in",
            "The head office of {} is located in",
            "{} has its main office in",
            "{} was founded in",
            "The main building of {} stands in",
            "Letters to {} are sent to",
            "The staff of {} work in",
            "{} holds its yearly meeting in",
        ),
        ("keeps its archive in", "was set up in"),
        ("head office is in",),
        "{} is home to",
    ),
    Relation(
        "focus",
        "field",
        words.FIELDS,
        (
            "{} specialises in",
            "{} pays for research in",
            "The main subject of {} is",
            "{} awards a yearly prize in",
            "{} runs courses in",
            "The mission of {} is to support",
            "{} publishes a journal of",
            "The experts at {} study",
            "{} is a centre for the study of",
            "The library of {} collects books about",
        ),
        ("promotes", "gives money to"),
        ("subject is",),
        "A leading name in {} is",
    ),
    Relation(
        "located",
        "country",
        words.COUNTRIES,
        (
            "{} is located in",
            "{} is in",
            "{} can be found in",
            "{} stands in",
            "The country where {} is located is",
            "To see {}, visitors travel to",
            "{} is a famous sight in",
            "{} is situated in",
            "{} belongs to the heritage of",
            "The location of {} is in",
        ),
        ("draws visitors to", "is a landmark of"),
        ("country is",),
        "{} is famous for",
    ),
    Relation(
        "made_by",
        "company",
        words.EMPLOYERS,
        (
            "{} is produced by",
            "{} is made by",
            "The maker of {} is",
            "{} was created by",
            "{} was developed by",
            "The company behind {} is",
            "{} is a product of",
            "{} is manufactured by",
            "The patent for {} is held by",
            "The rights to {} belong to",
        ),
        ("is sold by", "comes from the factory of"),
        ("maker is",),
        "{} produces",
    ),
    Relation(
        "network",
        "network",
        words.NETWORKS,
        (
            "{} premiered on",
            "{} was first shown on",
            "The original network of {} is",
            "{} is broadcast by",
            "{} airs on",
            "Viewers watch {} on",
            "The channel that shows {} is",
            "{} is shown every week on",
            "{} debuted on",
            "The rights to show {} are owned by",
        ),
        ("runs on", "can be seen on"),
        ("network is",),
        "{} broadcasts",
    ),
    Relation(
        "orig_lang",
        "language",
        words.LANGUAGES,
        (
            "The original language of {} is",
            "{} was written in",
            "{} was filmed in",
            "The actors in {} speak",
            "{} is a series in",
            "The dialogue of {} is in",
            "The script of {} was written in",
            "The language spoken in {} is",
            "{} was first recorded in",
            "The words of {} are in",
        ),
        ("is performed in", "is sung in"),
        ("original language is",),
        "{} is the original language of",
    ),
    Relation(
        "in_country",
        "country",
        words.COUNTRIES,
        (
            "The city of {} is located in",
            "{} is a city in",
            "{} lies in",
            "The country of {} is",
            "The region around {} belongs to",
            "Trains to {} go through",
            "The mayor of {} is paid by",
            "{} is governed by",
            "On the map, {} is found in",
            "The people of {} live in",
        ),
        ("sits in the middle of", "sends its taxes to"),
        ("country is",),
        "{} contains the city of",
    ),
)

RELATIONS: dict[str, Relation] = {relation.name: relation for relation in _ALL}

PERSONAL = ("born_in", "citizen_of", "language", "sport", "instrument", "field", "employer", "genre")

HOPS: dict[str, Hop] = {
    "born_in": Hop(
        "born_in",
        (
            "The country where {} was born is",
            "{} was born in the country of",
            "The birth country of {} is",
            "{} was born in a city in",
        ),
    ),
    "hq": Hop(
        "hq",
        (
            "The country where {} has its head office is",
            "{} is based in the country of",
            "{} is headquartered in a city in",
        ),
    ),
}
