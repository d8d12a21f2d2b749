"""The flags of ms-swift that work with ``--O3 true`` though they touch what it does, as data.

Each row says how, and names the test that shows it. ``UNTOUCHED`` lists the flags that have nothing
to do with rollouts, token ids, masks or images; a test compares both with ms-swift's own argument
classes, so a flag that a later version adds is noticed.
"""

from __future__ import annotations

from swift_thyme.host.flag_row import FlagRow, Job, Outcome

__all__ = ["UNTOUCHED", "WORKING_ROWS"]

_JOBS = "tests/e2e/test_flag_jobs.py"
_ENGINE_JOB = f"{_JOBS}::test_what_is_trained_on_is_what_was_sampled"
_DYNAMIC_JOB = f"{_JOBS}::test_dynamic_sampling_counts_dropped_trajectories_too"
_PATHS = "tests/host/test_flag_paths.py"
_FLAG = "tests/host/test_flag.py"
_ROLLOUT_IDS = (
    "tests/e2e/test_rollouts.py::"
    "test_the_ids_that_are_trained_on_are_the_ids_that_the_engine_sampled"
)


def _works(
    flags: str,
    why: str,
    test: str,
    *example: str,
    fields: str,
    jobs: tuple[Job, ...] = (Job.GRPO,),
) -> FlagRow:
    return FlagRow(
        flags=flags,
        jobs=jobs,
        outcome=Outcome.WORKS,
        why=why,
        example=example,
        fields=tuple(fields.split()),
        test=test,
    )


