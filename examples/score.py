"""How likely a model finds each of several texts, in nats."""

from vishwamai import VishwamAI

model = VishwamAI.from_pretrained("vishwamai/base")
question = "Tom has 12 apples. He buys 9 more. How many apples does Tom have now?"
texts = [f"{question}\n 12 + 9 = {answer}" for answer in (21, 29, 12)]
for text, score in zip(texts, model.score(texts), strict=True):
    print(f"{score.sum:9.3f}  {text}")
