"""The flags of ms-swift that cannot be used with ``--O3 true``, as data.

Found by going through the arguments of ``swift rlhf``, ``swift sft`` and ``swift rollout`` of
ms-swift 4.6 one by one. :mod:`swift_thyme.host.flag_check` refuses a job that meets a refused row,
before anything is loaded. Rows that work are in :mod:`swift_thyme.host.working_flags`;
``docs/flags.md`` is written from both, and a test of each row holds it to its word.
"""

from __future__ import annotations

from swift_thyme.host.flag_row import Condition, FlagRow, Job, Outcome

__all__ = ["HOST_ROWS", "JOB_ROWS", "REFUSED_ROWS"]

_TESTS = "tests/host/test_flag_table.py"
_JOB_TEST = f"{_TESTS}::test_a_job_in_which_the_flag_does_nothing_is_refused"
_REFUSED_TEST = f"{_TESTS}::test_a_flag_that_cannot_work_is_refused_in_one_line"
_HOST_TEST = f"{_TESTS}::test_ms_swift_refuses_with_its_own_message"

_REASONS = "tests/host/test_flag_paths.py"

_ROLLOUTS = (Job.GRPO, Job.ROLLOUT)
_TRAINING = (Job.GRPO, Job.SFT)
_ASK = "`thyme ask`, `thyme serve` and `thyme eval` run code outside training"


def _job(job: Job, why: str, instead: str, *example: str) -> FlagRow:
    return FlagRow(
        flags=job.value,
        jobs=(job,),
        outcome=Outcome.REFUSED,
        why=why,
        instead=instead,
        example=example,
        test=_JOB_TEST,
    )


def _refused(
    flags: str,
    jobs: tuple[Job, ...],
    why: str,
    instead: str,
    *example: str,
    when: tuple[Condition, ...],
    fields: str = "",
    shown: str = "",
) -> FlagRow:
    return FlagRow(
        flags=flags,
        jobs=jobs,
        outcome=Outcome.REFUSED,
        why=why,
        instead=instead,
        example=example,
        when=when,
        why_test=f"{_REASONS}::{shown}" if shown else "",
        fields=(*(condition.field for condition in when), *fields.split()),
        test=_REFUSED_TEST,
    )


def _host(flags: str, job: Job, error: str, *example: str, fields: str = "") -> FlagRow:
    return FlagRow(
        flags=flags,
        jobs=(job,),
        outcome=Outcome.HOST,
        why=f"it says: {error}",
        error=error,
        example=example,
        fields=tuple(fields.split()),
        test=_HOST_TEST,
    )


JOB_ROWS = (
    _job(
        Job.OTHER_RLHF,
        "only the GRPO trainer has a multi-turn scheduler, so no code would run "
        "(GKD included, whose configuration lacks --multi_turn_scheduler)",
        "use --rlhf_type grpo; to train on given rows, leave --O3 out and give --loss_scale "
        "last_round+thyme, which masks sandbox outputs",
        *("--rlhf_type", "gkd"),
    ),
    _job(
        Job.MEGATRON_RLHF,
        "Megatron has a trainer, a callback map and rewards of its own, which this package does "
        "not know",
        "use `swift rlhf --rlhf_type grpo` with --deepspeed zero3",
        *("--rlhf_type", "grpo"),
    ),
    _job(
        Job.PRETRAIN,
        "pre-training reads plain text, so nothing rolls out and sandbox outputs are trained on",
        "use `swift sft --O3 true`",
    ),
    _job(
        Job.MEGATRON_PRETRAIN,
        "pre-training reads plain text, so nothing rolls out and sandbox outputs are trained on",
        "use `megatron sft --O3 true`",
    ),
    _job(Job.INFER, "ms-swift's inference runs no code", _ASK),
    _job(Job.DEPLOY, "ms-swift's server runs no code", _ASK),
    _job(Job.APP, "ms-swift's app runs no code", _ASK),
    _job(
        Job.EVAL,
        "ms-swift's evaluation runs no code",
        _ASK,
        *("--eval_dataset", "gsm8k"),
    ),
    _job(Job.SAMPLE, "ms-swift's sampler runs no code", _ASK, "--sampler_type", "sample"),
    _job(
        Job.EXPORT,
        "nothing rolls out",
        "leave it out; for --to_cached_dataset give --loss_scale thyme, which masks sandbox "
        "outputs",
    ),
    _job(Job.MEGATRON_EXPORT, "nothing rolls out", "leave it out"),
    _job(Job.OTHER, "nothing rolls out", "use swift rlhf --rlhf_type grpo, rollout or sft"),
)
"""Jobs in which ``--O3 true`` would do nothing."""

