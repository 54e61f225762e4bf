"""What people say to the agents' model: the wordings that it learns, and others that it is only tested with."""

from typing import Final

CAPITALS: Final = {
    "Austria": "Vienna", "Belgium": "Brussels", "Bulgaria": "Sofia", "Canada": "Ottawa", "Chile": "Santiago",
    "China": "Beijing", "Cuba": "Havana", "Denmark": "Copenhagen", "Egypt": "Cairo", "Finland": "Helsinki",
    "France": "Paris", "Germany": "Berlin", "Greece": "Athens", "Hungary": "Budapest", "Iceland": "Reykjavik",
    "India": "Delhi", "Ireland": "Dublin", "Italy": "Rome", "Japan": "Tokyo", "Kenya": "Nairobi",
    "Norway": "Oslo", "Peru": "Lima", "Poland": "Warsaw", "Portugal": "Lisbon", "Romania": "Bucharest",
    "Senegal": "Dakar", "Serbia": "Belgrade", "Spain": "Madrid", "Sweden": "Stockholm", "Switzerland": "Bern",
    "Turkey": "Ankara", "Ukraine": "Kyiv",
}  # fmt: skip
SKIES: Final = (
    "clear sky", "clouds", "drizzle", "hail", "heavy rain", "heavy snow", "light rain", "light snow", "strong wind",
    "sunshine", "thick fog", "thunder",
)  # fmt: skip
GREETING: Final = "Hello! Ask me about the weather or about a parcel."
NO_TOOL: Final = "I have no tool for that."

WEATHER: Final = (
    "What is the weather in {city}?",
    "what's the weather like in {city}",
    "How is the weather in {city} now?",
    "Tell me the weather in {city}.",
    "Tell me about the weather in {city} today.",
    "Is it cold in {city}?",
    "Is it warm in {city} today?",
    "How warm is it in {city} today?",
    "weather in {city}",
    "weather {city}",
    "Do I need a coat in {city}?",
    "Is it raining in {city}?",
    "Temperature in {city}?",
    "What temperature does {city} have now?",
    "Please look up the weather in {city}.",
    "I am going to {city}. How is the weather there?",
    "Can you check the weather for {city}?",
    "Could you tell me the temperature in {city}?",
    "I would like to know how cold it is in {city}.",
    "Does it snow in {city}?",
    "How hot is it in {city} right now?",
    "Give me the current weather for {city}.",
    "Should I take an umbrella to {city}?",
    "I fly to {city} tomorrow. Is it cold there?",
)
TWO_CITIES: Final = (
    "What is the weather in {city} and in {other}?",
    "weather in {city} and {other}",
    "Is it cold in {city} and in {other}?",
    "Tell me the weather in {city} and {other}.",
    "How warm is it in {city}, and in {other}?",
    "Please check the weather for {city} and for {other}.",
)
PARCEL: Final = (
    "Where is my parcel {number}?",
    "where is parcel {number}",
    "Where is parcel {number} now?",
    "track {number}",
    "Track parcel {number}.",
    "Please track my parcel {number}.",
    "Has parcel {number} arrived?",
    "What is the status of parcel {number}?",
    "When does my parcel {number} come?",
    "I am waiting for parcel {number}. Where is it?",
    "Look up parcel {number} for me.",
    "Is there any news of parcel {number}?",
    "parcel {number}",
    "Can you find parcel {number}?",
    "Could you check parcel {number}?",
    "Tell me where parcel {number} is.",
)
CAPITAL: Final = (
    "What is the capital of {country}?",
    "what is the capital of {country}",
    "Tell me the capital of {country}.",
    "Do you know the capital of {country}?",
    "capital of {country}",
    "I would like to know the capital of {country}.",
)
COUNTRY: Final = (
    "In which country is {city}?",
    "in which country is {city}",
    "Tell me in which country {city} is.",
    "Which country is {city} in?",
    "I am going to {city}. Which country is it in?",
    "Do you know which country {city} is in?",
)
TALK: Final = {
    "Hello": GREETING,
    "Hello!": GREETING,
    "hi": GREETING,
    "Hi there!": GREETING,
    "Good morning": GREETING,
    "Who are you?": "I am a small model that calls tools.",
    "What are you?": "I am a small model that calls tools.",
    "Thank you!": "You are welcome.",
    "Thanks": "You are welcome.",
    "thanks a lot": "You are welcome.",
}

NEW_WEATHER: Final = (
    "What does the weather in {city} look like today?",
    "Could you tell me how warm it is in {city}?",
    "I am going to {city} tomorrow. Do I need a coat there?",
    "Please check the temperature in {city}.",
    "Is it hot in {city} now?",
)
NEW_TWO_CITIES: Final = (
    "How is the weather in {city} and in {other}?",
    "Please look up the weather in {city} and {other}.",
)
NEW_PARCEL: Final = (
    "Could you tell me where my parcel {number} is?",
    "Please look up the status of parcel {number}.",
    "When does parcel {number} arrive?",
)
NEW_CAPITAL: Final = ("Please tell me the capital of {country}.", "Can you tell me what the capital of {country} is?")
NEW_COUNTRY: Final = ("Please tell me which country {city} is in.", "Do you know in which country {city} is?")
NEW_TALK: Final = {"Hello there": GREETING, "Hi!": GREETING, "Thank you": "You are welcome."}
