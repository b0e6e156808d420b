"""What is trained, one module each, listed in `registry`: `vae`, `upsample`, `denoise` and `distill`."""
