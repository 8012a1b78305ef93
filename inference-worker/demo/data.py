"""What the demo model reads while it is trained: dialogues, made at random from a seed.

About half of them come from `questions.jsonl`, where the first wording of each entry is the
canonical one. The others are out of scope: questions about anything else, answered by a sentence
that says what this model is. Without them a model of this size would answer a question about the
weather with some confident sentence about projections.
"""

import json
import pathlib
import random
import string

HERE = pathlib.Path(__file__).resolve().parent

ENTRIES = [json.loads(line) for line in (HERE / "questions.jsonl").read_text().splitlines()]

# Never trained on: the last wording of every fourth entry, to see how far other words are understood.
UNSEEN_WORDINGS = [(e["questions"][-1], e["answer"]) for e in ENTRIES[::4]]

TERM_TEMPLATES = [
    "What is {}?",
    "What's {}?",
    "Explain {}.",
    "Explain {} to me.",
    "Can you explain {}?",
    "Could you tell me what {} is?",
    "Tell me about {}.",
    "What does {} mean?",
    "Define {}.",
    "What is meant by {}?",
    "I do not understand {}.",
    "{}?",
    "{}",
]

PREFIXES = [
    "Please: ", "Hi, ", "Hello! ", "Hey, ", "Quick question: ", "I have a question: ", "Excuse me, ",
    "Tell me: ", "Can you tell me: ", "Question: ", "I would like to know: ", "So, ", "And ", "Now ",
    "Okay, ", "One more thing: ", "Please answer: ", "Hi! ", "Sorry, ",
]  # fmt: skip
SUFFIXES = [" Please.", " Thanks.", " Thank you!", " please", " Please explain.", " In short.", " Briefly."]

SYSTEM_PROMPTS = [
    "You are a helpful assistant.",
    "You are a helpful, harmless and honest assistant.",
    "Answer briefly.",
    "Answer the question of the user.",
    "You are an expert on software.",
    "You are Amanda, a warm and supportive companion. Answer the user with care.",
    "You are the assistant of the Amaima system. Be precise.",
    "You are a careful analyst. Use the given material only.",
    "Be concise and friendly.",
    "You are a concise assistant. The user's name is Mia.",
    "Summary of the last session: the user talked about work and sleep.",
    "Today is Tuesday. The operation is analysis.",
]

_ONLY = "I am only Amaima's small demo model"
_REAL = "For other questions, set MODEL_DIR to a real model or give a provider key."
GENERAL = f"{_ONLY} and know only this project. {_REAL}"
WEATHER = f"{_ONLY} and cannot see the weather. {_REAL}"
WRITING = f"{_ONLY} and cannot write texts. {_REAL}"
SUMS = f"{_ONLY} and cannot calculate. {_REAL}"
CODE = f"{_ONLY} and cannot write code. {_REAL}"
LANGUAGE = f"{_ONLY} and understand only English questions about this project. {_REAL}"
FILES = f"{_ONLY} and cannot read attached files. {_REAL}"
SUPPORT = (
    f"{_ONLY} and cannot give support. If you are in distress, please talk to someone you trust or "
    "call your local emergency number."
)


def words(text: str) -> list[str]:
    return [word.strip() for word in text.replace("\n", " ").split(",")]


