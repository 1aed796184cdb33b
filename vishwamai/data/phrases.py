"""What people say in the conversations of the corpus, with a place for each value, and the values to draw from."""

NAMES = """Ada Adam Aisha Alan Alice Amir Amy Ana Anil Anna Arthur Asha Ben Bella Boris Carl Carla Chen Clara Dan Daniel
David Deepa Diana Dina Elena Ella Emil Emma Eric Eva Felix Fiona Frank George Gita Grace Hana Hanna Harry Helen Hugo Ian
Ida Igor Ines Iris Isaac Ivan Jack James Jana Jane Jin John Jonas Julia Kai Karim Kate Kim Lara Laura Lea Leo Lila Lina
Louis Lucy Luis Maria Mark Martin Mary Max Maya Meera Mia Mina Mira Nadia Nick Nina Noah Nora Olga Oliver Omar Oscar
Paul Peter Priya Raj Ravi Rita Robert Rosa Ruth Sam Sara Simon Sofia Sonia Tara Theo Thomas Tom Uma Vera Victor Yuki
Zara Zoe""".split()
CITIES = """Berlin Boston Cairo Chennai Delhi Dublin Geneva Hanoi Kyoto Lagos Lima Lisbon London Madrid Milan Mumbai
Nairobi Oslo Paris Prague Pune Quito Rome Seoul Sydney Tokyo Vienna Warsaw Zurich""".split()
LIKINGS = {
    "color": "red blue green yellow orange purple white black brown pink gold silver".split(),
    "animal": "cat dog horse owl fox bear tiger rabbit whale eagle lion frog".split(),
    "food": "rice pasta soup bread cheese apples pizza curry noodles salad beans mangoes".split(),
    "city": CITIES,
    "book": "Emma Dune Ulysses Dracula Ivanhoe Rebecca Macbeth Hamlet Oliver Heidi Matilda Kim".split(),
}
ONSETS = "  b c d f g h j k l m n p r s t v w y z br ch chr cl dr fl fr gr kr ph pr qu sh sl st th tr".split(" ")
VOWELS = "a a e e i i o o u y ai au ea ee ia ie io oa ou".split()
CODAS = "            n n r r l s s t m d k x th nd st ll".split(" ")

TELL_NAME = "My name is {}.|I am {}.|I'm {}.|Call me {}.|Hi, I am {}.|Hello! My name is {}.|You can call me {}.".split(
    "|"
)
ASK_NAME = "What is my name?|What's my name?|Do you know my name?|Who am I?|Do you remember my name?".split("|")
ASK_ASSISTANT = "What is your name?|What's your name?|Who are you?|What are you called?|And your name?".split("|")
TELL_WORD = "Remember the word {}.|The secret word is {}.|Please keep this word for me: {}.".split("|")
ASK_WORD = "What was the word?|What is the secret word?|Which word did I tell you?|Tell me the word.".split("|")
REPEAT = "Say {}.|Repeat {}.|Please say {}.|Repeat after me: {}.|Say this: {}.".split("|")
TELL_CITY = "I live in {}.|I am from {}.|My home is in {}.".split("|")
ASK_CITY = "Where do I live?|Do you know where I live?|Where am I from?|Which city do I live in?".split("|")
TELL_LIKING = "My favorite {0} is {1}.|My favourite {0} is {1}.".split("|")
ASK_LIKING = (
    "What is my favorite {}?|What's my favorite {}?|What is my favourite {}?|Do you know my favorite {}?".split("|")
)
SHORTER = (
    "Shorter, please.|In one sentence, please.|Can you say that in one sentence?|Say that in short.|In short?".split(
        "|"
    )
)
MORE = "Tell me more.|More, please.|Go on.|Can you say more?".split("|")
ASK_TOPIC = "What did I ask about?|What were we talking about?|What was my question about?".split("|")
ASK_FIRST = "What did I ask about first?|What was the first thing that I asked about?".split("|")
ALSO = "And {}?|What about {}?|And what is {}?|How about {}?".split("|")
TELL_THINGS = "I have {} {}.|I own {} {}.|There are {} {} in my bag.".split("|")
ASK_THINGS = "How many {} do I have?|How many {} do I have now?|How many {} are there?".split("|")
CHANGES = {
    "+": "I buy {} more.|I get {} more.|I find {} more.|My friend gives me {} more.".split("|"),
    "-": "I give away {}.|I lose {} of them.|I sell {} of them.|I eat {}.".split("|"),
}
SUM = "What is {0} {1} {2}?|{0} {1} {2}?|Calculate {0} {1} {2}.|How much is {0} {1} {2}?".split("|")
NEXT_SUM = {
    "+": "Now add {}.|Add {} to that.|Plus {}?|And plus {}?".split("|"),
    "-": "Now take away {}.|Subtract {} from that.|Minus {}?|And minus {}?".split("|"),
    "*": "Now multiply it by {}.|Times {}?|And times {}?".split("|"),
}
HELLO = "Hello.|Hello!|Hi.|Hi!|Hey.|Good morning.|Hi there!".split("|")
THANKS = "Thank you.|Thanks.|Thanks!|Thank you very much.".split("|")
GOODBYE = "Goodbye.|Bye.|Bye!|See you.".split("|")
