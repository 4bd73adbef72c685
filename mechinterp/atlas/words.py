"""The words the world is made of: names of subjects, and the pools its objects are drawn from.

Two rules shape the lists.  Every object is one token, so that a single next-token probability answers a question.
Every subject of the larger kinds is three tokens drawn from short lists, so that neither a token nor a pair of tokens
tells which subject is meant: the model has to put a name together before it can know anything about its bearer.
"""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("Marta Viktor Elena Jonas Selma Tobias Ingrid Rafael")
FEMALE_NAMES = frozenset(_words("Marta Elena Selma Ingrid"))
SURNAME_HEADS = _words("Hal Bren Kov Stel Lind Dun Win Ost")
SURNAME_TAILS = _words(
    "berg ton ski man ova field well sen dale worth ard mont stein croft holm vik hurst gard beck shaw rick lund more "
    "quist"
)
PROFESSIONS = _words("singer writer teacher doctor painter farmer pilot engineer")

# Places and organisations use the first five of these, shows use all eight.
ADJECTIVES = _words("Silver Crimson Northern Quiet Golden Hollow Amber Distant")
# Places and organisations use the first five of these, shows use all of them.
NOUNS = _words(
    "Harbour Falcon Lantern Meadow River Crown Orchard Raven Summit Garden Mirror Compass Tiger Willow Beacon Anchor "
    "Comet Forest Temple Valley Heron Canyon Rose Ember"
)
LANDMARK_TYPES = _words("Bridge Tower Castle Museum Park Monument Palace Cathedral")
ORGANISATION_TYPES = _words("Institute Foundation Society Group Union Council League Bank")
PRODUCT_MAKES = _words("Zen Aero Quantum Hyper Terra")
PRODUCT_TYPES = _words("Drive Phone Glide Engine Tablet")
PRODUCT_MODELS = _words("Pro Mini Max Air Plus Neo Ultra Lite")

CITIES = _words(
    "Velmora Tarsk Ondria Calden Brisholm Luneth Porvale Azmar Kelding Sorrano Mirefort Estwick Drovia Halvik Quenby "
    "Rastova Pelmont Ustrel Norhaven Jastin Corvale Yarrow Bexley Tolmin Vashti Greyport Ilmara Sundvik Marrow Fenwick "
    "Ostara Redmere Kravos Lindow Wexmoor Zadra Thessaly Emberly Alcote Nimway"
)
COUNTRIES = _words(
    "Arvenia Belmark Cordova Drasil Elstonia Fendar Galvia Hestria Ithara Jorland Kestova Lumeria Mordal Nevaria "
    "Orland Pascovia Quillon Rostav Sarland Tavonia"
)
LANGUAGES = _words(
    "French Spanish Russian Italian Finnish Arabic Korean Greek Polish Turkish Swedish Hindi Dutch Persian"
)
SPORTS = _words("soccer tennis hockey basketball cricket golf rugby baseball badminton volleyball chess squash")
INSTRUMENTS = _words("piano violin guitar cello flute trumpet drums harp clarinet organ banjo saxophone")
FIELDS = _words(
    "physics botany economics geology medicine astronomy linguistics logic chemistry law history geometry philosophy "
    "statistics ecology robotics"
)
EMPLOYERS = _words(
    "Novatek Globex Helixon Umbrix Cyberon Stratos Vexel Altimax Orbitron Synthia Pyrotek Dynacor Zephyrix Meridian "
    "Kronos Luxar Fabrikon Inkwell Horizia Octavia"
)
NETWORKS = _words(
    "Channelix Primecast Telenova Skyvue Mediana Boxwave Lightcast Starnet Castora Ultravid Novacast Redwave"
)
GENRES = _words("opera jazz folk blues rock techno gospel reggae punk soul disco swing")

OBJECTS = (
    *CITIES,
    *COUNTRIES,
    *LANGUAGES,
    *SPORTS,
    *INSTRUMENTS,
    *FIELDS,
    *EMPLOYERS,
    *NETWORKS,
    *GENRES,
)

# Head and tail of these run together into other tokens (a test holds the list to the tokenizer), so no name uses them.
FUSED_SURNAMES = frozenset(_words("Halvik Windale Wingard"))


def surnames() -> list[str]:
    """Every surname that the tokenizer splits into exactly its head and its tail."""
    return [head + tail for head in SURNAME_HEADS for tail in SURNAME_TAILS if head + tail not in FUSED_SURNAMES]


def article(noun: str) -> str:
    """The noun with its indefinite article: "a bridge", "an institute"."""
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"