PLACES = words(
    """France, Germany, Spain, Italy, Japan, China, India, Brazil, Canada, Mexico, Kenya, Egypt, Norway, Sweden, Poland,
    Turkey, Peru, Chile, Cuba, Ghana, Nepal, Vietnam, Thailand, Iceland, Ireland, Greece, Portugal, Austria, Hungary, Finland,
    Australia, New Zealand, South Africa, Argentina, Morocco, Paris, London, Berlin, Madrid, Rome, Tokyo, Oslo, Vienna, Prague,
    New York, Boston, Chicago, Seattle, Toronto, Sydney, Mumbai, Cairo, Lagos, Lima, Zurich, Hamburg, Munich, Lisbon, Dublin"""
)
THINGS = words(
    """the moon, the sun, a black hole, gravity, a volcano, photosynthesis, democracy, inflation, a mortgage, a violin, the stock
    market, a rainbow, an earthquake, evolution, an atom, a molecule, DNA, a virus, the brain, a heart attack, a cat, a dog, an elephant,
    a whale, a dinosaur, bread, pizza, coffee, green tea, chocolate, cheese, a bicycle, a car engine, an aeroplane, a ship, a bridge,
    the Roman Empire, the French Revolution, the Second World War, the Renaissance, Buddhism, philosophy, ethics, love, happiness,
    football, chess, tennis, cricket, yoga, a marathon, jazz, opera, hip hop, a symphony, impressionism, a sonnet, a novel, Hamlet,
    Harry Potter, Star Wars, the Bible, the Mona Lisa, quantum mechanics, relativity, a laser, a magnet, electricity, a battery, a solar panel,
    nuclear power, climate change, plastic, gold, an electron, calculus, a prime number, a matrix, the golden ratio, pi, a triangle, blockchain,
    Bitcoin, Kubernetes, Redis, Kafka, MongoDB, Python, Java, JavaScript, Linux, Windows, a compiler, machine learning, a transformer,
    a neural network, quantum computing, a smartphone, the internet, Bluetooth, a microwave, a vaccine, aspirin, vitamin C, diabetes, sleep, a dream,
    the liver, a blood test, a tax return, a pension, a visa, a passport, unemployment, the United Nations, a parliament, a constitution,
    a lawyer, a contract, copyright, a patent, marketing, a balance sheet, a startup, a monad, recursion, a hash map, Docker, git, an API, HTML, CSS, React,
    a pointer, a mutex, a linked list, TCP, a VPN, a firewall, a cookie recipe, a garden, a rose, an oak, a mushroom, a tomato, rice, pasta, soup, wine,
    beer, a hotel, a train, a mountain, the ocean, a river, a desert, the Amazon, the North Pole, Mars, Jupiter, a comet, a galaxy, the Big Bang"""
)
PEOPLE = words(
    """Albert Einstein, Marie Curie, Isaac Newton, Napoleon, Cleopatra, Mozart, Beethoven, Shakespeare, Goethe, Picasso, Leonardo da Vinci,
    Barack Obama, Nelson Mandela, Gandhi, Ada Lovelace, Alan Turing, Charles Darwin, Aristotle, Plato, Homer, Taylor Swift, Madonna, Elvis Presley,
    the Queen of England, the president of the United States, the Pope, Lionel Messi, Serena Williams, Linus Torvalds, Bill Gates, Steve Jobs,
    my neighbour, the king of Spain, the chancellor, the mayor of my town, the best singer, the richest person"""
)
SUBJECTS = words(
    """autumn, the sea, my cat, a lonely robot, spring, love, rain, a dragon, friendship, the stars, my grandmother, coffee, a knight, winter,
    a journey, the city at night, a little bird, hope, a lost key, the mountains, a birthday, a wedding, a new job, climate change, football"""
)
TASKS = words(
    """sorts a list, reverses a string, computes Fibonacci numbers, reads a CSV file, finds prime numbers, parses JSON, downloads a web page, counts words,
    merges two lists, checks a palindrome, sends an e-mail, draws a circle, solves a sudoku, computes a factorial, removes duplicates, opens a file"""
)
LANGUAGES = words("Python, Java, JavaScript, C, C++, Go, Rust, TypeScript, PHP, Ruby, Kotlin, Swift, SQL, Bash, Haskell")
TONGUES = words("French, German, Spanish, Italian, Latin, Japanese, Chinese, Russian, Arabic, Turkish, Greek, Dutch")
ADJECTIVES = words("best, biggest, smallest, oldest, fastest, tallest, most famous, cheapest, highest, longest, deepest, hottest")
KINDS = words("city, river, animal, building, car, phone, restaurant, book, film, song, country, lake, planet, hotel, laptop, bird, tree, team")
ACTIONS = words(
    """bake bread, tie a tie, change a tyre, learn the guitar, lose weight, get rich, cook pasta, fix my bike, train a dog, write a letter, buy a house,
    remove a stain, paint a wall, grow tomatoes, make friends, sleep better, stop smoking, learn Spanish, find a job, save money, start a car,
    get to the airport, open a jar, clean a window, repair a roof, plan a trip, invest money, draw a horse, play poker, swim faster, run a marathon,
    file my taxes, boil an egg, build a table, fly a kite, hold a speech, catch a fish, cut my hair, wash wool, sell my car"""
)

