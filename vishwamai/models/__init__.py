"""The model: its configuration, its weights and forward pass, its cache, and what they cost."""
