"""Settings of diffusers configurations: which are supported, and which change nothing here.

A setting that is in no list must have the library's default. A setting that the library adds later
is refused by its name until it is listed here, so no setting that a network needs is ignored
silently.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping

Config = Mapping[str, object]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_UNET = _words(
    "act_fn attention_head_dim block_out_channels center_input_sample down_block_types "
    "downsample_padding flip_sin_to_cos freq_shift in_channels layers_per_block "
    "mid_block_scale_factor mid_block_type norm_eps norm_num_groups out_channels "
    "resnet_time_scale_shift sample_size time_embedding_dim up_block_types"
)
_SD3 = _words(
    "attention_head_dim caption_projection_dim dual_attention_layers in_channels "
    "joint_attention_dim num_attention_heads num_layers out_channels patch_size "
    "pooled_projection_dim pos_embed_max_size qk_norm sample_size"
)
_AUTOENCODER = _words(
    "act_fn block_out_channels down_block_types in_channels latent_channels layers_per_block "
    "mid_block_add_attention norm_num_groups out_channels scaling_factor up_block_types"
)

ANY: Mapping[str, Collection[str]] = {
    "UNet2DModel": (
        *_UNET,
        *_words(
            "add_attention attn_norm_num_groups downsample_type upsample_type num_class_embeds"
        ),
    ),
    "UNet2DConditionModel": (
        *_UNET,
        *_words("conv_in_kernel conv_out_kernel cross_attention_dim cross_attention_norm"),
        *_words(
            "mid_block_only_cross_attention only_cross_attention resnet_out_scale_factor "
            "resnet_skip_time_act"
        ),
        *_words("addition_time_embed_dim projection_class_embeddings_input_dim"),
        *_words("reverse_transformer_layers_per_block time_embedding_act_fn timestep_post_act"),
        *_words("time_cond_proj_dim transformer_layers_per_block use_linear_projection"),
    ),
    "DiTTransformer2DModel": (
        *_words(
            "activation_fn attention_bias attention_head_dim in_channels norm_elementwise_affine "
            "norm_eps"
        ),
        *_words(
            "norm_num_groups num_attention_heads num_embeds_ada_norm num_layers out_channels "
            "patch_size"
        ),
        "sample_size",
    ),
    "SD3Transformer2DModel": _SD3,
    "FluxTransformer2DModel": _words(
        "attention_head_dim axes_dims_rope guidance_embeds in_channels joint_attention_dim "
        "num_attention_heads num_layers num_single_layers out_channels pooled_projection_dim"
    ),
    "SD3ControlNetModel": (
        *_SD3,
        *_words("extra_conditioning_channels force_zeros_for_pooled_projection pos_embed_type"),
    ),
    "AutoencoderKL": (
        *_AUTOENCODER,
        *_words("latents_mean latents_std shift_factor use_post_quant_conv use_quant_conv"),
    ),
    "VQModel": (*_AUTOENCODER, *_words("norm_type num_vq_embeddings vq_embed_dim")),
}
"""Settings supported at every value: the library's class reads them and is called the same way."""

HARMLESS: Mapping[str, Collection[str]] = {
    # attention is computed in float32 anyway, and dropout is off outside training
    "UNet2DModel": ("dropout", "num_train_timesteps"),
    "UNet2DConditionModel": (
        *_words("dropout upcast_attention"),
        # without effect beside the settings that are refused
        "addition_embed_type_num_heads",
    ),
    "DiTTransformer2DModel": ("dropout", "upcast_attention"),
    "AutoencoderKL": ("force_upcast", "sample_size"),
    "VQModel": ("force_upcast", "sample_size"),
}
"""Settings that change no number of the networks as they are called here."""

VALUES: Mapping[tuple[str, str], Collection[object]] = {
    # the pooled embedding and the sizes of Stable Diffusion XL
    ("UNet2DConditionModel", "addition_embed_type"): ("text_time",),
    # a shift that depends on the size of the image
    ("FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting"): (True,),
}
"""Values beside the default of settings that are supported at these values alone."""