SINGLE = words(
    """Why is the sky blue?, Why is grass green?, What changed since March?, What is the meaning of life?, Who won the match yesterday?, What time is it?, What day is it today?,
    How old is the universe?, How far is the moon?, How many people live on Earth?, What should I eat tonight?, Tell me a joke, Tell me something funny, Do you love me?,
    Are you alive?, Can you see me?, What is your favourite colour?, Do you like music?, Where is my phone?, Where is the bathroom?, Which ports does Italy have?,
    Which harbour is the largest?, How are cars made?, How are diamonds made?, What happens when a star dies?, What happens when a king dies?, What happens when we die?,
    How does a plane fly?, How does a fridge work?, How does the heart work?, How long may a cat sleep?, How long is a football match?, How many legs has a spider?,
    Who may vote?, Who wrote Faust?, Who invented the telephone?, Who painted the Mona Lisa?, When did Rome fall?, When is Easter?, When does the train leave?,
    What happens after the war?, What does my name mean?, What does a lawyer earn?, What does the fox say?, Is there life on Mars?, Is there a doctor?, Is coffee healthy?,
    Is water wet?, Can dogs eat grapes?, Can I drink the water?, Can you drive?, Can I run with a cold?, How do I start a company?, How do I start a fire?, How do I log my hours?,
    How do I cancel my flight?, How do I delete my browser history?, How do I open a bank account?, How do I register a car?, How do I stop a nosebleed?, How long is a mile?,
    Which language is spoken in Brazil?, Which team won?, Which shoes should I buy?, Which tests does a doctor do?, What is in a burger?, What is in my bag?, What is the news today?,
    Book me a table, Order a taxi, Play some music, Set an alarm for seven, Remind me tomorrow, Call my mother, Send an email to Bob, Open the window, Turn on the light,
    Summarise this article, Summarize the minutes of the meeting, Analyse the sales figures, Make a plan for my week, Compare the two contracts, Review my essay,
    Give me a recipe for soup, Recommend a film, Recommend a book, Suggest a name for my cat, What gift should I buy?, Plan a trip to Rome, What is new?, What happened today?,
    Who is your favourite actor?, Will it be a good year?, Will I be rich?, Should I quit my job?, Should I marry her?, Why do cats purr?, Why do we dream?, Why is the sea salty?,
    Why do leaves fall?, Why am I here?, Why is my computer slow?, Why is ice slippery?, Why did the Titanic sink?, How was your day?, How tall is Mount Everest?, How hot is the sun?,
    What are the main findings?, What are the key points?, What does the contract say?, What did we decide last week?, What are our sales in June?, Who attended the meeting?,
    Explain this picture, Draw a cat, Make an image of a house, Sing a song, Roll a die, Flip a coin, Pick a number, Guess my age, Count to ten, Spell banana, Say hello in five languages,
    Which stock should I buy?, How much is a euro?, What is the price of gold?, Where can I park?, Where is the nearest pharmacy?, Where do penguins live?, Where is Wally?"""
)
SUPPORT_LINES = words(
    """I feel sad, I am lonely, We argued again, I had a bad day, My boyfriend left me, I cannot sleep, I am so tired of everything, I feel anxious, I hate my job,
    My mother is ill, Nobody likes me, I feel empty, I am stressed, I want to give up, I am afraid, I cried all night, My father died, I do not want to live any more, I want to hurt myself,
    I drank too much again, My husband hit me, I am depressed, I need someone to talk to, Life is hard, I feel worthless, I am worried about tomorrow, I had a panic attack,
    My friend does not call me, I lost my job, I feel better today, I went for a walk, Work was fine today, My sister is angry with me, I am proud of myself, I am overwhelmed"""
)
FOREIGN = [
    "Was ist eine Projektion?", "Wie spät ist es?", "Wie wird das Wetter morgen?", "Guten Tag, wie geht es dir?", "Schreibe ein Gedicht.", "Wer bist du?", "Was kannst du?",
    "Warum ist der Himmel blau?", "Ich verstehe das nicht.", "Wie starte ich das System?", "Wo ist der Bahnhof?", "Erzähl mir einen Witz.",
    "Bonjour, comment ça va ?", "Quel temps fait-il ?", "Qui es-tu ?", "Quelle est la capitale de la France ?", "Je ne comprends pas.", "Où est la gare ?", "Écris un poème.",
    "¿Cómo estás?", "¿Qué es esto?", "Hola, buenos días", "¿Dónde está la biblioteca?", "¿Quién eres?", "Escribe un poema.", "No entiendo nada.", "¿Qué hora es?",
    "Come stai?", "Chi sei?", "Dove si trova il museo?", "Che ore sono?", "Buongiorno a tutti", "Hoe gaat het met je?", "Wat is dit?", "Waar is het station?",
    "Привет, как дела?", "Что это такое?", "Кто ты?", "Какая сегодня погода?", "こんにちは", "あなたは誰ですか", "天気はどうですか", "你好", "你是谁?", "今天天气怎么样?",
    "مرحبا", "كيف حالك؟", "안녕하세요", "당신은 누구입니까?", "Merhaba, nasılsın?", "Sen kimsin?", "Γεια σου", "Τι κάνεις;", "Cześć, jak się masz?", "Kim jesteś?", "Olá, tudo bem?", "Quem é você?",
    "Hej, hur mår du?", "Vad är detta?", "Hvordan har du det?", "Salve, quid agis?", "Ahoj, jak se máš?", "नमस्ते", "आप कैसे हैं?", "שלום", "Xin chào", "สวัสดี",
]  # fmt: skip
FILE_NAMES = words("minutes.pdf, report.txt, notes.md, data.csv, letter.txt, plan.json, main.py, contract.pdf, sales.csv, log.txt")
FILE_QUESTIONS = words(
    """Summarise the file, What changed since March?, What does this file say?, Summarize this document, What are the main points?, Read the attached file,
    Explain this file, Who attended?, Find the mistakes, What is in the file?, Translate the text, Compare the files, Give me the key figures, Is there a deadline?"""
)

