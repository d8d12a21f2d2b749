"""The part of :mod:`swift_thyme.host.contract_table` for continuous rollouts and their times."""

from __future__ import annotations

from swift_thyme.host.contract_entries import Group, Kind, Use

__all__ = ["ROLLOUT_USES"]

_ROLLOUT = "swift.rlhf_trainers.rollout_mixin"
_GRPO = "swift.rlhf_trainers.grpo_trainer"
_TEMPLATE = "swift.template.base"
_QWEN = "swift.template.templates.qwen"

# fmt: off
ROLLOUT_USES = (
    Use(Group.FLAG, "transformers.training_args", "TrainingArguments", Kind.DEFINED,
        "use_cpu", "flag",
        "whether a model is beside a GPU, for the number of threads"),
    Use(Group.ROLLOUT, _ROLLOUT, "RolloutTrainerMixin._infer_single_or_multi_turn",
        Kind.PARAMETER, "samples request_config is_global_inputs", "continuous_rollout",
        "replaced: trajectories without barriers"),
    Use(Group.ROLLOUT, _ROLLOUT, "RolloutTrainerMixin._fast_infer", Kind.MENTIONED,
        "_infer_single_or_multi_turn", "continuous_rollout",
        "calls the method that is replaced, with the engine awake"),
    Use(Group.ROLLOUT, _ROLLOUT, "RolloutTrainerMixin", Kind.DEFINED,
        "samples2requests _get_request_config _postprocess_rollout_outputs _disable_sp_context",
        "continuous_rollout",
        "what the method that is replaced does before and after sampling"),
    Use(Group.ROLLOUT, _ROLLOUT, "RolloutTrainerMixin", Kind.MENTIONED,
        "use_fast_infer vllm_mode vllm_tensor_parallel_size multi_turn_scheduler engine",
        "continuous_rollout",
        "whether the engine can be fed while it runs; the scheduler and the engine"),
    Use(Group.ROLLOUT, "swift.rlhf_trainers.utils", "", Kind.DEFINED,
        "profiling_context", "continuous_rollout",
        "times the generation as ms-swift does"),
    Use(Group.ROLLOUT, "swift.rlhf_trainers.utils", "profiling_context", Kind.PARAMETER,
        "trainer name", "continuous_rollout",
        "times the generation as ms-swift does"),
    Use(Group.ROLLOUT, "swift.rlhf_trainers.utils", "", Kind.DEFINED,
        "_VLLM_CHECKPOINT_STYLE_PACKED_MOE_MODEL_TYPES", "expert_weights",
        "types of models whose experts are sent to vLLM as checkpoints hold them"),
    Use(Group.ROLLOUT, "swift.rlhf_trainers.utils", "revert_runtime_names_to_checkpoint",
        Kind.MENTIONED, "_VLLM_CHECKPOINT_STYLE_PACKED_MOE_MODEL_TYPES", "expert_weights",
        "reads that list"),
    Use(Group.ROLLOUT, "swift.infer_engine.grpo_vllm_engine", "GRPOVllmEngine", Kind.DEFINED,
        "_get_grpo_lora_request _create_chat_completion_response", "engine_feed turn_preparation",
        "the adapter that is trained; what an output of vLLM becomes"),
    Use(Group.ROLLOUT, "swift.infer_engine.vllm_engine", "VllmEngine", Kind.DEFINED,
        "_prepare_generation_config _add_stop_words _add_request", "turn_preparation",
        "how a request is handed to vLLM"),
    Use(Group.ROLLOUT, "swift.infer_engine.vllm_engine", "VllmEngine._add_request", Kind.MENTIONED,
        "add_request", "turn_preparation",
        "asks vLLM's engine by this method alone"),
    Use(Group.ROLLOUT, "swift.infer_engine.vllm_engine", "VllmEngine.infer", Kind.MENTIONED,
        "_request_count set_default_max_tokens template engine set_mode",
        "engine_feed turn_preparation",
        "names of requests, the room of a turn, the template in the engine's mode"),
    Use(Group.CALLBACK, _ROLLOUT, "RolloutTrainerMixin", Kind.DEFINED,
        "_move_model_to_vllm _infer_single_or_multi_turn", "step_times",
        "timed"),
    Use(Group.CALLBACK, _GRPO, "GRPOTrainer", Kind.DEFINED,
        "_compute_rewards_per_func _prepare_batch_inputs _get_per_token_logps_and_entropies "
        "training_step",
        "step_times",
        "timed"),
    Use(Group.ROLLOUT, _GRPO, "GRPOTrainer._get_per_token_logps_and_entropies", Kind.PARAMETER,
        "model_inputs grpo_batch", "old_logprobs",
        "left out where it computes what the loss computes again"),
    Use(Group.ROLLOUT, _GRPO, "GRPOTrainer", Kind.DEFINED,
        "old_policy _prepare_batch_inputs", "old_logprobs",
        "whether a sample is used in several updates; where the old ones are computed"),
    Use(Group.ROLLOUT, _GRPO, "GRPOTrainer._prepare_batch_inputs", Kind.MENTIONED,
        "_get_per_token_logps_and_entropies old_per_token_logps", "old_logprobs",
        "asks for them, by a method of its own"),
    Use(Group.ROLLOUT, _GRPO, "GRPOTrainer", Kind.MENTIONED,
        "kl_in_reward beta use_liger_loss _has_teacher_explicit async_generate", "old_logprobs",
        "who else reads old log-probabilities"),
    Use(Group.ROLLOUT, _GRPO, "GRPOTrainer._compute_loss_and_metrics", Kind.MENTIONED,
        "old_per_token_logps detach", "old_logprobs",
        "takes its own where none are given"),
    Use(Group.PICTURES, _TEMPLATE, "Template", Kind.DEFINED,
        "_load_image", "picture_cache",
        "replaced: decodes a picture"),
    Use(Group.PICTURES, _TEMPLATE, "", Kind.DEFINED,
        "rescale_image", "picture_cache",
        "replaced: shrinks a picture to --max_pixels"),
    Use(Group.PICTURES, _TEMPLATE, "Template._preprocess_inputs", Kind.MENTIONED,
        "rescale_image", "picture_cache",
        "calls the function that is replaced"),
    Use(Group.PICTURES, _QWEN, "Qwen2VLTemplate.replace_tag", Kind.MENTIONED,
        "fetch_image", "picture_cache",
        "imports the function of qwen_vl_utils when it is called"),
)
# fmt: on
