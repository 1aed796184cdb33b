"""Hugging Face folders: config.json and safetensors to a model and back. A family of models is a table of names."""
