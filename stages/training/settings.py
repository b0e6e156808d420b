"""What a training config can say, every field with its unit or range. The files below configs/train use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.config import find_config, merge, nearest, parse_overrides, read_yaml
from stages.core.errors import BadInput

STAGES = ("vae", "base", "spatial", "temporal", "distill")


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One kind of batch: every clip in it has this size.

    width, height in pixels, frames, fps. crop: edge of a window cut out of the larger picture around what moves, so
    that textures keep the scale of the final size; 0 takes the whole. crop_frames: so many successive frames of them.
    batch: clips a step and worker; share: how often it comes, against the others. sigma_max: noise levels are drawn
    below it. refines: the noise level that a refine pass starts from, 0 to 1; the denoiser then learns to lead from
    upsampled latents with that much noise to the true ones (`raising`); 0: from noised true latents. lead_s: the clip
    starts up to so many seconds into its scene. conditioned: its first latent frames are always given clean, as in the
    later windows of a long video. cache: clips of it that are encoded once, where not `data.cache`. mean: of its noise
    levels, where not that of the objective: a picture shows its shape once, a clip in every frame, so that it takes
    more noise to hide one there.
    """

    width: int = 128
    height: int = 128
    frames: int = 17
    fps: float = 8.0
    crop: int = 0
    crop_frames: int = 0
    batch: int = 4
    share: float = 1.0
    sigma_max: float = 1.0
    refines: float = 0.0
    lead_s: float = 0.0
    conditioned: bool = False
    cache: int = 0
    mean: float | None = None

    def __post_init__(self) -> None:
        if min(self.width, self.height, self.frames, self.batch) < 1 or self.fps <= 0 or self.share < 0:
            raise BadInput(f"a bucket needs a size, frames, fps and batch above 0, and a share from 0: {self}")
        if self.crop > min(self.width, self.height) or self.crop_frames > self.frames or not 0 < self.sigma_max <= 1:
            raise BadInput(f"a bucket's crop must fit into it, and sigma_max lie above 0 and up to 1: {self}")
        if not 0 <= self.refines < 1 or (self.refines and self.conditioned):
            raise BadInput(f"a bucket's refines lies from 0 to below 1, and none of its frames are given clean: {self}")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the curriculum: these buckets until this step (0: to the end)."""

    until: int = 0
    buckets: list[Bucket] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where clips come from.

    use: `module:Class` of a source; `args` are its own settings. curriculum: phases in order. cache: clips of every
    bucket that are encoded once and kept beside the run (0: none, every step encodes afresh); stages that train on
    latents only. workers: processes that prepare batches (0: the training process itself). flip: share of clips
    mirrored left to right, caption too. scale: factor on every bucket's batch, so that one file serves a GPU and a
    laptop. jitter: largest change of brightness and contrast, constant over a clip.
    """

    use: str = "data_prep.world.clips:WorldClips"
    args: dict[str, Any] = field(default_factory=dict)
    curriculum: list[Phase] = field(default_factory=lambda: [Phase(buckets=[Bucket()])])
    cache: int = 0
    workers: int = 0
    scale: float = 1.0
    flip: float = 0.0
    jitter: float = 0.0

    def __post_init__(self) -> None:
        ends = [p.until for p in self.curriculum[:-1]]
        if not self.curriculum or not all(p.buckets for p in self.curriculum):
            raise BadInput("data.curriculum needs at least one phase, and every phase at least one bucket")
        if self.scale <= 0:
            raise BadInput("data.scale is a factor above 0")
        if any(e < 1 for e in ends) or ends != sorted(set(ends)) or not 0 <= self.flip <= 1 or self.jitter < 0:
            raise BadInput("data: the phases' `until` must rise, flip is 0 to 1, jitter from 0")


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) in place of the weights themselves. rank 0: none. targets: layers' names."""

    rank: int = 0
    alpha: float = 0.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained.

    checkpoint: a folder in the diffusers layout to start from; "" builds one of `shape` (fields of
    families.ltx.shape.Shape) with random weights. vae: take the VAE from this folder instead. trainable: patterns
    (as in shell globs) of parameter names, `part.name`, that are trained; the others stay frozen.
    checkpointing: recompute activations in the backward pass, which saves memory.
    """

    checkpoint: str = ""
    vae: str = ""
    shape: dict[str, Any] = field(default_factory=dict)
    trainable: list[str] = field(default_factory=lambda: ["*"])
    lora: Lora = field(default_factory=Lora)
    checkpointing: bool = False
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How a denoiser learns.

    kind: flow, epsilon or v. timesteps: logit_normal or uniform; mean, std of the former; uniform: share of samples
    that are uniform all the same, so that both ends are seen. min_snr: gamma of min-SNR weighting (arXiv 2303.09556),
    0 for none; not for flow. caption_dropout: share of captions left out, for guidance. condition: share of batches
    with clean first frames, condition_last: with a clean last frame as well.
    condition_noise: noise on clean frames, 0 to 1. shift: how far the schedule of samples, evaluation and distillation
    leans towards noise (1: even), to be repeated as the cascade's `sampling.shift`.
    """

    kind: str = "flow"
    timesteps: str = "logit_normal"
    mean: float = 0.0
    std: float = 1.0
    uniform: float = 0.1
    min_snr: float = 0.0
    caption_dropout: float = 0.1
    condition: float = 0.0
    condition_last: float = 0.0
    condition_noise: float = 0.0
    shift: float = 1.0
    max_tokens: int = 64

    def __post_init__(self) -> None:
        for name, value, known in (
            ("kind", self.kind, ("flow", "epsilon", "v")),
            ("timesteps", self.timesteps, ("logit_normal", "uniform")),
        ):
            if value not in known:
                raise BadInput(f"objective.{name} is {value!r}; {nearest(value, known)}")
        if self.shift <= 0:
            raise BadInput("objective.shift is a factor above 0")
        if self.min_snr and self.kind == "flow":
            raise BadInput("objective.min_snr weights epsilon and v; flow matching is weighted by its timesteps")


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The weights of a VAE's losses. charbonnier, mse: on pixels. gradient: differences of neighbouring pixels, at
    `scales` sizes. temporal: differences of neighbouring frames. spectrum: magnitudes of the 2-D Fourier transform.
    norm: squared latents beyond a spread of 1; kl: divergence of the posterior. noise: standard deviation of what is
    added to the posterior mean while training, in place of sampling it. start_clips: clips to which new weights are
    fitted by least squares before the first step (`vae_start`); 0: training starts from the weights as they are.
    whiten: how far that start brings the latents' channels to one spread, 0 to 1. Below 1 the strong ones, which
    carry layout and colour, stand out of the noise first when a denoiser samples, and weigh more in its loss.
    upsampled: share of batches (of the final size or rate) whose latents come from a smaller or slower clip by the
    checkpoint's upsamplers, as they do at work, so that the decoder learns to make them sharp, and the upsamplers
    with it where `model.trainable` has them.
    """

    charbonnier: float = 1.0
    mse: float = 0.0
    gradient: float = 0.0
    scales: int = 3
    temporal: float = 0.0
    spectrum: float = 0.0
    norm: float = 0.0
    kl: float = 0.0
    noise: float = 0.03
    start_clips: int = 0
    whiten: float = 1.0
    upsampled: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.upsampled <= 1:
            raise BadInput("reconstruction.upsampled is a share, 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Upsampling:
    """How an upsampler learns. latent, pixels: weights of the losses before and after decoding (0: not decoded).
    input_noise: largest standard deviation of noise added to the low latent, since at work it comes from a denoiser.
    start_clips: clips to which new weights are fitted by least squares before the first step (`upsample_start`); 0:
    training starts from the weights as they are.
    """

    latent: float = 1.0
    pixels: float = 0.0
    input_noise: float = 0.0
    start_clips: int = 0


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Few steps from many: each of `steps` steps of the student does what several of the teacher's `teacher_steps`
    do with this guidance, so that guidance is built in. kept: batches whose ways the teacher goes once, before the
    first step, and that are kept beside the run and seen again and again (0: every step has new ones)."""

    steps: int = 3
    teacher_steps: int = 12
    guidance: float = 4.0
    kept: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.teacher_steps % self.steps or self.kept < 0:
            raise BadInput("distillation.teacher_steps must be a multiple of its steps, and kept a number from 0")


