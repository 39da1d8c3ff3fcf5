"""Writes the instruction prompts that the package carries: everyday-tasks.jsonl, all written for this project.

Each family below is one kind of task with what it is about. Prompts ask for short answers, so that a small model
can give a whole one in a few dozen tokens. Run it after a change:

    python benchmarks/everyday_tasks.py
"""

from __future__ import annotations

import json
from pathlib import Path

TARGET = Path(__file__).parents[1] / "src/abkd/lm/data/carried/everyday-tasks.jsonl"

# A sentence with {} and what is put there.
FAMILIES: dict[str, str] = {
    "In one or two sentences, explain what {} is.": "a tide|an eclipse|inflation|a vaccine|a glacier|photosynthesis|"
    "an algorithm|a compost heap|a black hole|a mortgage|an antibiotic|a watershed|gravity|a census|an echo|"
    "a fossil|a sonnet|a thermostat|a coral reef|evaporation",
    "Name three {} and nothing else.": "rivers in Europe|musical instruments with strings|board games|"
    "vegetables that grow underground|planets|kinds of cheese|words that rhyme with 'light'|birds that cannot fly|"
    "tools a carpenter uses|things found in a kitchen drawer|reasons to take a walk|ways to save electricity|"
    "sports played with a ball|materials that float on water|jobs in a hospital|spices used in baking",
    "What is the opposite of the word '{}'? Answer with one word.": "ancient|generous|shallow|arrive|noisy|victory|"
    "expand|rough|borrow|temporary|cautious|scarce",
    "Write one friendly sentence that {}.": "thanks a neighbour for watering the plants|invites a colleague to lunch|"
    "wishes a teacher a good summer|reminds a friend to bring the tent|congratulates someone on a new job|"
    "apologises for being late to a meeting|asks a guest to take off their shoes|says goodbye to a host|"
    "offers help with moving house|tells a child that the library is closed today|"
    "asks the landlord to repair a tap|welcomes a new member to the choir",
    "Give one piece of advice to somebody who {}.": "cannot fall asleep|wants to learn to cook|is nervous before an "
    "exam|has a long train journey ahead|wants to read more books|is moving to a new city|keeps losing their keys|"
    "wants to start running|is buying a used bicycle|has to give a speech|wants to spend less money|"
    "is growing tomatoes for the first time|feels lonely at a new school|is writing a first letter of application",
    "Is this review positive or negative? Answer with one word: '{}'": "The soup was cold and the waiter forgot us.|"
    "I have never slept so well in a hotel.|The film dragged on and I left halfway.|Arrived early, works perfectly.|"
    "Broke after two days, and nobody answers.|My children ask for this book every night.|"
    "The concert was sold out for good reason: it was wonderful.|The app crashes whenever I open it.|"
    "Fresh bread, kind staff, fair prices.|Too loud, too crowded, too expensive.",
    "Rewrite this sentence in the past tense: {}": "She walks to school every day.|They sell flowers at the market.|"
    "I think about the sea.|The dog sleeps under the table.|We eat dinner at seven.|He writes long letters.|"
    "The children swim in the lake.|You speak very clearly.|The train leaves on time.|My aunt drives a red car.",
    "Rewrite this sentence more politely: {}": "Give me the report now.|You are wrong.|Be quiet.|Move your car.|"
    "I do not want to come.|Why are you so late?|Send the money today.|This food is bad.|Stop calling me.|"
    "You forgot my name.",
    "Correct the spelling and grammar: {}": "He dont like apples.|Their going to the beech.|I has two brother.|"
    "She were happy to seen me.|We was waiting since two hours.|The childs are playing.|Its a beatiful day.|"
    "You should of called me.|Me and him goes to school.|The informations are wrong.",
    "Summarise in one short sentence: {}": "The museum will be closed from Monday to Thursday because the roof is "
    "being repaired. It opens again on Friday, and tickets bought for the closed days stay valid for a month.|"
    "Bees find food by scent and by colour. When a bee returns to the hive it dances, and the dance tells the others "
    "in which direction and how far away the flowers are.|The village had one well. When it ran dry in the hot summer, "
    "everybody carried water from the river, until the new pump arrived in autumn.|Researchers asked a thousand people "
    "how they travel to work. Most of those who cycle said that they feel more awake; most drivers said that they "
    "would cycle if the roads were safer.|Tea was first drunk as a medicine. Later it became a daily drink, and ships "
    "carried it around the world.|Our cat disappeared in March. In May a family two streets away called: she had "
    "been sleeping in their shed.|The bridge was built in two years, although engineers had said that five would be "
    "needed. It still carries trains today.|A cold front will reach the coast tonight. Expect strong wind, rain and "
    "temperatures ten degrees lower than yesterday.",
    "Complete the sentence: {}": "The best thing about winter is|When the lights went out, we|A good friend is someone "
    "who|If I had a boat, I would|The old clock in the hall|Before you cross the street, you should|"
    "In the middle of the forest there was|My favourite meal is|The reason why the sky looks blue is|"
    "Every morning, the baker|After the storm, the garden|She opened the letter and",
    "Answer briefly: {}": "How many days are in a leap year?|Why do leaves change colour in autumn?|What do bees make?|"
    "Which is heavier, iron or wood?|Why does ice float?|What is a thermometer for?|How many sides has a hexagon?|"
    "Who wrote plays such as Hamlet?|What is the largest ocean?|Why do we yawn?|What is bread made of?|"
    "Which season comes after spring?|How does a sailing boat move?|What do we call frozen rain?|"
    "What is the capital of Italy?|Why do we have time zones?|How long does the earth need to go around the sun?|"
    "What is the freezing point of water in Celsius?",
    "Solve and give only the number: {}": "17 + 26|9 times 7|100 minus 37|Half of 84|A dozen and a half|"
    "Three books cost 8 each. What do they cost together?|There are 12 eggs and 5 break. How many are left?|"
    "A train leaves at 3 and arrives at 7. How many hours does it take?|60 divided by 4|The next number after 2, 4, 8, "
    "16|15 percent of 200|Six pairs of shoes are how many shoes?",
    "Translate into Spanish: {}": "Good morning.|Where is the station?|Thank you very much.|I would like a coffee.|"
    "The house is big.|My name is Anna.|See you tomorrow.|How much does it cost?",
    "Write a short poem of two lines about {}.": "rain|a lighthouse|the first snow|an old dog|a train at night|"
    "the moon|bread|a sleepy cat|spring|the sea|a lost glove|a quiet library",
    "Write a Python expression that {}.": "adds the numbers in a list called xs|gives the length of a string s|"
    "checks whether n is even|reverses a list called items|joins the words in a list with spaces|"
    "gives the largest value in a list|turns a string s into capital letters|counts the letter 'a' in a string s|"
    "squares the number x|takes the first three items of a list",
    "Which word does not belong, and why? {}": "apple, pear, carrot, plum|chair, table, sofa, spoon|dog, cat, oak, "
    "horse|red, blue, loud, green|violin, drum, cello, guitar|Monday, March, Friday, Sunday|boat, car, bus, bridge|"
    "copper, iron, water, gold",
    "Sort these into two groups, with a name for each: {}": "lion, rose, tulip, wolf|milk, hammer, saw, juice|"
    "Paris, Brazil, Rome, India|winter, hot, summer, cold|sparrow, trout, eagle, salmon|run, green, jump, yellow|"
    "piano, baker, flute, doctor|ice, steam, snow, fog",
    "Pick out the place named in this sentence: {}": "We spent the weekend in Lisbon with old friends.|The parcel was "
    "sent from Toronto on Tuesday.|My uncle has a farm near Nairobi.|The ship sailed from Bergen at dawn.|"
    "She studied medicine in Prague.|It rained all week in Dublin.|The team flew to Lima for the final.|"
    "He was born in Kyoto in 1950.",
    "Describe {} in one sentence, for somebody who has never seen one.": "a bicycle|a snowman|an umbrella|a piano|"
    "a lighthouse|a zipper|a windmill|a hedgehog|a market|a candle|a bridge|an escalator|a kite|a library",
    "Suggest a title for {}.": "a story about a boy who finds a map|a book on growing herbs at home|a song about "
    "leaving home|a film about two rival bakers|an article on sleeping well|a poem about autumn|a podcast on old maps|"
    "a talk about saving water|a photo of a harbour at sunrise|a club for people who repair things",
    "Give one advantage and one disadvantage of {}.": "living in a big city|working from home|having a dog|travelling "
    "by train|reading on a screen|a very early start|cooking for yourself|large families|online shopping|cycling to "
    "work|school uniforms|a small garden",
    "Write the next step: {}": "To make tea, first boil the water.|To plant a seed, first dig a small hole.|To send a "
    "letter, first write the address.|To paint a wall, first cover the floor.|To bake bread, first mix flour, water "
    "and yeast.|To change a light bulb, first switch off the power.|To wash a window, first wipe off the dust.|"
    "To make an omelette, first crack the eggs.",
}


def tasks() -> list[str]:
    """All prompts, families mixed, the same order every time."""
    columns = [[family.format(part) for part in parts.split("|")] for family, parts in FAMILIES.items()]
    longest = max(len(column) for column in columns)
    return [column[row] for row in range(longest) for column in columns if row < len(column)]


def main() -> None:
    found = tasks()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text("".join(json.dumps({"instruction": task}) + "\n" for task in found), encoding="utf-8")
    print(f"{TARGET}: {len(found)} tasks")


if __name__ == "__main__":
    main()
