"""ms-swift plugin of gpu/families.sh: says at the end of a job how much memory torch took."""

import atexit

GIB = 2**30


def report() -> None:
    """Print the peaks of this process, in GiB; memory that torch does not manage is not in it."""
    import torch

    if torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info()
        print(
            f"PEAK device {torch.cuda.current_device()}: allocated"
            f" {torch.cuda.max_memory_allocated() / GIB:.2f}, reserved"
            f" {torch.cuda.max_memory_reserved() / GIB:.2f}, now {(total - free) / GIB:.2f}"
            f" of {total / GIB:.2f} GiB",
            flush=True,
        )


atexit.register(report)
