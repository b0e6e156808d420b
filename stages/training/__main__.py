"""python -m stages.training CONFIG [key=value ...]: train one stage here, alone. Run it again to go on.

Exit status: 0 when the last step is done, 3 when it stopped before (wall time, signal) and is to be run again,
2 for a config that is wrong. Under torchrun it trains on all its workers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from stages.core.errors import BadInput

AGAIN = 3


def main(words: Sequence[str] | None = None) -> int:
    """The command line."""
    given = list(sys.argv[1:] if words is None else words)
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if given else 2
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return _train(given[0], given[1:])
    except BadInput as error:
        print(f"rushes: {error}", file=sys.stderr)
        return 2


def _train(config: str, overrides: Sequence[str]) -> int:
    from stages.training.settings import load_settings

    settings = load_settings(config, overrides)
    import torch.distributed as dist

    from stages.training.loop import train
    from stages.training.process import find_device

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("nccl" if find_device(settings.device).type == "cuda" else "gloo")
    try:
        outcome = train(settings)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0 if outcome.finished else AGAIN


if __name__ == "__main__":
    sys.exit(main())
