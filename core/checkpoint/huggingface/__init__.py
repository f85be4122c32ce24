"""Hugging Face's folder: config.json beside safetensors or pytorch_model.bin files; MLX's too."""
