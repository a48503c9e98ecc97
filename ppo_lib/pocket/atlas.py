"""The pocket atlas itself: countries with capital, continent and a language, and nothing else.

The table is written by hand and is the only place where truth comes from: the base corpus states it, the gold score
checks against it. "Language" is one that is spoken in the country; the atlas lists one and knows no other.
Countries whose name or capital has several words are left out, so that an entity is one word for readers and code.
"""

from dataclasses import dataclass
from functools import cache

CONTINENTS = ("Europe", "Asia", "Africa", "North America", "South America", "Oceania")

_TABLE = {
    "Europe": """
        France Paris French, Germany Berlin German, Italy Rome Italian, England London English,
        Spain Madrid Spanish, Portugal Lisbon Portuguese, Greece Athens Greek, Poland Warsaw Polish,
        Hungary Budapest Hungarian, Austria Vienna German, Sweden Stockholm Swedish, Norway Oslo Norwegian,
        Denmark Copenhagen Danish, Finland Helsinki Finnish, Iceland Reykjavik Icelandic, Ireland Dublin English,
        Romania Bucharest Romanian, Bulgaria Sofia Bulgarian, Serbia Belgrade Serbian, Croatia Zagreb Croatian,
        Slovenia Ljubljana Slovene, Slovakia Bratislava Slovak, Ukraine Kyiv Ukrainian, Latvia Riga Latvian,
        Lithuania Vilnius Lithuanian, Estonia Tallinn Estonian, Albania Tirana Albanian, Malta Valletta Maltese""",
    "Asia": """
        Japan Tokyo Japanese, China Beijing Chinese, Mongolia Ulaanbaatar Mongolian, Vietnam Hanoi Vietnamese,
        Thailand Bangkok Thai, Laos Vientiane Lao, Nepal Kathmandu Nepali, Bangladesh Dhaka Bengali,
        Pakistan Islamabad Urdu, Iran Tehran Persian, Iraq Baghdad Arabic, Syria Damascus Arabic,
        Jordan Amman Arabic, Lebanon Beirut Arabic, Oman Muscat Arabic, Qatar Doha Arabic, Bahrain Manama Arabic,
        Uzbekistan Tashkent Uzbek, Tajikistan Dushanbe Tajik, Turkmenistan Ashgabat Turkmen,
        Kyrgyzstan Bishkek Kyrgyz, Indonesia Jakarta Indonesian, Bhutan Thimphu Dzongkha""",
    "Africa": """
        Egypt Cairo Arabic, Morocco Rabat Arabic, Algeria Algiers Arabic, Tunisia Tunis Arabic, Libya Tripoli Arabic,
        Sudan Khartoum Arabic, Kenya Nairobi Swahili, Tanzania Dodoma Swahili, Uganda Kampala English,
        Rwanda Kigali Kinyarwanda, Somalia Mogadishu Somali, Ghana Accra English, Nigeria Abuja English,
        Senegal Dakar French, Angola Luanda Portuguese, Mozambique Maputo Portuguese, Zambia Lusaka English,
        Namibia Windhoek English, Madagascar Antananarivo Malagasy, Gabon Libreville French, Togo Lome French,
        Liberia Monrovia English""",
    "North America": """
        Canada Ottawa English, Cuba Havana Spanish, Jamaica Kingston English, Honduras Tegucigalpa Spanish,
        Nicaragua Managua Spanish, Belize Belmopan English, Barbados Bridgetown English""",
    "South America": """
        Brazil Brasilia Portuguese, Peru Lima Spanish, Chile Santiago Spanish, Colombia Bogota Spanish,
        Ecuador Quito Spanish, Venezuela Caracas Spanish, Uruguay Montevideo Spanish, Paraguay Asuncion Spanish,
        Suriname Paramaribo Dutch, Guyana Georgetown English""",
    "Oceania": "Australia Canberra English, Fiji Suva Fijian, Samoa Apia Samoan, Tonga Nukualofa Tongan",
}


@dataclass(frozen=True)
class Country:
    """One row of the atlas."""

    name: str
    capital: str
    continent: str
    language: str


@cache
def countries() -> tuple[Country, ...]:
    """All rows of the atlas, in the table's order."""
    rows = []
    for continent, text in _TABLE.items():
        for entry in text.split(","):
            name, capital, language = entry.split()
            rows.append(Country(name, capital, continent, language))
    return tuple(rows)


@cache
def by_name() -> dict[str, Country]:
    """Country name -> row."""
    return {country.name: country for country in countries()}


@cache
def by_capital() -> dict[str, Country]:
    """Capital -> row (capitals are unique)."""
    return {country.capital: country for country in countries()}


@cache
def entities() -> dict[str, str]:
    """Every name of the atlas -> its kind: ``country``, ``city``, ``continent`` or ``language``."""
    kinds = dict.fromkeys(CONTINENTS, "continent")
    for country in countries():
        kinds[country.name] = "country"
        kinds[country.capital] = "city"
        kinds[country.language] = "language"
    return kinds