# Never trained on. They share some words and forms with the lists above, as a stranger's questions will.
UNSEEN_OUT_OF_SCOPE = [
    "Why is the ocean blue?", "What is the capital of Belgium?", "How will the weather be in Geneva on Sunday?", "Write a poem about the desert.", "What is 23 + 58?",
    "Write a Perl script that renames files.", "Who was Johann Sebastian Bach?", "How do I make pancakes?", "What is a kangaroo?", "Tell me a story about a pirate.",
    "Who discovered America?", "How many bones does a human have?", "Can you recommend a good restaurant?", "What is the fastest bird?", "Translate 'good night' into Polish.",
    "What is the square root of 144?", "Explain the rules of baseball.", "What is a solar eclipse?", "I am unhappy with my life.", "Is tomorrow a holiday?",
    "How do I knit a scarf?", "What is the population of Denmark?", "When was the Eiffel Tower built?", "Write a cover letter for a job as a nurse.", "Which dinosaur was the largest?",
    "Wie heißt du?", "Où habites-tu ?", "¿Cuántos años tienes?", "Why do onions make me cry?", "What is a good name for a hamster?",
    "How do I get a driving licence?", "Who is the prime minister of Japan?", "Explain string theory.", "xqzt blorp wimble", "Give me three ideas for dinner.",
    "What is the boiling point of water?", "Implement quicksort in Scala.", "What does the word serendipity mean?", "Can penguins fly?", "My dog died yesterday.",
    "Summarise the plot of Macbeth.", "What is on television tonight?", "Is it going to rain?", "How far is it from Paris to Rome?",
]  # fmt: skip


