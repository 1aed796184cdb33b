"""How likely a model finds each of several texts, in nats."""

from vishwamai import VishwamAI

model = VishwamAI.from_pretrained("vishwamai/base")
texts = ["Make 24 from 1 2 3 4.\n 2 * 1 = 2", "Make 24 from 1 2 3 4.\n 2 * 1 = 7"]
for text, score in zip(texts, model.score(texts), strict=True):
    print(f"{score.sum:9.3f}  {text!r}")