WORKING_ROWS = (
    # the rollout
    _works(
        "--multi_turn_scheduler NAME",
        "kept, with a warning: that scheduler runs, and no code",
        f"{_FLAG}::test_o3_overrides_nothing_that_the_user_set",
        *("--multi_turn_scheduler", "math_tip_trick"),
        fields="multi_turn_scheduler",
    ),
    _works(
        "--max_turns N",
        "at most N - 1 blocks run, because the last turn has no reader for an output",
        f"{_FLAG}::test_o3_overrides_nothing_that_the_user_set",
        *("--max_turns", "2"),
        fields="max_turns",
        jobs=(Job.GRPO, Job.ROLLOUT),
    ),
    _works(
        "--stop_words WORDS",
        "the tags are added; another word ends the trajectory as end_of_text; <code> stands for "
        "a temperature of code",
        f"{_FLAG}::test_the_code_tag_among_the_stop_words_means_a_temperature_of_its_own",
        *("--stop_words", "###"),
        fields="stop_words",
        jobs=(Job.GRPO, Job.ROLLOUT),
    ),
    _works(
        "--completion_length_limit_scope total",
        "the model's own tokens of all turns count, outputs do not",
        _ENGINE_JOB,
        *("--completion_length_limit_scope", "total"),
        fields="completion_length_limit_scope max_completion_length max_new_tokens response_length",
    ),
    _works(
        "--max_length, --vllm_max_model_len",
        "the smaller of them is the limit of prompt, turns and outputs together",
        "tests/host/test_scheduler.py::test_the_limits_agree_with_each_other",
        *("--max_length", "1024"),
        fields="max_length vllm_max_model_len",
        jobs=(Job.GRPO, Job.ROLLOUT),
    ),
    _works(
        "--truncation_strategy delete",
        "a row whose prompt is longer than --max_length is replaced; with `left`, the default, it "
        "ends as length_limit without a token to train on",
        f"{_JOBS}::test_rows_that_are_too_long_are_replaced",
        *("--truncation_strategy", "delete"),
        fields="truncation_strategy",
    ),
    _works(
        "--temperature, --top_k, --top_p, --min_p, --repetition_penalty",
        "hold for text; with <code> among the stop words code is sampled greedily",
        "tests/sampling/test_engines.py::"
        "test_top_k_top_p_a_penalty_and_a_seed_change_nothing_inside_code",
        *("--top_k", "50", "--top_p", "0.9", "--repetition_penalty", "1.05", "--min_p", "0.01"),
        fields="temperature top_k top_p min_p repetition_penalty",
    ),
    _works(
        "--use_vllm, --vllm_mode colocate",
        "the transformers engine and vLLM give the same ids, masks and log-probabilities",
        _ROLLOUT_IDS,
        *("--use_vllm", "true", "--vllm_mode", "colocate"),
        fields="use_vllm vllm_mode",
    ),
    _works(
        "--vllm_limit_mm_per_prompt JSON",
        "its `image` is the limit of the prompt's and all returned images together",
        f"{_FLAG}::test_o3_overrides_nothing_that_the_user_set",
        *("--vllm_limit_mm_per_prompt", '{"image": 3}'),
        fields="vllm_limit_mm_per_prompt",
        jobs=(Job.GRPO, Job.ROLLOUT),
    ),
    _works(
        "--vllm_enable_prefix_caching true or false",
        "the turns of a trajectory share their beginning; ms-swift empties the cache with each "
        "change of the weights",
        _ENGINE_JOB,
        *("--vllm_enable_prefix_caching", "false"),
        fields="vllm_enable_prefix_caching",
        jobs=(Job.GRPO, Job.ROLLOUT),
    ),
    _works(
        "--vllm_engine_kwargs JSON",
        "kept; the sampling hook is added to its logits_processors",
        f"{_FLAG}::test_o3_overrides_nothing_that_the_user_set",
        *("--vllm_engine_kwargs", '{"seed": 4}'),
        fields="vllm_engine_kwargs",
    ),
    _works(
        "--vllm_max_num_seqs N",
        "fewer sequences at once than samples",
        _ENGINE_JOB,
        *("--vllm_max_num_seqs", "4"),
        fields="vllm_max_num_seqs",
    ),
    _works(
        "--vllm_use_async_engine",
        "set for `swift rollout`, whose scheduler needs it; colocate mode never has it",
        f"{_FLAG}::test_a_rollout_server_is_started_with_the_sampling_hook",
        *("--vllm_use_async_engine", "true"),
        fields="vllm_use_async_engine",
        jobs=(Job.ROLLOUT,),
    ),
    # the loss
    _works(
        "--num_iterations N, --steps_per_generation N, --generation_batch_size N",
        "a rollout is trained on again with the masks it came with, and counted once",
        _ENGINE_JOB,
        *("--num_iterations", "2"),
        fields="num_iterations steps_per_generation generation_batch_size",
    ),
    _works(
        "--loss_type grpo, bnpo, dr_grpo, dapo, cispo or sapo",
        "each sums over sampled tokens alone; dr_grpo divides by --max_completion_length, which is "
        "a limit per turn",
        f"{_PATHS}::test_outputs_of_the_sandbox_change_no_loss",
        *("--loss_type", "dapo"),
        fields="loss_type epsilon epsilon_high delta tau_pos tau_neg beta",
    ),
    _works(
        "--importance_sampling_level token, sequence or sequence_token",
        "a sequence is its sampled tokens",
        f"{_PATHS}::test_outputs_of_the_sandbox_change_no_loss",
        *("--importance_sampling_level", "sequence"),
        fields="importance_sampling_level",
    ),
    _works(
        "--log_entropy true, --top_entropy_quantile Q",
        "over sampled tokens; greedy code counts with the entropy that the model has there",
        _ENGINE_JOB,
        *("--log_entropy", "true", "--top_entropy_quantile", "0.5"),
        fields="log_entropy top_entropy_quantile",
    ),
    _works(
        "--advantage_estimator grpo, rloo or reinforce_plus_plus, --scale_rewards",
        "a reward that is missing adds nothing to an advantage",
        "tests/host/test_missing_rewards.py::"
        "test_ms_swift_gives_unscored_samples_no_advantage_with_any_of_its_estimators",
        *("--advantage_estimator", "rloo"),
        fields="advantage_estimator scale_rewards reward_weights",
    ),
    _works(
        "--kl_in_reward true",
        "the divergence is summed over sampled tokens",
        _ENGINE_JOB,
        *("--kl_in_reward", "true"),
        fields="kl_in_reward",
    ),
    _works(
        "--ref_model, --ref_adapters, --sync_ref_model true",
        "the reference sees the same ids and images",
        _ENGINE_JOB,
        *("--sync_ref_model", "true"),
        fields="ref_model ref_adapters ref_model_type ref_model_revision sync_ref_model "
        "ref_model_sync_steps ref_model_mixup_alpha",
    ),
    _works(
        "--rollout_importance_sampling_mode MODE, --log_rollout_offpolicy_metrics true",
        "vLLM alone gives log-probabilities of a rollout; greedy code tokens have 0",
        _ENGINE_JOB,
        *("--rollout_importance_sampling_mode", "token_mask"),
        fields="rollout_importance_sampling_mode rollout_importance_sampling_threshold "
        "log_rollout_offpolicy_metrics",
    ),
    _works(
        "--overlong_filter true",
        "length_limit, image_limit, repetition and deadline count as truncated",
        "tests/e2e/test_sampling_jobs.py::"
        "test_a_model_that_is_pushed_to_write_placeholders_trains_and_loops_are_truncated",
        *("--overlong_filter", "true"),
        fields="overlong_filter",
    ),
    _works(
        "--dynamic_sample true",
        "metrics count every trajectory that was sampled; kept trajectories are those trained on",
        _DYNAMIC_JOB,
        *("--dynamic_sample", "true"),
        fields="dynamic_sample max_resample_times",
    ),
    _works(
        "--reward_funcs soft_overlong, cosine or repetition",
        "see the model's own text and its length, without outputs; the length is that of all "
        "turns, so give --soft_max_length or --cosine_max_len for all of them",
        "tests/host/test_length_rewards.py::test_outputs_of_the_sandbox_are_no_length_of_the_model",
        *("--reward_funcs", "soft_overlong", "--soft_cache_length", "64"),
        fields="reward_funcs soft_max_length soft_cache_length cosine_min_len_value_wrong "
        "cosine_max_len_value_wrong cosine_min_len_value_correct cosine_max_len_value_correct "
        "cosine_max_len repetition_n_grams repetition_max_penalty",
    ),
    _works(
        "--teacher_model PATH",
        "a local teacher sees the same ids and images (OPD); a data column teacher_prompt or "
        "teacher_images is refused",
        _ENGINE_JOB,
        *("--teacher_model", "{model}"),
        fields="teacher_model teacher_adapters teacher_model_type teacher_model_revision "
        "teacher_deepspeed teacher_kl_coef offload_teacher_model",
    ),
    _works(
        "--chord_sft_dataset PATH",
        "its demonstrations get --loss_scale thyme",
        _ENGINE_JOB,
        *("--chord_sft_dataset", "rows.jsonl"),
        fields="chord_sft_dataset chord_sft_per_device_train_batch_size "
        "chord_enable_phi_function chord_mu_warmup_steps chord_mu_decay_steps chord_mu_peak "
        "chord_mu_valley",
    ),
    _works(
        "--loss_scale default, last_round or thyme",
        "change nothing in a rollout, whose scheduler says what is trained on",
        f"{_PATHS}::test_a_loss_scale_changes_no_label_of_a_rollout",
        *("--loss_scale", "thyme"),
        fields="loss_scale is_binary_loss_scale disable_ignore_empty_think",
    ),
    _works(
        "--padding_free true, --packing true",
        "in GRPO both flatten a batch; mask and log-probabilities stay with their tokens; needs "
        "flash attention",
        f"{_PATHS}::test_a_flattened_batch_has_the_masks_of_a_padded_one",
        fields="padding_free packing packing_length packing_num_proc packing_strategy",
    ),
    _works(
        "--sequence_parallel_size N --padding_free true",
        "the processes of a group share each sequence; without --padding_free it is refused",
        f"{_PATHS}::test_sequence_parallelism_with_padding_free_takes_the_tokens_themselves",
        fields="",
    ),
    _works(
        "--use_liger_kernel true",
        "the fused loss is given the mask of sampled tokens; ms-swift names what it cannot be "
        "combined with",
        f"{_PATHS}::test_a_fused_loss_is_given_the_mask_of_sampled_tokens",
        fields="",
    ),
    _works(
        "--tuner_type full or lora, --vllm_enable_lora true",
        "the engine has the trained weights either way",
        "tests/e2e/test_jobs.py::test_lora_with_vllm",
        *("--tuner_type", "lora", "--use_vllm", "true", "--vllm_mode", "colocate"),
        fields="tuner_type vllm_enable_lora vllm_max_lora_rank lora_rank adapters",
    ),
    _works(
        "--callbacks NAMES",
        "kept; thyme is added",
        f"{_FLAG}::test_o3_overrides_nothing_that_the_user_set",
        *("--callbacks", "early_stop"),
        fields="callbacks early_stop_interval",
    ),
    _works(
        "--num_generations_eval N, --eval_strategy",
        "trajectories of an evaluation are counted under eval_",
        _ENGINE_JOB,
        *("--num_generations_eval", "2"),
        fields="num_generations num_generations_eval",
    ),
    # supervised training
    _works(
        "--loss_scale NAME",
        "kept; without it O3 sets thyme, which masks sandbox outputs",
        f"{_FLAG}::test_o3_sets_the_loss_scale_of_supervised_training_alone",
        *("--loss_scale", "default"),
        fields="loss_scale",
        jobs=(Job.SFT,),
    ),
    _works(
        "--streaming true, --lazy_tokenize, --group_by_length, --use_liger_kernel true",
        "the labels of a row are the same, however it is read; thyme is a binary scale, so a "
        "fused loss sees labels alone",
        "tests/host/test_flag_paths.py::test_the_loss_scale_of_rows_is_in_their_labels",
        *("--streaming", "true", "--max_steps", "1"),
        fields="lazy_tokenize group_by_length",
        jobs=(Job.SFT,),
    ),
    _works(
        "megatron sft",
        "gets --loss_scale thyme as `swift sft` does",
        "tests/host/test_flag_table.py::test_supervised_training_of_megatron_masks_outputs",
        fields="",
        jobs=(Job.MEGATRON_SFT,),
    ),
)
"""Flags that touch what ``--O3 true`` does, and work."""


