"""Text as it is made, and what it took: tokens a second, and how many programs were compiled."""

from vishwamai import VishwamAI

model = VishwamAI.from_pretrained("vishwamai/base")
for prompt in ("Make 24 from 4 9 10 13.", "Make 24 from 3 3 8 8."):
    print(prompt, end="")
    for chunk in model.stream(prompt, max_new_tokens=200):
        print(chunk.text, end="", flush=True)
    made, pace = chunk.stats.generated_tokens, chunk.stats.tokens_per_second
    print(f"\n  ({made} tokens, {pace:,.0f} a second; {chunk.stats.compiles} programs compiled)")
