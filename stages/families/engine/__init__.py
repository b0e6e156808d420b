"""What families share: the library's own pipelines, run one stage at a time.

A stage that looks at pictures runs the pipeline itself as far as its denoiser and keeps what VAE and image encoder
answered, in order; the stage that denoises runs the same pipeline, with a card in the place of the VAE that answers so.
No preprocessing is written twice. A refine pass is the same call with the tail of a schedule. A family adds a table of
variants with one `bind` each. Importing `variant` and `family` loads no torch; the rest does.
"""