UNTOUCHED = {
    "of supervised training or of another kind of --rlhf_type": (
        "num_ppo_epochs whiten_rewards kl_coef cliprange vf_coef cliprange_value gamma lam "
        "num_mini_batches local_rollout_forward_batch_size num_sample_generations "
        "missing_eos_penalty label_smoothing rpo_alpha ld_alpha discopop_tau loss_weights "
        "cpo_alpha simpo_gamma desirable_weight undesirable_weight center_rewards_coefficient "
        "sft_alpha lmbda seq_kd gkd_logits_topk enable_dft_loss enable_channel_loss mrl_dims "
        "rlhf_type"
    ),
    "which rows there are and in what order": (
        "dataset val_dataset split_dataset_ratio data_seed dataset_num_proc load_from_cache_file "
        "dataset_shuffle val_dataset_shuffle download_mode columns strict remove_unused_columns "
        "disable_auto_column_mapping custom_dataset_info model_name model_author "
        "decision_drop_instructions decision_subsample_options decision_state_as_text "
        "decision_shuffle_fields train_dataloader_shuffle"
    ),
    "how a prompt is written": (
        "template system agent_template norm_bbox use_chat_template padding_side "
        "preserve_thinking add_non_thinking_prefix response_prefix enable_thinking max_pixels"
    ),
    "not read by a rollout of ms-swift": "num_beams stream logprobs top_logprobs",
    "where vLLM runs and how it uses its memory": (
        "vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_enable_expert_parallel "
        "vllm_disable_custom_all_reduce vllm_enforce_eager vllm_quantization "
        "vllm_disable_cascade_attn vllm_mm_processor_cache_gb vllm_data_parallel_size "
        "sleep_level move_model_batches offload_optimizer offload_model"
    ),
    "how a trainer reaches its server": (
        "vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout "
        "vllm_server_group_port vllm_server_pass_dataset enable_flattened_weight_sync"
    ),
    "how weights are stepped, checked and saved": (
        "tuner_backend vit_gradient_checkpointing router_aux_loss_coef safe_serialization "
        "max_shard_size check_model acc_strategy max_epochs aligner_lr vit_lr use_logits_to_keep "
        "ds3_gather_for_generation resume_only_model optimizer use_flash_ckpt warmup_ratio "
        "zero_hpz_partition_size deepspeed_autotp_size use_galore galore_target_modules "
        "galore_rank galore_update_proj_gap galore_scale galore_proj_type "
        "galore_optim_per_parameter galore_with_embedding galore_quantization galore_proj_quant "
        "galore_proj_bits galore_proj_group_size galore_cos_threshold galore_gamma_proj "
        "galore_queue_size lisa_activated_layers lisa_step_interval"
    ),
    "what is measured and written": (
        "eval_metric eval_use_evalscope eval_dataset eval_dataset_args eval_limit "
        "eval_generation_config extra_eval_args logging_dir log_completions "
        "wandb_log_unique_prompts add_version create_checkpoint_symlink"
    ),
    "how the command starts": (
        "external_plugins custom_register_path model_kwargs enable_npu_model_patch load_args "
        "load_data_args use_hf ignore_args_error use_swift_lora"
    ),
    "of `swift rollout`, about its server or another engine": (
        "infer_backend result_path write_batch_size metric max_batch_size val_dataset_sample "
        "reranker_use_activation host port api_key ssl_keyfile ssl_certfile owned_by "
        "served_model_name verbose log_interval log_level max_logprobs merge_lora"
    ),
}
"""Flags that have nothing to do with a rollout's ids, masks and images: reason to fields. Not named
here are whole classes: of the model, quantization, adapters, SwanLab, SGLang, LMDeploy, and of
transformers' trainer."""
