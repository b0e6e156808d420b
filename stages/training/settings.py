"""What a training config can say, every field with its unit or range. The files below configs/train use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stages.core.config import merge
from stages.core.config_files import find_config, nearest, parse_overrides, read_yaml
from stages.core.errors import BadInput, require

STAGES = ("vae", "base", "spatial", "temporal", "distill")


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """One kind of batch: every clip in it has this size.

    width        [from 1] pixels
    height       [from 1] pixels
    frames       [from 1] frames of a clip
    fps          [above 0] frames a second
    crop         edge in pixels of a window cut out of the larger picture around what moves, so that textures keep the
                 scale of the final size; 0 takes the whole
    crop_frames  successive frames of a clip that are used; 0 takes all
    batch        [from 1] clips in a step of one worker
    share        [from 0] how often the bucket is drawn, relative to the others
    sigma_max    [above 0 to 1] noise levels are drawn below it
    refines      0 to below 1; above 0, the denoiser learns the refine pass: it starts from latents that the upsamplers
                 made, with noise of this level, and ends at the true ones. 0 starts from true latents with noise
    lead_s       seconds that a clip may start after the start of its scene, at most
    conditioned  its first latent frames are always given clean, as in the later windows of a long video
    cache        clips of this bucket that are encoded once and used again; 0 takes `data.cache`
    mean         mean of the logit-normal distribution of noise levels for this bucket; null takes `objective.mean`.
                 Pictures need less noise than clips: a clip shows its shape in every frame, so that it takes more noise
                 to hide it
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
        require(
            (self.width >= 1, "data.curriculum[].buckets[].width", self.width, "at least 1"),
            (self.height >= 1, "data.curriculum[].buckets[].height", self.height, "at least 1"),
            (self.frames >= 1, "data.curriculum[].buckets[].frames", self.frames, "at least 1"),
            (self.batch >= 1, "data.curriculum[].buckets[].batch", self.batch, "at least 1"),
            (self.fps > 0, "data.curriculum[].buckets[].fps", self.fps, "above 0"),
            (self.share >= 0, "data.curriculum[].buckets[].share", self.share, "0 or more"),
        )
        require(
            (
                self.crop <= min(self.width, self.height),
                "data.curriculum[].buckets[].crop",
                self.crop,
                f"at most its width and height ({self.width}x{self.height})",
            ),
            (
                self.crop_frames <= self.frames,
                "data.curriculum[].buckets[].crop_frames",
                self.crop_frames,
                f"at most its frames ({self.frames})",
            ),
            (0 < self.sigma_max <= 1, "data.curriculum[].buckets[].sigma_max", self.sigma_max, "above 0 and at most 1"),
        )
        require(
            (0 <= self.refines < 1, "data.curriculum[].buckets[].refines", self.refines, "0 or more and below 1"),
            (
                not (self.refines and self.conditioned),
                "data.curriculum[].buckets[].conditioned",
                self.conditioned,
                "false where it has refines",
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the curriculum.

    until    the step at which the phase ends; 0 is the end of the training
    buckets  the buckets that batches are drawn from
    """

    until: int = 0
    buckets: list[Bucket] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Data:
    """Where clips come from.

    use         `module:Class` of a source of clips
    args        the source's own settings
    curriculum  phases, in order
    cache       clips of every bucket that are encoded once and kept beside the run, for stages that train on latents
                only; 0 encodes afresh in every step
    workers     processes that prepare batches; 0 uses the training process itself
    scale       [above 0] factor on the batch of every bucket, so that one file serves a GPU and a laptop
    flip        [0 to 1] share of clips that are mirrored left to right, with their captions
    jitter      [from 0] largest change of brightness and contrast, constant over a clip
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
            raise BadInput(f"data.scale is {self.scale}; it must be above 0")
        require(
            (
                min(ends, default=1) >= 1 and ends == sorted(set(ends)),
                "data.curriculum[].until",
                ends,
                "rising from phase to phase, and at least 1",
            ),
            (0 <= self.flip <= 1, "data.flip", self.flip, "0 to 1"),
            (self.jitter >= 0, "data.jitter", self.jitter, "0 or more"),
        )


@dataclass(frozen=True, kw_only=True)
class Lora:
    """Low-rank adapters (arXiv 2106.09685) in place of the weights themselves.

    rank     rank of the adapter; 0 trains the weights themselves
    alpha    scaling of the adapter
    dropout  dropout in the adapter, 0 to 1
    targets  names of the layers that get an adapter
    """

    rank: int = 0
    alpha: float = 0.0
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained.

    checkpoint     a folder in the diffusers layout to start from; empty builds a model of `shape` with random weights
    vae            folder to take the VAE from instead
    shape          sizes of a new model, by the keys latent_channels, vae_patch, vae_encoder, vae_decoder, vae_layers,
                   vae_decoder_layers, vae_last_factor, text_width, text_layers, text_heads, max_tokens, width, heads,
                   layers, upsampler_width and upsampler_blocks; what is left out keeps its default
    trainable      shell patterns of parameter names, `part.name`, that are trained; all others stay frozen
    lora           train an adapter instead of the weights
    checkpointing  recompute activations in the backward pass, which saves memory
    compile        compile the model with torch.compile
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

    kind             [flow, epsilon, v] what the denoiser predicts
    timesteps        [logit_normal, uniform] how noise levels are drawn
    mean             mean of the logit-normal distribution
    std              standard deviation of the logit-normal distribution
    uniform          share of samples that are drawn uniformly all the same, so that both ends are seen
    min_snr          gamma of min-SNR weighting (arXiv 2303.09556), 0 for none; not for flow
    caption_dropout  share of captions left out, for guidance
    condition        share of batches with clean first frames
    condition_last   share of batches with a clean last frame as well
    condition_noise  noise on clean frames, 0 to 1
    shift            [above 0] how far the schedule of samples, evaluation and distillation leans towards noise (1:
                     even); set the cascade's `sampling.shift` to the same value
    max_tokens       length that text embeddings are padded to
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
            raise BadInput(f"objective.shift is {self.shift}; it must be above 0")
        if self.min_snr and self.kind == "flow":
            raise BadInput("objective.min_snr weights epsilon and v; flow matching is weighted by its timesteps")


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """The weights of a VAE's losses.

    charbonnier  weight of the Charbonnier loss on pixels
    mse          weight of the squared error on pixels
    gradient     weight of differences of neighbouring pixels, at `scales` sizes
    scales       number of sizes at which `gradient` is measured
    temporal     weight of differences of neighbouring frames
    spectrum     weight of magnitudes of the 2-D Fourier transform
    norm         weight of squared latents beyond a spread of 1
    kl           weight of the divergence of the posterior
    noise        standard deviation of what is added to the posterior mean while training, in place of sampling it
    start_clips  clips to which new weights are fitted by least squares before the first step (`vae_start`); 0 starts
                 from the weights as they are
    whiten       how far that start brings the latents' channels to the same standard deviation, 0 (not at all) to 1
                 (all alike). Below 1, channels that carry layout and colour stay stronger: a denoiser makes them
                 first, and they weigh more in its loss
    upsampled    [0 to 1] share of batches (of the final size or rate) whose latents come from a smaller or slower clip
                 by the checkpoint's upsamplers, as they do in rendering, so that the decoder learns to make them sharp,
                 and the upsamplers with it where `model.trainable` has them
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
            raise BadInput(f"reconstruction.upsampled is {self.upsampled}; it must be 0 to 1")


@dataclass(frozen=True, kw_only=True)
class Upsampling:
    """How an upsampler learns.

    latent       weight of the loss before decoding
    pixels       weight of the loss after decoding; 0 does not decode
    input_noise  largest standard deviation of noise added to the low latent, since in rendering it comes from a
                 denoiser
    start_clips  clips to which new weights are fitted by least squares before the first step (`upsample_start`); 0
                 starts from the weights as they are
    """

    latent: float = 1.0
    pixels: float = 0.0
    input_noise: float = 0.0
    start_clips: int = 0


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Few steps from many: each step of the student does what several of the teacher's do, with guidance built in.

    steps          [from 1] steps of the student
    teacher_steps  steps of the teacher, a multiple of `steps`
    guidance       guidance scale of the teacher
    kept           [from 0] batches whose paths the teacher computes once, before the first step, and that are kept
                   beside the run and used again and again; 0 uses new ones in every step
    """

    steps: int = 3
    teacher_steps: int = 12
    guidance: float = 4.0
    kept: int = 0

    def __post_init__(self) -> None:
        require(
            (self.steps >= 1, "distillation.steps", self.steps, "at least 1"),
            (
                self.teacher_steps % max(self.steps, 1) == 0,
                "distillation.teacher_steps",
                self.teacher_steps,
                f"a multiple of distillation.steps ({self.steps})",
            ),
            (self.kept >= 0, "distillation.kept", self.kept, "0 or more"),
        )


@dataclass(frozen=True, kw_only=True)
class Optim:
    """How weights are changed.

    name          [adamw, muon] `muon` is for matrices and kernels, with adamw for the rest
    lr            learning rate of adamw
    muon_lr       learning rate of muon
    betas         the two betas of adamw
    weight_decay  weight decay
    warmup        steps in which the learning rate rises from 0
    decay         [constant, linear, cosine] how the learning rate falls to 0 at the end
    decay_share   share of the run over which it falls
    clip          largest norm of the gradient; 0 sets no limit
    accumulate    [from 1] batches in one step
    ema           decay of the averaged weights, 0 to below 1
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
        require(
            (self.accumulate >= 1, "optim.accumulate", self.accumulate, "at least 1"),
            (0 <= self.ema < 1, "optim.ema", self.ema, "0 or more and below 1"),
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What is trained, for how long, on what, and how.

    stage             [vae, base, spatial, temporal, distill] what is trained
    max_steps         [from 1] steps in all, over every resumed part
    seed              seed of the random numbers
    out               folder of the run
    stop_after_s      save and stop after this many seconds; 0 never does
    save_every_s      seconds between two saves; 0 never saves by time
    save_every_steps  steps between two saves; 0 never saves by steps
    keep              [from 1] saved states that are kept
    compact           keep the optimizer's moments in half precision; smaller, but a resumed run is no longer bit-exact
    sample_every      steps between two samples; 0 makes none
    log_every         [from 1] steps between two lines of the log
    dtype             [float32, bfloat16] what the networks compute in; `bfloat16` is autocast
    device            [auto, cpu, cuda] where the training runs; `auto` is a GPU where there is one
    threads           CPU threads; 0 leaves them as they are
    parallel          [ddp, fsdp] how several workers share a model: with `ddp` each has all of it, with `fsdp` a part
                      of every weight, for what one GPU cannot hold
    data              where clips come from
    model             what is trained
    objective         how a denoiser learns
    reconstruction    how a VAE learns
    upsampling        how an upsampler learns
    distillation      how few steps are learned from many
    optim             how weights are changed
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
        require(
            (self.max_steps >= 1, "max_steps", self.max_steps, "at least 1"),
            (self.keep >= 1, "keep", self.keep, "at least 1"),
            (self.log_every >= 1, "log_every", self.log_every, "at least 1"),
        )


def load_settings(config: str | Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """The settings of a file (or the NAME of one in configs/train) with `key=value` overrides. Raises BadInput."""
    path = find_config(config, "train")
    settings, _ = merge(TrainConfig, [(str(path), read_yaml(path)), ("the command line", parse_overrides(overrides))])
    return settings
