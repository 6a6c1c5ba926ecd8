"""The words of the pictures' world: what shapes, colours, sizes, numbers and labels are called, with synonyms."""

from __future__ import annotations

Rgb = tuple[int, int, int]

COLOURS: dict[str, Rgb] = {
    "red": (212, 36, 40),
    "orange": (246, 128, 28),
    "yellow": (252, 216, 56),
    "green": (44, 158, 62),
    "blue": (40, 96, 216),
    "purple": (134, 58, 184),
    "pink": (246, 138, 190),
    "white": (248, 248, 248),
}
BACKGROUNDS: dict[str, Rgb] = {
    "black": (22, 22, 26),
    "gray": (118, 118, 122),
    "navy": (18, 24, 78),
    "teal": (14, 104, 112),
    "brown": (92, 58, 34),
    "beige": (232, 218, 186),
}
CLASHES: dict[str, frozenset[str]] = {  # colours that are hard to see on a background
    "black": frozenset(),
    "gray": frozenset(),
    "navy": frozenset({"blue", "purple"}),
    "teal": frozenset({"green", "blue"}),
    "brown": frozenset({"red", "purple"}),
    "beige": frozenset({"white", "yellow"}),
}
INKS: dict[str, Rgb] = {"black": (20, 20, 24), **COLOURS}  # of letters on signs

SIZES = ("small", "medium", "large")
SIZE_WORDS = (("small", "medium", "large"), ("little", "medium-sized", "big"), ("tiny", "mid-sized", "huge"))
LARGER = ("larger", "bigger")
SMALLER = "smaller"
LARGEST = ("largest", "biggest")
SMALLEST = "smallest"

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
EMOJI = (  # single-word CLDR short names; emoji.png holds them in this order
    "sun", "cloud", "umbrella", "house", "key", "bell", "mushroom", "bird",
    "anchor", "airplane", "crown", "snail", "guitar", "envelope", "sailboat", "tulip",
)  # fmt: skip
NOUNS = (*SHAPES, *EMOJI)
NOUN_WORDS: dict[str, tuple[str, ...]] = {
    **{noun: (noun,) for noun in NOUNS},
    "circle": ("circle", "disc"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus"),
}
GENERIC_SHAPES = ("shape", "figure", "object", "thing")
GENERIC_EMOJI = ("symbol", "icon", "object", "thing")

ROWS = (("top", "first", "upper"), ("middle", "second", "center"), ("bottom", "third", "lower"))
COLUMNS = (("left", "first", "left-hand"), ("middle", "second", "center"), ("right", "third", "right-hand"))
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
ORDINALS = ("first", "second", "third", "fourth", "fifth")

# What is written on signs, receipts, charts and tables. No word stands in two of the lists of one kind of picture.
_SIGN_WORDS = """
OPEN CLOSED EXIT ENTRY STOP SLOW PARK SALE HOTEL BAR CAFE BANK BAKERY SCHOOL LIBRARY MUSEUM STATION AIRPORT HARBOR
BEACH RIVER BRIDGE TUNNEL TOWER CASTLE GARDEN FOREST FARM MARKET SHOP STORE OFFICE CLINIC PHARMACY DENTIST POLICE
FIRE WATER POWER DANGER CAUTION WARNING PRIVATE PUBLIC STAFF VISITOR PARKING TAXI BUS TRAIN TRAM FERRY METRO BIKE
TRUCK GARAGE FUEL WASH CINEMA THEATER MUSIC DANCE BOOKS TOYS SHOES FLOWERS FRUIT FISH MEAT CHEESE BREAD PIZZA PASTA
SOUP SALAD LUNCH DINNER COFFEE TEA JUICE ICE CREAM SUGAR HONEY NORTH SOUTH EAST WEST LEFT RIGHT UP DOWN AHEAD BACK
FRONT START FINISH TICKETS INFO HELP TOILET LADIES GENTS SHOWER POOL GYM SAUNA SPA HAIR NAILS REPAIR RENTAL TRAVEL
TOURS CAMPING LODGE VILLA STUDIO GALLERY PRINT PHOTO COPY POST PRESS NEWS RADIO QUIET SILENCE PUSH PULL RING KNOCK
WAIT WALK RUN SWIM CLIMB TURN MERGE YIELD DETOUR ROAD STREET AVENUE LANE SQUARE PLAZA MALL CENTER CORNER HILL LAKE
VALLEY ISLAND CANYON DESERT JUNGLE PRAIRIE CREEK FALLS WINTER SUMMER SPRING AUTUMN MONDAY FRIDAY SUNDAY WELCOME
HELLO GOODBYE THANKS PLEASE SORRY LOVE PEACE HOPE DREAM SMILE LUCKY HAPPY GOLDEN SILVER ROYAL GRAND CITY TOWN
VILLAGE HOME HOUSE FLAT ROOM FLOOR LEVEL GATE DOOR STAIRS LIFT
"""
SIGN_WORDS = tuple(_SIGN_WORDS.split())
SIGN_PREFIXES = ("NO", "NEW", "OLD", "BIG", "OUR", "THE", "MY", "FREE", "BEST", "RED", "LAST", "NEXT")
TRADES = ("CAFE", "BAR", "SHOP", "BANK", "HOTEL", "BOOKS", "TOYS", "SHOES", "PIZZA", "MUSIC", "TAXI", "FARM", "GYM")
ONSETS = ("B", "D", "F", "G", "H", "K", "L", "M", "N", "P", "R", "S", "T", "V", "W", "Z", "BR", "GR", "ST", "TR")
NUCLEI = ("A", "E", "I", "O", "U")
CODAS = ("", "", "", "N", "R", "L", "S", "X", "K", "M")

_ITEMS = """
apple bread butter cake candy cheese coffee cookie cream egg fish flour grape ham honey jam juice lemon melon milk
nut oil olive onion pasta peach pear pepper pizza plum rice salad salt soap soup sugar tea tomato water yogurt
"""
ITEMS = tuple(_ITEMS.split())
TOTAL = "total"
CHART_LABELS = (
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug"),
    ("K", "L", "M", "N", "P", "R", "S", "T"),
    ("Q1", "Q2", "Q3", "Q4"),
    ("cat", "dog", "cow", "hen", "pig", "fox", "owl"),
    ("car", "bus", "van", "tram", "bike", "boat"),
)
CHART_TITLES = ("SALES", "RAIN", "VOTES", "COST", "SCORE", "STOCK", "VISITS", "HOURS", "GOALS", "TREES")
TABLE_ROWS = ("Ann", "Ben", "Eva", "Ian", "Joe", "Kim", "Leo", "Mia", "Ned", "Pam", "Roy", "Sue", "Tom", "Zoe")
TABLE_COLUMNS = (
    ("won", "lost", "tied"),
    ("paid", "due", "net"),
    ("age", "rank", "size"),
    ("pens", "cups", "hats"),
    ("art", "gym", "lab"),
)


def plural(noun: str) -> str:
    """`squares`, `crosses`, `berries`."""
    if noun.endswith(("s", "x", "sh", "ch")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def with_article(phrase: str) -> str:
    """`a red square`, `an orange star`."""
    return ("an " if phrase[0] in "aeiou" and phrase != "one" else "a ") + phrase


def american(colour: str) -> str:
    """The canonical spelling of a colour word."""
    return "gray" if colour == "grey" else colour
