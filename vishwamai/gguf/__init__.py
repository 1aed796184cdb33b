"""GGUF files: llama.cpp's single-file checkpoints, read as any other checkpoint is."""
