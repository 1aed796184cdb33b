"""The usage example: a prompt in, a paragraph out, offline."""

from vishwamai import VishwamAI, VishwamAITokenizer

model = VishwamAI.from_pretrained("vishwamai/base")  # or a folder, or any HF repo id
tokenizer = VishwamAITokenizer.from_pretrained("vishwamai/base")
input_ids = tokenizer.encode("Explain the concept of machine learning:", return_tensors="jax")
outputs = model.generate(input_ids, max_length=512)
response = tokenizer.decode(outputs[0], skip_special_tokens=True)
print(response)