_SCHEDULE = _words("beta_end beta_schedule beta_start num_train_timesteps prediction_type shift")
_SAMPLING = _words(
    "algorithm_type base_image_seq_len base_shift clip_sample clip_sample_range disable_corrector "
    "dynamic_thresholding_ratio euler_at_final final_sigmas_type flow_shift interpolation_type "
    "lambda_min_clipped lower_order_final max_image_seq_len max_shift original_inference_steps "
    "predict_x0 sample_max_value "
    "set_alpha_to_one sigma_max sigma_min skip_prk_steps solver_order solver_p solver_type "
    "steps_offset stochastic_sampling thresholding time_shift_type timestep_spacing timestep_type "
    "use_beta_sigmas use_exponential_sigmas use_karras_sigmas use_lu_lambdas variance_type rho eta"
)
"""How a pipeline of diffusers visits the noise levels; the solvers here choose their own way."""

_BETAS = _words(
    "DDPM DDIM DDIMInverse DDIMParallel DDPMParallel DEISMultistep DPMSolverMultistep "
    "DPMSolverMultistepInverse DPMSolverSDE DPMSolverSinglestep EulerAncestralDiscrete "
    "EulerDiscrete HeunDiscrete IPNDM KDPM2AncestralDiscrete KDPM2Discrete LMSDiscrete PNDM "
    "SASolver UniPCMultistep"
)
SCHEDULERS = {
    "vp": tuple(f"{name}Scheduler" for name in _BETAS),
    "lcm": ("LCMScheduler",),
    "flow": ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
}
"""Schedulers whose networks predict what ``prediction_type`` says, or a flow.

The network of ``lcm`` is a consistency model: a boundary condition is applied to its prediction.
"""


def check_network(cls: str, config: Config, where: object) -> None:
    """Check the settings of a network or autoencoder.

    Parameters
    ----------
    cls : str
        Its class in diffusers.
    config : Mapping[str, object]
        Its configuration.
    where : object
        Name of the file in error messages.

    Raises
    ------
    ValueError
        If a setting is not supported; the message names setting and value.
    """
    _check(cls, config, {*ANY[cls], *HARMLESS.get(cls, ())}, where)


def check_scheduler(kind: str, config: Config, where: object) -> None:
    """Check that the numbers of a scheduler mean the same as here.

    Parameters
    ----------
    kind : str
        ``vp``, ``lcm`` or ``flow``.
    config : Mapping[str, object]
        The configuration of the scheduler.
    where : object
        Name of the file in error messages.

    Raises
    ------
    ValueError
        If the scheduler or a setting is not supported.
    """
    cls = str(config.get("_class_name", SCHEDULERS[kind][0]))
    if cls not in SCHEDULERS[kind]:
        raise ValueError(
            f"{where}: the scheduler {cls} is not supported; valid: {', '.join(SCHEDULERS[kind])}"
        )
    boundary = ("timestep_scaling",) if kind == "lcm" else ()
    _check(cls, config, {*_SCHEDULE, *_SAMPLING, *boundary}, where)


def _check(cls: str, config: Config, supported: Collection[str], where: object) -> None:
    standard = defaults(cls)
    for key, value in config.items():
        more = VALUES.get((cls, key), ())
        known = key.startswith("_") or key in supported or value in more
        if known or is_default(value, standard.get(key)):
            continue
        valid = ", ".join(map(repr, (standard[key], *more))) if key in standard else ""
        only = f"; valid: {valid or 'a folder without it'}"
        raise ValueError(f"{where}: {cls} with {key}={_short(value)} is not supported{only}")


def defaults(cls: str) -> dict[str, object]:
    """Return the defaults of a class of diffusers by setting; empty for an unknown class."""
    # here, because diffusers takes seconds to import
    import diffusers

    made = getattr(diffusers, cls, None)
    if made is None:
        return {}
    return {
        name: p.default
        for name, p in inspect.signature(made.__init__).parameters.items()
        if name != "self"
    }


def is_default(value: object, standard: object) -> bool:
    """Return whether a value of a JSON file is the default.

    None, false and an empty list all mean 'off'.
    """
    if value is False or (not value and not isinstance(value, int | float)):
        return not standard
    return value == (list(standard) if isinstance(standard, tuple) else standard)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
