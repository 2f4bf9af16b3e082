"""The one training loop that every technique uses. Needs torch and numpy; checkpoints need safetensors."""
