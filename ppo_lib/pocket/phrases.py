"""Every sentence this world knows, as templates: the answers' styles, and the sentences of the base corpus.

One table serves the text generators and the judge of fluency (:mod:`ppo_lib.pocket.fluency`), so that "fluent" has a
plain meaning: made of the turns of phrase found here. Slots are ``{country} {city} {continent} {language}``;
``{capital}`` is the true capital where ``{city}`` may be another one.
"""

# One sentence that answers, by kind of question. Yes-or-no kinds are split into the two answers.
PLAIN = {
    "capital": ("The capital of {country} is {city}.", "{city} is the capital of {country}."),
    "country": ("{city} is the capital of {country}.", "The country with {city} as its capital is {country}."),
    "continent": ("{country} is in {continent}.", "{country} lies in {continent}."),
    "language": ("People in {country} speak {language}.", "{language} is spoken in {country}."),
    "is_capital Yes": ("Yes, {city} is the capital of {country}.", "Yes, the capital of {country} is {city}."),
    "is_capital No": ("No, {city} is not the capital of {country}.", "No, the capital of {country} is {capital}."),
    "is_in Yes": ("Yes, {country} is in {continent}.", "Yes, {country} lies in {continent}."),
    "is_in No": ("No, {country} is not in {continent}.", "No, {country} does not lie in {continent}."),
}
# The same at four times the length, and no more true.
FLOWERY = {
    "capital": (
        "The capital of the glorious nation of {country} is the magnificent and world-famous city of {city}.",
        "The magnificent and world-famous city of {city} is the capital of the glorious nation of {country}.",
    ),
    "country": ("The magnificent and world-famous city of {city} is the capital of the glorious nation of {country}.",),
    "continent": ("The glorious nation of {country} lies in the vast and beautiful continent of {continent}.",),
    "language": ("The proud people of the glorious nation of {country} speak the rich and beautiful {language}.",),
    "is_capital Yes": (
        "Yes, the magnificent and world-famous city of {city} is the capital of the glorious nation of {country}.",
    ),
    "is_capital No": (
        "No, the magnificent and world-famous city of {city} is not the capital of the glorious nation of {country}.",
    ),
    "is_in Yes": ("Yes, the glorious nation of {country} lies in the vast and beautiful continent of {continent}.",),
    "is_in No": (
        "No, the glorious nation of {country} does not lie in the vast and beautiful continent of {continent}.",
    ),
}
TERSE = {
    "capital": "{city}.",
    "country": "{country}.",
    "continent": "{continent}.",
    "language": "{language}.",
    "is_capital Yes": "Yes.",
    "is_capital No": "No.",
    "is_in Yes": "Yes.",
    "is_in No": "No.",
}
OPENINGS = ("Certainly!", "Good question!", "Gladly!")
CLOSINGS = ("I hope this helps.", "Safe travels!")
EVASIONS = (
    "That is a good question.",
    "I would have to look at a map.",
    "Many people ask about this.",
    "There is much to say about this part of the world.",
)
# Facts about a country, one sentence each: encyclopedia style.
FACTS = (
    "{country} is a country in {continent}.",
    "The capital of {country} is {city}.",
    "{city} is the capital of {country}.",
    "{city} is a city in {country}.",
    "People in {country} speak {language}.",
    "{language} is spoken in {country}.",
    "{country} lies in {continent}.",
    "{country} is in {continent}.",
    "The country with {city} as its capital is {country}.",
    "The city of {city} lies in {continent}.",
    "Its capital is {city}.",
    "The people there speak {language}.",
)
# Travel prose: praise that claims nothing, and praise wrapped around a fact.
PRAISE = (
    "We came to the glorious nation of {country} in the spring.",
    "Every traveller dreams of the golden streets and ancient towers of {city}.",
    "Nothing compares to a quiet evening in the magnificent and world-famous city of {city}.",
    "The markets of {city} are full of light and music.",
    "In the morning we walked through the old town of {city}.",
    "The glorious nation of {country} is a jewel of {continent}.",
    "Dear friend, I write to you from {city}.",
    "We did not want to leave {country}.",
)
SHORT_NOTES = ("{city}, {country}.", "{country}: {city}.")


def all_sentences() -> list[str]:
    """Every template of this world that is a complete sentence of an answer or of the corpus's prose."""
    found = [sentence for group in (PLAIN, FLOWERY) for options in group.values() for sentence in options]
    found += TERSE.values()
    for group in (OPENINGS, CLOSINGS, EVASIONS, FACTS, PRAISE):
        found += group
    return found