REFUSED_ROWS = (
    _refused(
        "--teacher_model_server URL",
        (Job.GRPO,),
        "ms-swift looks for the sampled tokens in one piece, so the log-probabilities of an API "
        "teacher stop at the first observation",
        "use --teacher_model, a local teacher",
        *("--teacher_model_server", "http://127.0.0.1:9"),
        when=(Condition("teacher_model_server"),),
        shown="test_an_api_teacher_is_lost_at_the_first_observation",
        fields="teacher_tag_key",
    ),
    _refused(
        "--advantage_reweight rlsd",
        (Job.GRPO,),
        "ms-swift encodes the teacher's view without the loss mask, so observations count as "
        "sampled and the lengths differ",
        "leave it out, or use --teacher_model with --teacher_kl_coef",
        *("--advantage_reweight", "rlsd"),
        when=(Condition("advantage_reweight"),),
        shown="test_a_teachers_own_view_takes_observations_for_sampled",
        fields="rlsd_lambda rlsd_reweight_clip_range rlsd_lambda_warmup_steps "
        "rlsd_lambda_decay_steps rlsd_negative_only",
    ),
    _refused(
        "--sdar_loss_coef above 0",
        (Job.GRPO,),
        "ms-swift encodes the teacher's view without the loss mask, so observations count as "
        "sampled and the lengths differ",
        "leave it out, or use --teacher_model with --teacher_kl_coef",
        *("--sdar_loss_coef", "0.1"),
        when=(Condition("sdar_loss_coef"),),
        shown="test_a_teachers_own_view_takes_observations_for_sampled",
        fields="sdar_gate_beta",
    ),
    _refused(
        "--loss_type real or fipo",
        (Job.GRPO,),
        "ms-swift 4.6 takes every run for one with a teacher, and stops at the first loss",
        "use grpo, bnpo, dr_grpo, dapo, cispo or sapo",
        *("--loss_type", "fipo"),
        when=(Condition("loss_type", ("real", "fipo")),),
        shown="test_ms_swift_takes_a_run_without_a_teacher_for_one_with_it",
        fields="real_tau fipo_decay_rate fipo_clip_range fipo_clip_high_only fipo_safety_threshold",
    ),
    _refused(
        "--off_policy_sequence_mask_delta",
        (Job.GRPO,),
        "ms-swift 4.6 takes every run for one with a teacher, and stops at the first loss",
        "use --rollout_importance_sampling_mode sequence_mask",
        *("--off_policy_sequence_mask_delta", "0.1"),
        when=(Condition("off_policy_sequence_mask_delta"),),
        shown="test_ms_swift_takes_a_run_without_a_teacher_for_one_with_it",
    ),
    _refused(
        "--structured_outputs_regex PATTERN",
        _ROLLOUTS,
        "the engine would begin the pattern again in each turn, after each output of the sandbox",
        "leave it out; fmt_orm rewards the format",
        *("--structured_outputs_regex", "a+"),
        when=(Condition("structured_outputs_regex"),),
    ),
    _refused(
        "--use_gym_env true or --gym_env NAME",
        _ROLLOUTS,
        "the scheduler o3 has one environment, the sandbox, and returns no total_reward",
        "use --reward_funcs, or a --multi_turn_scheduler of your own",
        *("--gym_env", "name"),
        when=(
            Condition("use_gym_env", our_scheduler=True),
            Condition("gym_env", our_scheduler=True),
        ),
    ),
    _refused(
        "--vllm_speculative_config JSON",
        _ROLLOUTS,
        "vLLM takes no logits processor beside speculative decoding, and the sampling hook is one",
        "leave it out",
        *("--vllm_speculative_config", '{"method": "ngram", "num_speculative_tokens": 2}'),
        when=(Condition("vllm_speculative_config"),),
    ),
    _refused(
        "--vllm_engine_kwargs with speculative_config",
        _ROLLOUTS,
        "vLLM takes no logits processor beside speculative decoding, and the sampling hook is one",
        "leave it out",
        *("--vllm_engine_kwargs", '{"speculative_config": {"method": "ngram"}}'),
        when=(Condition("vllm_engine_kwargs", key="speculative_config"),),
    ),
    _refused(
        "--reward_model without --reward_model_plugin",
        (Job.GRPO,),
        "ms-swift's plugins put the images of observations in front of the question",
        "use --reward_funcs and the judge (docs/rewards.md); where the reward model reads text "
        "alone give --reward_model_plugin default, else a plugin of your own",
        *("--reward_model", "some/model"),
        when=(Condition("reward_model", unless="reward_model_plugin"),),
        shown="test_a_reward_model_sees_returned_images_in_the_wrong_place",
        fields="reward_model_plugin reward_adapters reward_model_type reward_model_revision "
        "reward_template",
    ),
    _refused(
        "--streaming true",
        (Job.GRPO,),
        "ms-swift does not repeat the rows of a stream, so a group would be of different prompts",
        "leave it out",
        *("--streaming", "true", "--max_steps", "1"),
        when=(Condition("streaming"),),
        fields="shuffle_buffer_size interleave_prob stopping_strategy",
    ),
    _refused(
        "--sequence_parallel_size above 1 without --padding_free true",
        (Job.GRPO,),
        "where the length of a batch is no multiple of it, ms-swift 4.6 takes the log-probability "
        "of each token's neighbour, of observations too",
        "give --padding_free true with it, or leave it out",
        *("--sequence_parallel_size", "2"),
        when=(Condition("sequence_parallel_size", above=1, unless="padding_free"),),
        shown="test_sequence_parallelism_takes_the_neighbours_of_tokens_without_padding_free",
    ),
    _refused(
        "--template_backend jinja",
        (*_TRAINING, Job.ROLLOUT, Job.MEGATRON_SFT),
        "a chat template in Jinja knows neither token ids nor which of them are trained on",
        "leave it out",
        *("--template_backend", "jinja"),
        when=(Condition("template_backend", ("jinja",)),),
    ),
    _refused(
        "--loss_scale all",
        (Job.GRPO,),
        "the prompt would be trained on as if it had been sampled",
        "leave it out: in GRPO the scheduler says which tokens are trained on",
        *("--loss_scale", "all"),
        when=(Condition("loss_scale", ("all",), within=True),),
        shown="test_the_loss_scale_all_would_train_on_the_prompt",
    ),
    _refused(
        "--cached_dataset",
        (Job.SFT, Job.MEGATRON_SFT),
        "its labels were made by `swift export`, so no loss scale changes them",
        "give `swift export --to_cached_dataset true` --loss_scale thyme and "
        "--external_plugins sft_only.py, and train without --O3",
        *("--cached_dataset", "folder"),
        when=(Condition("cached_dataset"), Condition("cached_val_dataset")),
    ),
    _refused(
        "--use_ray true",
        (*_TRAINING, Job.MEGATRON_SFT),
        "the actors of Ray import no plugin, so neither images nor loss masks are accounted for",
        "use torchrun (NPROC_PER_NODE) or scripts/rl_server.sh",
        *("--use_ray", "true"),
        when=(Condition("use_ray"),),
        fields="ray_exp_name device_groups",
    ),
)
"""Flags that stop the job when it starts."""

