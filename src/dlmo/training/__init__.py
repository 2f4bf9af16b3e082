"""The one training loop that every technique uses. Needs torch, numpy and safetensors only."""
