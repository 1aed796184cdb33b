"""A question as messages, the answer as a message."""

from vishwamai import VishwamAI

model = VishwamAI.from_pretrained("vishwamai/base")
messages = [{"role": "user", "content": "Explain the concept of machine learning:"}]
reply = model.generate_chat(messages, max_new_tokens=150)
print(reply)
print(reply.usage)