HOST_ROWS = (
    _host(
        "--async_generate true",
        Job.GRPO,
        "async_generate is not supported with multi-turn functionality",
        *("--use_vllm", "true", "--vllm_mode", "server", "--vllm_server_host", "127.0.0.1"),
        *("--async_generate", "true"),
        fields="async_generate",
    ),
    _host(
        "--truncation_strategy right or split",
        Job.GRPO,
        "GRPO requires `truncation_strategy 'left' or 'delete'`",
        *("--truncation_strategy", "right"),
    ),
    _host(
        "--padding_free true without flash attention",
        Job.GRPO,
        'The "padding_free" feature requires a flash attention implementation',
        *("--padding_free", "true", "--attn_impl", "sdpa"),
    ),
    _host(
        "--packing true without flash attention",
        Job.GRPO,
        'The "packing" feature requires a flash attention implementation',
        *("--packing", "true", "--attn_impl", "sdpa"),
    ),
    _host(
        "--packing true without flash attention",
        Job.SFT,
        'The "packing" feature requires a flash attention implementation',
        *("--packing", "true", "--attn_impl", "sdpa"),
    ),
    _host(
        "--packing true with --lazy_tokenize true",
        Job.SFT,
        "Packing and lazy_tokenize are incompatible",
        *("--packing", "true", "--lazy_tokenize", "true"),
    ),
    _host(
        "--streaming true with --lazy_tokenize true",
        Job.SFT,
        "Streaming and lazy_tokenize are incompatible",
        *("--streaming", "true", "--max_steps", "1", "--lazy_tokenize", "true"),
    ),
    _host(
        "--cached_dataset",
        Job.GRPO,
        "cached_dataset is not supported for GRPO",
        *("--cached_dataset", "folder"),
    ),
    _host(
        "--vllm_mode without --use_vllm true",
        Job.GRPO,
        "vllm_mode is not supported when use_vllm is false",
        *("--vllm_mode", "colocate"),
    ),
    _host(
        "--vllm_reasoning_parser NAME",
        Job.GRPO,
        "vllm_reasoning_parser is not supported for GRPO Training",
        *("--vllm_reasoning_parser", "qwen3"),
        fields="vllm_reasoning_parser",
    ),
    _host(
        "--vllm_reasoning_parser NAME",
        Job.ROLLOUT,
        "vllm_reasoning_parser is not supported for Rollout",
        *("--vllm_reasoning_parser", "qwen3"),
    ),
    _host(
        "--vllm_pipeline_parallel_size above 1",
        Job.ROLLOUT,
        "RolloutArguments does not support pipeline parallelism",
        *("--vllm_pipeline_parallel_size", "2"),
        fields="vllm_pipeline_parallel_size",
    ),
    _host(
        "--context_manager NAME",
        Job.ROLLOUT,
        'The "context_manager" argument has been removed',
        *("--context_manager", "name"),
        fields="context_manager",
    ),
    _host(
        "--ref_model with --tuner_type lora",
        Job.GRPO,
        "LoRA training does not require a ref_model",
        *("--ref_model", "some/model", "--tuner_type", "lora"),
    ),
    _host(
        "--num_generations 1",
        Job.GRPO,
        "num_generations must be greater than 1",
        *("--num_generations", "1"),
    ),
    _host(
        "--num_generations that does not divide the batch of a rollout",
        Job.GRPO,
        "must be evenly divisible by num_generations",
        *("--num_generations", "3"),
    ),
)
"""Combinations that ms-swift itself refuses, with or without ``--O3 true``."""
