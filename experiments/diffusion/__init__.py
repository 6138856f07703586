"""The generative baseline: pictures from words with a diffusion model, and its fine-tuning on garments."""