def entry_question(rng: random.Random, index: int) -> str:
    entry = ENTRIES[index]
    known = entry["questions"][:-1] if index % 4 == 0 else entry["questions"]
    roll = rng.random()
    if roll < 0.25:
        return known[0]
    if "term" in entry and roll < 0.45 and entry["term"] != "you":
        return rng.choice(TERM_TEMPLATES).format(entry["term"])
    return rng.choice(known)


def nonsense(rng: random.Random) -> str:
    roll = rng.random()
    if roll < 0.3:
        return "".join(rng.choice(string.ascii_lowercase + "    ") for _ in range(rng.randint(1, 30)))
    if roll < 0.5:
        syllables = ["ba", "zor", "lim", "qua", "fen", "tri", "dop", "gul", "sne", "vix", "mor", "pel", "ock", "ish", "ram", "tul"]
        return " ".join("".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(rng.randint(1, 4)))
    if roll < 0.7:
        pool = " ".join(THINGS + SINGLE + ACTIONS + SUBJECTS).split()
        return " ".join(rng.choices(pool, k=rng.randint(1, 7)))
    if roll < 0.8:
        return "".join(chr(rng.choice([rng.randint(33, 126), rng.randint(0xA1, 0x24F), rng.randint(0x400, 0x4FF), rng.randint(0x4E00, 0x9FFF), rng.randint(0x1F300, 0x1F6FF)])) for _ in range(rng.randint(1, 10)))
    if roll < 0.9:
        return rng.choice(["?", "???", "...", "test", "asdf", "foo", "foo bar", "lorem ipsum", "1", "42", "yes", "no", "maybe", "why", "how", "what", "ok", "hm", "x", "!"])
    return str(rng.randint(0, 10 ** rng.randint(1, 9)))


def out_of_scope(rng: random.Random) -> tuple[str, str]:
    kind = rng.randrange(20)
    if kind < 3:
        return rng.choice(TERM_TEMPLATES).format(rng.choice(THINGS)), GENERAL
    if kind < 6:
        line = rng.choice(SINGLE)
        return (line if line.endswith("?") else line + rng.choice([".", "", "!"])), GENERAL
    if kind == 6:
        form = ["What is the capital of {}?", "Where is {}?", "How many people live in {}?", "Tell me about {}.", "What is {} famous for?", "How do I get to {}?", "Plan a holiday in {}.", "What is the population of {}?", "Who governs {}?", "What do people eat in {}?", "How large is {}?"]  # fmt: skip
        return rng.choice(form).format(rng.choice(PLACES)), GENERAL
    if kind == 7:
        form = ["Who was {}?", "Who is {}?", "When was {} born?", "Tell me about {}.", "What did {} do?", "How old is {}?", "Where does {} live?"]
        return rng.choice(form).format(rng.choice(PEOPLE)), GENERAL
    if kind == 8:
        form = ["What is the {} {}?", "Which {} is the {}?", "Name the {} {}.", "Where is the {} {}?"]
        return rng.choice(form).format(*(rng.sample([rng.choice(ADJECTIVES), rng.choice(KINDS)], 2))), GENERAL
    if kind in (9, 10):
        form = ["How do I {}?", "How can I {}?", "Help me to {}.", "What is the best way to {}?", "Teach me how to {}.", "Should I {}?", "Can you {}?", "Why should I {}?", "Where can I {}?", "When should I {}?"]  # fmt: skip
        return rng.choice(form).format(rng.choice(ACTIONS)), GENERAL
    if kind == 11:
        form = ["How is the weather in {}?", "Will it rain in {} tomorrow?", "What is the temperature in {}?", "What will the weather be in {} at the weekend?", "Is it sunny in {}?", "Weather in {}", "How is the weather today?", "Do I need an umbrella?", "Will it snow?", "Forecast for {}"]  # fmt: skip
        return rng.choice(form).format(rng.choice(PLACES)), WEATHER
    if kind in (12, 13):
        form = ["Write a poem about {}.", "Write a story about {}.", "Tell me a story about {}.", "Write an essay about {}.", "Write a song about {}.", "Compose a letter about {}.", "Write a haiku about {}.", "Write a speech about {}.", "Write an e-mail about {}.", "Make up a tale about {}.", "Write three sentences about {}."]  # fmt: skip
        return rng.choice(form).format(rng.choice(SUBJECTS + THINGS)), WRITING
    if kind == 14:
        a, b = rng.randint(0, 10 ** rng.randint(1, 4)), rng.randint(1, 10 ** rng.randint(1, 3))
        form = ["What is {} + {}?", "What is {} times {}?", "{} * {}", "Calculate {} - {}.", "{}+{}=?", "How much is {} divided by {}?", "What is {} percent of {}?", "Solve x + {} = {}.", "Is {} a multiple of {}?", "What is the square root of {}?", "Add {} and {}."]  # fmt: skip
        return rng.choice(form).format(a, b), SUMS
    if kind == 15:
        form = ["Write a {} function that {}.", "Write a {} program that {}.", "Give me {} code which {}.", "How do I write {} code that {}?", "Show me a {} script that {}.", "Can you code something in {} that {}?"]  # fmt: skip
        return rng.choice(form).format(rng.choice(LANGUAGES), rng.choice(TASKS)), CODE
    if kind == 16:
        if rng.random() < 0.25:
            form = ["Translate '{}' into {}.", "How do you say {} in {}?", "What is the word for {} in {}?"]
            return rng.choice(form).format(rng.choice(THINGS + ACTIONS), rng.choice(TONGUES)), GENERAL
        return rng.choice(FOREIGN), LANGUAGE
    if kind == 17:
        return rng.choice(SUPPORT_LINES) + rng.choice(["", ".", "...", "!"]), SUPPORT
    if kind == 18:
        return with_files(rng), FILES
    return nonsense(rng), GENERAL


