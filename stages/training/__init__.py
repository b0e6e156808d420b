"""Training: one loop for every trainable stage. It runs alone, without Ray and without Prefect, so also on a bare GPU.

    python -m stages.training configs/train/vae.yaml out=runs/vae stop_after_s=540

settings what a config can say | data, cache the batches of a step | models the networks | objectives, tasks the loss
optim, state, loop the steps, and going on after a kill | distill, upsample, vae one kind of task each | quality figures
"""
