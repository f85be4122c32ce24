"""Checkpoints as an archive of NumPy arrays: a polyllama checkpoint format."""

from polyllama.extend import CheckpointFormatDescriptor, hookimpl


@hookimpl
def polyllama_checkpoint_formats() -> list[CheckpointFormatDescriptor]:
    return [
        CheckpointFormatDescriptor(
            "npz",
            "polyllama_npz.format:NpzFormat",
            "config.json and tensors.json beside weights.npz",
            writes=True,
            files=("weights.npz",),
        )
    ]
