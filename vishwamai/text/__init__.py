"""Text to ids and back: tokenizers, chat prompts, streaming. It knows no model and no device."""
