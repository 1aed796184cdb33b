"""The tasks by transformers on PyTorch, as `model.generate` and a training loop run them; and compiled."""

from collections.abc import Callable

import torch
import transformers

VERSION = f"transformers {transformers.__version__}, torch {torch.__version__}"


def _load(model: str) -> transformers.PreTrainedModel:
    return transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def decode(model: str, prompts: list[list[int]], new: int, **options) -> Callable[[], list[list[int]]]:
    """Returns the greedy continuation of each prompt."""
    loaded, rows = _load(model), torch.tensor(prompts)
    settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0} | options
    settings["generation_config"] = transformers.GenerationConfig(**settings)

    def call() -> list[list[int]]:
        with torch.inference_mode():
            ids = loaded.generate(
                rows, attention_mask=torch.ones_like(rows), generation_config=settings["generation_config"]
            )
        return ids[:, rows.shape[1] :].tolist()

    return call


def prefill(model: str, prompts: list[list[int]]) -> Callable[[], list[int]]:
    """Returns the likeliest token after each prompt."""
    loaded, rows = _load(model), torch.tensor(prompts)

    def call() -> list[int]:
        with torch.inference_mode():
            return loaded(rows, logits_to_keep=1).logits[:, -1].argmax(-1).tolist()

    return call


def train(model: str, rows: list[list[int]], compile_model: bool = False) -> Callable[[], float]:
    """Takes a step of AdamW on the rows and returns the loss before it."""
    loaded, tokens = _load(model).train(), torch.tensor(rows)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    decayed = [p for p in loaded.parameters() if p.ndim > 1]
    rest = [p for p in loaded.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95))

    def loss_of(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = loaded(inputs, use_cache=False).logits
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    loss_of = torch.compile(loss_of) if compile_model else loss_of

    def call() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(inputs, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(loaded.parameters(), 1.0)
        optimizer.step()
        return float(loss.detach())

    return call