@dataclass(frozen=True, kw_only=True)
class Optim:
    """name: adamw, or muon for matrices and kernels with adamw for the rest. lr is adamw's, muon_lr the other's.
    warmup in steps; decay: constant, linear or cosine, to nothing over the last `decay_share` of the run.
    clip: largest norm of the gradient, 0 for any. accumulate: batches a step. ema: decay of the averaged weights.
    """

    name: str = "adamw"
    lr: float = 1e-3
    muon_lr: float = 5e-3
    betas: list[float] = field(default_factory=lambda: [0.9, 0.99])
    weight_decay: float = 0.0
    warmup: int = 50
    decay: str = "cosine"
    decay_share: float = 1.0
    clip: float = 1.0
    accumulate: int = 1
    ema: float = 0.999

    def __post_init__(self) -> None:
        for name, value, known in (
            ("name", self.name, ("adamw", "muon")),
            ("decay", self.decay, ("constant", "linear", "cosine")),
        ):
            if value not in known:
                raise BadInput(f"optim.{name} is {value!r}; {nearest(value, known)}")
        if self.accumulate < 1 or not 0 <= self.ema < 1:
            raise BadInput("optim: accumulate from 1, ema from 0 and below 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A whole run. stage: what is trained. max_steps: in all, over every resumed slice. out: the run's folder.

    stop_after_s: save and leave after so long (0: never), for slices. save_every_s, save_every_steps: 0 for never.
    keep: how many checkpoints stay. compact: moments of the optimizer rest in half precision; smaller, but a resumed
    run is then no longer bit-exact. sample_every, log_every in steps. dtype: what the networks compute in (bfloat16:
    autocast). device: auto, cpu, cuda. threads: CPU threads (0: leave them). parallel: how several workers share a
    model, ddp (each has all of it) or fsdp (each keeps a part of every weight: for what one GPU cannot hold).
    """

    stage: str = "vae"
    max_steps: int = 1000
    seed: int = 0
    out: str = "runs/vae"
    stop_after_s: float = 0.0
    save_every_s: float = 300.0
    save_every_steps: int = 0
    keep: int = 2
    compact: bool = False
    sample_every: int = 0
    log_every: int = 20
    dtype: str = "float32"
    device: str = "auto"
    threads: int = 1
    parallel: str = "ddp"
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    objective: Objective = field(default_factory=Objective)
    reconstruction: Reconstruction = field(default_factory=Reconstruction)
    upsampling: Upsampling = field(default_factory=Upsampling)
    distillation: Distillation = field(default_factory=Distillation)
    optim: Optim = field(default_factory=Optim)

    def __post_init__(self) -> None:
        for name, value, known in (
            ("stage", self.stage, STAGES),
            ("dtype", self.dtype, ("float32", "bfloat16")),
            ("device", self.device, ("auto", "cpu", "cuda")),
            ("parallel", self.parallel, ("ddp", "fsdp")),
        ):
            if value not in known:
                raise BadInput(f"{name} is {value!r}; {nearest(value, known)}")
        if self.max_steps < 1 or self.keep < 1 or self.log_every < 1:
            raise BadInput("max_steps, keep and log_every are whole numbers from 1 up")


def load_settings(config: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The settings of a file (or the NAME of one in configs/train) with `key=value` overrides. Raises BadInput."""
    path = find_config(config, "train")
    settings, _ = merge(TrainConfig, [(str(path), read_yaml(path)), ("the command line", parse_overrides(overrides))])
    return settings
