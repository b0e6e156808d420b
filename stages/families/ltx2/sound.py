"""The sound of LTX-2: from the latent of a spectrogram to a waveform."""

from __future__ import annotations

import numpy as np
import torch

from stages.core.latents.form import BadLatent, Floats
from stages.core.sound import Sound
from stages.core.weights.checkpoint import ModelConfig
from stages.families.engine.runtime import Stage
from stages.families.loading import load_component


class LTX2Sound(Stage):
    """The audio VAE makes a spectrogram of a latent, the vocoder a waveform of that."""

    def __init__(self, model: ModelConfig) -> None:
        super().__init__(model)
        model.folder(("audio_vae", "vocoder"))
        self.vae = self.place(load_component(model, "audio_vae", self.dtype))
        self.vocoder = self.place(load_component(model, "vocoder", self.dtype))
        self.rate = int(self.vocoder.config.output_sampling_rate)
        config = self.vae.config
        per_second = config.sample_rate / config.mel_hop_length / self.vae.temporal_compression_ratio
        # The number of latent frames is rounded, and the first one stands for less than the others.
        self.slack = 1.5 / per_second

    def decode(self, audio: Floats, seconds: float) -> Sound:
        """The sound of a latent [C, L, mel bins]; it begins and ends with the pictures. Raises BadSound where its
        length is that of another clip, or a sample is not finite."""
        if audio.ndim != 3 or audio.shape[0] != self.vae.config.latent_channels:
            raise BadLatent(
                f"audio is [{self.vae.config.latent_channels}, length, mel bins], this one has shape"
                f" {list(audio.shape)}"
            )
        with self.running(0):
            latent = torch.from_numpy(np.ascontiguousarray(audio))[None].to(self.device, self.dtype)
            wave = self.vocoder(self.vae.decode(latent, return_dict=False)[0])[0]
            samples = np.ascontiguousarray(wave.float().cpu().numpy())
        return Sound(samples, self.rate).lasting(seconds, self.slack)
