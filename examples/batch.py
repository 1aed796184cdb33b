"""Several prompts of different lengths at once: sampled, the same for the same seeds however they are batched."""

from vishwamai import VishwamAI

model = VishwamAI.from_pretrained("vishwamai/base")
prompts = ["Make 24 from 1 2 3 4.", "Tom has 12 apples. He buys 9 more. How many apples does Tom have now?"]
together = model.complete(prompts, max_new_tokens=120, do_sample=True, temperature=0.7, top_p=0.9, seed=7)
alone = [model.complete(p, max_new_tokens=120, do_sample=True, temperature=0.7, top_p=0.9, seed=7)[0] for p in prompts]
for prompt, text in zip(prompts, together, strict=True):
    print(prompt + text, end="\n\n")
print("the same text alone and in the batch:", together == alone)
