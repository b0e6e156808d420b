"""What is trained, one module each, listed in `tasks`: `vae`, `upsample`, `denoise` and `distill`."""