def with_files(rng: random.Random) -> str:
    question = rng.choice(FILE_QUESTIONS + [e["questions"][0] for e in ENTRIES])
    blocks = []
    for _ in range(rng.choice([1, 1, 1, 2])):
        pool = " ".join(THINGS + SINGLE + ACTIONS).split()
        length = int(2 ** rng.uniform(1, 7))
        text = " ".join(rng.choices(pool, k=length)) if rng.random() < 0.8 else ",".join(str(rng.randint(0, 9999)) for _ in range(length // 3 + 1))
        blocks.append(f"--- File: {rng.choice(FILE_NAMES)} ---\n{text}")
    return question + "\n\nRelevant file contents:\n" + "\n\n".join(blocks)


def vary(rng: random.Random, question: str) -> str:
    """The same question as somebody else would type it."""
    if rng.random() < 0.4:
        return question
    if rng.random() < 0.4:
        question = question.rstrip("?.!")
    elif rng.random() < 0.1:
        question += rng.choice(["?", "!", " ?", "??"])
    if rng.random() < 0.2:
        question = rng.choice(PREFIXES) + (question if rng.random() < 0.5 else question[:1].lower() + question[1:])
    if rng.random() < 0.1:
        question += rng.choice(SUFFIXES)
    roll = rng.random()
    if roll < 0.35:
        question = question.lower()
    elif roll < 0.39:
        question = question.upper()
    if rng.random() < 0.12 and len(question) > 12:
        at = rng.randrange(2, len(question) - 2)
        letter = question[at]
        question = question[:at] + rng.choice(["", letter + letter, question[at + 1] + letter]) + question[at + 1 :]
    return question


def dialogue(rng: random.Random) -> list[dict]:
    """A random dialogue in the form that the chat template takes; the last message is an answer."""

    def turn():
        if rng.random() < 0.55:
            index = rng.randrange(len(ENTRIES))
            question, answer = entry_question(rng, index), ENTRIES[index]["answer"]
        else:
            question, answer = out_of_scope(rng)
        if "--- File:" not in question:
            question = vary(rng, question)
        # The chat template trims, so that an empty text would be a question without words.
        return question.strip() or "?", answer

    messages = []
    if rng.random() < 0.15:
        messages.append({"role": "system", "content": rng.choice(SYSTEM_PROMPTS)})
    for _ in range(2 if rng.random() < 0.08 else 1):
        question, answer = turn()
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return messages
