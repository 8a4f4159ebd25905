"""The top-level settings of a run and what they mean; text only, so that --help costs nothing."""

SETTINGS = {
    "seed": "study seed; with the data and image id it fixes every mask, noise and draw",
    "draws": "samples per image",
    "batch": "network rows per chunk; every network batch is filled up to it; auto: as many as fit",
    "out": "study folder; null = runs/<study.name>",
    "budget": "passes:N (forward + backward) or nfe:N (forward): the steps that so many a draw "
    "allow; a limit if set",
    "timeout": "seconds a chunk may take; then its rows are timeout rows. Looked at before every "
    "network evaluation",
    "threads": "CPU threads of every worker; null = those of the cell's stored rows, else all "
    "cores shared by the workers (part of what makes rows bitwise equal)",
    "precision": "fp32; tf32, products of a GPU while a solver works; bf16, autocast of the "
    "denoising network alone; bf16+tf32, both",
    "channels_last": "run the denoising network with its channels innermost in memory",
    "compile": "run the blocks of the denoising network through torch.compile; on a GPU, calls "
    "without gradients as CUDA graphs",
    "checkpointing": "none; call: gradients keep the input of every network call and compute "
    "the rest again; block: the input of every block",
    "frozen_convolutions": "gradients do not keep the inputs of convolutions",
    "offload": "networks that a GPU does not need for now wait in the memory of the host",
    "tile": "run autoencoders on overlapping tiles of so many latent positions (64 is usual); 0: "
    "on the whole image",
    "prompt": "what a text prior is told of every image (data.captions=FILE: of each; "
    "docs/data.md)",
    "plugins": "installed packages whose code may be imported: [NAME]; solver=FILE.py:CLASS names "
    "its file itself",
    "accept": "row statuses besides ok that still give exit code 0: nan oom timeout error",
    "retry": "run chunks again that hold rows which are not ok",
    "trace": "keep in new rows how fits went (loss, pictures), for the report; the rows are "
    "otherwise the same",
    "sheet": "write contact_sheet.png",
    "report": "write report.html at the end of a run",
    "logger": "wandb (offline unless WANDB_MODE says else) or tensorboard: a run per cell in "
    "trackers/ of the study",
    "quiet": "print nothing but errors",
}
