"""The table of :mod:`swift_thyme.host.contract`: what is used of ms-swift, where and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from swift_thyme.host.compiled_names import Scope, find_scope

__all__ = ["DOCUMENTED", "JOB_GROUPS", "USES", "Group", "Kind", "Piece", "Use"]


class Group(Enum):
    """A feature that needs names of ms-swift; the value says it in a message."""

    FLAG = "the flag --O3"
    ROLLOUT = "multi-turn rollouts"
    IMAGES = "images that code returns"
    PICTURES = "upright pictures"
    REWARDS = "the rewards"
    LOSS_SCALE = "the loss scale thyme"
    CALLBACK = "metrics and kept trajectories"
    SAMPLING = "the sampling hook in transformers"
    INFERENCE = "inference with a local model"
    TESTBED = "the testbed"


JOB_GROUPS = (
    Group.FLAG,
    Group.ROLLOUT,
    Group.IMAGES,
    Group.PICTURES,
    Group.REWARDS,
    Group.LOSS_SCALE,
    Group.CALLBACK,
    Group.SAMPLING,
)
"""What the plugin of the main job needs."""


class Kind(Enum):
    """What is expected of a name; the value says it in a message."""

    DEFINED = "{place}.{name}"
    """The owner defines, imports or annotates it."""
    PARAMETER = "the parameter {name} of {place}"
    """The owner, a function, takes it."""
    VARIABLE = "the variable {name} in {place}"
    """The owner, a function, keeps it as a local variable."""
    MENTIONED = "any use of {name} in {place}"
    """The owner's code uses it: an attribute of its object, a method that it calls, or a key."""


class Piece(NamedTuple):
    """One name."""

    module: str
    owner: str
    """Dotted path of a class or function in the module; empty for the module itself."""
    kind: Kind
    name: str

    def __str__(self) -> str:
        place = f"{self.module}.{self.owner}" if self.owner else self.module
        return self.kind.value.format(place=place, name=self.name)

    def is_there(self, module: Scope) -> bool:
        """Look the name up in its module."""
        owner = find_scope(module, self.owner)
        if owner is None:
            return False
        look = {
            Kind.DEFINED: owner.defines,
            Kind.PARAMETER: owner.takes,
            Kind.VARIABLE: owner.holds,
            Kind.MENTIONED: owner.mentions,
        }
        return look[self.kind](self.name)


@dataclass(frozen=True, slots=True)
class Use:
    """Names of one owner that are used for one purpose."""

    group: Group
    module: str
    owner: str
    kind: Kind
    names: str
    """Separated by spaces."""
    used_in: str
    """Modules of ``swift_thyme.host`` that use them, separated by spaces."""
    why: str

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The names one by one."""
        return tuple(Piece(self.module, self.owner, self.kind, name) for name in self.names.split())


DOCUMENTED = frozenset(
    {
        "swift.callbacks.callbacks_map",
        "swift.callbacks.base.TrainerCallback",
        "swift.loss_scale.LossScale",
        "swift.loss_scale.loss_scale_map",
        "swift.rewards.AsyncORM",
        "swift.rewards.ORM",
        "swift.rewards.orms",
        "swift.rollout.multi_turns",
        "swift.rollout.multi_turn.MultiTurnScheduler",
        "swift.template.register_template",
    }
)
"""ms-swift's plugin interface. A name that is missing here fails where it is imported."""

_TEMPLATE = "swift.template.base"
_QWEN = "swift.template.templates.qwen"
_GRPO = "swift.rlhf_trainers.grpo_trainer"
_ROLLOUT = "swift.rlhf_trainers.rollout_mixin"
_ARGUMENTS = "swift.rlhf_trainers.args_mixin"
_DATA = "swift.rl_core.data"
_SERVER = "swift.pipelines.infer.rollout"

# fmt: off
USES = (
    # the flag --O3
    Use(Group.FLAG, "transformers.hf_argparser",
        "HfArgumentParser.parse_args_into_dataclasses", Kind.VARIABLE,
        "remaining_args args", "flag",
        "the flags that no argument class knows are in a list there, and --O3 is taken out of it"),
    Use(Group.FLAG, "swift.utils.utils", "parse_args", Kind.MENTIONED,
        "parse_args_into_dataclasses", "flag",
        "ms-swift's parser goes through that method"),
    Use(Group.FLAG, "swift.arguments.base_args.base_args",
        "BaseArguments._import_external_plugins", Kind.VARIABLE,
        "self", "flag",
        "the argument object that imports the plugin is found in that call"),
    Use(Group.FLAG, "swift.arguments.base_args.base_args",
        "BaseArguments.__post_init__", Kind.MENTIONED,
        "_import_external_plugins", "flag",
        "plugins are imported while the flags are parsed"),
    Use(Group.FLAG, "swift.arguments.sft_args", "", Kind.DEFINED,
        "SftArguments", "flag",
        "--O3 chooses the loss scale of `swift sft` alone"),
    Use(Group.FLAG, "swift.arguments.rlhf_args", "", Kind.DEFINED,
        "RLHFArguments", "flag",
        "--O3 chooses the loss scale of `swift sft` alone"),
    Use(Group.FLAG, "swift.arguments.pretrain_args", "", Kind.DEFINED,
        "PretrainArguments", "flag",
        "--O3 chooses the loss scale of `swift sft` alone"),
    Use(Group.FLAG, "swift.arguments.base_args.template_args", "TemplateArguments", Kind.DEFINED,
        "loss_scale", "flag",
        "--O3 fills it for `swift sft`"),

    # multi-turn rollouts
    Use(Group.ROLLOUT, "swift.arguments.rlhf_args", "RLHFArguments", Kind.DEFINED,
        "rlhf_type max_completion_length temperature", "flag scheduler",
        "--O3 fills what GRPO needs; the limits of a rollout"),
    Use(Group.ROLLOUT, _ARGUMENTS, "GRPOArgumentsMixin", Kind.DEFINED,
        "multi_turn_scheduler max_turns completion_length_limit_scope "
        "rollout_importance_sampling_mode off_policy_sequence_mask_delta",
        "flag scheduler",
        "--O3 fills the scheduler and the turn limit; the limits of a rollout; a warning"),
    Use(Group.ROLLOUT, _ARGUMENTS, "RolloutTrainerArgumentsMixin", Kind.DEFINED,
        "stop_words use_vllm", "flag scheduler",
        "--O3 adds the protocol's stop strings, and the sampling hook where vLLM samples"),
    Use(Group.ROLLOUT, _ARGUMENTS, "VllmArguments", Kind.DEFINED,
        "vllm_limit_mm_per_prompt vllm_engine_kwargs vllm_max_model_len", "flag scheduler",
        "--O3 allows images and loads the sampling hook; the limits of a rollout"),
    Use(Group.ROLLOUT, "swift.trainers.arguments", "TrainArgumentsMixin", Kind.DEFINED,
        "callbacks", "flag",
        "--O3 adds the callback thyme"),
    Use(Group.ROLLOUT, "swift.arguments.base_args.generation_args",
        "GenerationArguments", Kind.DEFINED,
        "stop_words", "flag",
        "--O3 adds the protocol's stop strings for `swift rollout`"),
    Use(Group.ROLLOUT, "swift.arguments.deploy_args", "RolloutArguments", Kind.DEFINED,
        "multi_turn_scheduler max_turns vllm_use_async_engine", "flag",
        "--O3 fills them for `swift rollout`"),
    Use(Group.ROLLOUT, "swift.rollout.multi_turn", "RolloutScheduler", Kind.DEFINED,
        "prepare_response_continuation tokenizer", "scheduler",
        "the ids and log-probabilities that the engine sampled"),
    Use(Group.ROLLOUT, "swift.rollout.multi_turn",
        "RolloutScheduler.prepare_response_continuation", Kind.PARAMETER,
        "response_choice", "scheduler",
        "the ids and log-probabilities that the engine sampled"),
    Use(Group.ROLLOUT, "swift.rollout.multi_turn", "RolloutScheduler.__init__", Kind.MENTIONED,
        "_template infer_engine", "scheduler",
        "a trainer hands the scheduler its template, a server its engine"),
    Use(Group.ROLLOUT, _ROLLOUT, "RolloutTrainerMixin._prepare_scheduler", Kind.MENTIONED,
        "template max_turns", "scheduler",
        "a trainer hands the scheduler its template and the turn limit"),
    Use(Group.ROLLOUT, _SERVER, "get_rollout_engine_type", Kind.MENTIONED,
        "infer_engine max_turns", "scheduler",
        "a server hands the scheduler its engine and the turn limit"),
    Use(Group.ROLLOUT, "swift.rollout.agent_loop", "_run_multi_turn_impl", Kind.MENTIONED,
        "done rollout_infos response_token_ids response_loss_mask rollout_logprobs "
        "infer_request",
        "scheduler",
        "what the scheduler's hooks return, by key"),
    Use(Group.ROLLOUT, "swift.infer_engine.protocol", "InferRequest", Kind.DEFINED,
        "messages", "scheduler",
        "the prompt and the turns so far"),
    Use(Group.ROLLOUT, "swift.infer_engine.protocol", "RolloutInferRequest", Kind.DEFINED,
        "images data_dict uuid", "scheduler",
        "the prompt's images, the data row, and the name of a trajectory"),
    Use(Group.ROLLOUT, "swift.infer_engine.protocol", "ChatCompletionResponseChoice", Kind.DEFINED,
        "finish_reason logprobs message", "scheduler",
        "how a turn ended, and its text; the first two are also written"),
    Use(Group.ROLLOUT, _DATA, "OnPolicySample.apply_rollout_output", Kind.MENTIONED,
        "rollout_infos _MULTIMODAL_KEYS finish_reason", "scheduler",
        "brings what the scheduler recorded, and the images that code returned, to the sample"),

    # images that code returns, and the token ids of a template
    Use(Group.IMAGES, "swift.template.utils", "", Kind.DEFINED,
        "get_token_backed_response_ids", "template_images",
        "finds the assistant's turns that are given as token ids"),
    Use(Group.IMAGES, _QWEN, "", Kind.DEFINED,
        "Qwen2VLTemplate", "template_images",
        "the family of templates that is supported"),
    Use(Group.IMAGES, _QWEN, "Qwen2VLTemplate", Kind.DEFINED,
        "replace_tag image_token_id", "template_images template_codec scheduler model_loading",
        "loads and resizes an image; its placeholder among token ids"),
    Use(Group.IMAGES, _QWEN, "Qwen2VLTemplate.replace_tag", Kind.PARAMETER,
        "media_type index inputs", "template_images",
        "called for each image that code returned"),
    Use(Group.IMAGES, _TEMPLATE, "Template", Kind.DEFINED,
        "_add_default_tags encode", "template_images template_codec generation",
        "the first is replaced, so that it counts placeholders in token ids"),
    Use(Group.IMAGES, _TEMPLATE, "Template._add_default_tags", Kind.PARAMETER,
        "inputs", "template_images",
        "a static method with one parameter"),
    Use(Group.IMAGES, _TEMPLATE, "Template._preprocess_inputs", Kind.MENTIONED,
        "_add_default_tags", "template_images",
        "calls the method that is replaced"),
    Use(Group.IMAGES, _TEMPLATE, "Template.__init__", Kind.MENTIONED,
        "mode max_length template_meta", "template_codec generation scheduler model_loading",
        "attributes of a template; the first two are also written"),
    Use(Group.IMAGES, _TEMPLATE, "Template.init_processor", Kind.MENTIONED,
        "processor model_info max_model_len", "template_codec scheduler model_loading",
        "attributes of a template with a processor; the model's longest context"),
    Use(Group.IMAGES, "swift.utils.processor_utils", "ProcessorMixin", Kind.DEFINED,
        "tokenizer", "template_codec scheduler transformers_hook model_loading callback",
        "a template's tokenizer"),
    Use(Group.IMAGES, "swift.template.template_meta", "TemplateMeta", Kind.DEFINED,
        "suffix stop_words template_type", "template_codec model_loading",
        "the ids that end a turn; the template's name in an error"),
    Use(Group.IMAGES, _TEMPLATE, "Template._encode_truncated", Kind.MENTIONED,
        "vllm images mm_processor_kwargs input_ids", "template_codec",
        "the mode in which images are resized and no pixel values computed; keys of its result"),
    Use(Group.IMAGES, "swift.template.template_inputs", "StdTemplateInputs", Kind.DEFINED,
        "messages images", "template_images",
        "the row that is encoded"),

    # upright pictures
    Use(Group.PICTURES, _QWEN, "", Kind.DEFINED,
        "Qwen2VLTemplate", "template_images",
        "the family of templates whose pictures are turned"),
    Use(Group.PICTURES, _TEMPLATE, "Template", Kind.DEFINED,
        "_load_image load_images", "template_images",
        "the first is replaced, so that pictures are turned; the second has them opened there"),
    Use(Group.PICTURES, _TEMPLATE, "Template._load_image", Kind.PARAMETER,
        "image load_images", "template_images",
        "a static method with two parameters"),
    Use(Group.PICTURES, _TEMPLATE, "Template._preprocess_inputs", Kind.MENTIONED,
        "_load_image", "template_images",
        "calls the method that is replaced"),

    # the rewards
    Use(Group.REWARDS, _GRPO, "", Kind.DEFINED,
        "GRPOTrainer", "missing_rewards",
        "the trainer whose rewards are filled"),
    Use(Group.REWARDS, _GRPO, "GRPOTrainer._compute_rewards_per_func", Kind.PARAMETER,
        "self samples", "missing_rewards",
        "replaced: missing rewards become the mean of their group"),
    Use(Group.REWARDS, _GRPO, "GRPOTrainer._score_completions", Kind.MENTIONED,
        "_compute_rewards_per_func", "missing_rewards",
        "calls the method that is replaced"),
    Use(Group.REWARDS, _GRPO, "GRPOTrainer", Kind.MENTIONED,
        "reward_funcs dynamic_num_samples num_generations num_generations_eval", "missing_rewards",
        "which reward may be filled, and which rows form a group"),
    Use(Group.REWARDS, _DATA, "OnPolicySample", Kind.DEFINED,
        "prompt_id", "missing_rewards kept_rollouts",
        "the group of a sample"),
    Use(Group.REWARDS, _DATA, "OnPolicySample.to_reward_row", Kind.MENTIONED,
        "messages rollout_infos", "reward_functions",
        "columns that the rewards read: the question, and the outcome of each block"),

    # the loss scale thyme
    Use(Group.LOSS_SCALE, "swift.loss_scale.base", "LossScale", Kind.DEFINED,
        "is_binary", "loss_scale",
        "weights are 0 and 1 only, so labels carry them"),
    Use(Group.LOSS_SCALE, "swift.loss_scale.base", "LossScale._inner_call", Kind.MENTIONED,
        "get_loss_scale query", "loss_scale",
        "tells the assistant's turn by the query that comes with it"),

    # metrics and kept trajectories
    Use(Group.CALLBACK, _GRPO, "GRPOTrainer._log_rollout", Kind.PARAMETER,
        "samples", "callback",
        "replaced: the last stage of a rollout, when its rewards are known"),
    Use(Group.CALLBACK, _ROLLOUT,
        "RolloutTrainerMixin._generate_and_score_completions", Kind.MENTIONED,
        "_log_rollout", "callback",
        "calls the method that is replaced"),
    Use(Group.CALLBACK, _GRPO, "GRPOTrainer", Kind.MENTIONED,
        "_metrics _rewards_per_func reward_func_names reward_weights template", "callback",
        "the store of metrics; the rewards of all processes and their names"),
    Use(Group.CALLBACK, "swift.rlhf_trainers.utils", "", Kind.DEFINED,
        "get_even_process_data", "callback",
        "the share of this process of gathered rewards"),
    Use(Group.CALLBACK, "swift.rlhf_trainers.utils", "get_even_process_data", Kind.PARAMETER,
        "trainer global_data", "callback",
        "the share of this process of gathered rewards"),
    Use(Group.CALLBACK, _DATA, "OnPolicySample", Kind.DEFINED,
        "messages images extra prompt_id request_id response_token_ids response_loss_mask "
        "rollout_infos encoded",
        "callback kept_rollouts",
        "a scored sample: its texts, ids, images and data row"),
    Use(Group.CALLBACK, _DATA, "GRPOSample", Kind.DEFINED,
        "advantages", "callback",
        "the advantage that is kept with a rollout"),

    # the sampling hook in transformers
    Use(Group.SAMPLING, "swift.template", "", Kind.DEFINED,
        "Template", "transformers_hook",
        "every generation goes through a template"),
    Use(Group.SAMPLING, _TEMPLATE, "Template.prepare_generate_kwargs", Kind.PARAMETER,
        "self generate_kwargs model", "transformers_hook generation",
        "replaced: adds the logits processor"),
    Use(Group.SAMPLING, _TEMPLATE, "Template.prepare_generate_kwargs", Kind.MENTIONED,
        "generation_config stopping_criteria", "transformers_hook generation",
        "keys of what it takes and returns"),
    Use(Group.SAMPLING, "swift.infer_engine.transformers_engine",
        "TransformersEngine", Kind.MENTIONED,
        "prepare_generate_kwargs", "transformers_hook",
        "calls the method that is replaced"),

    # inference with a local model
    Use(Group.INFERENCE, "swift.utils", "", Kind.DEFINED,
        "safe_snapshot_download to_device", "model_loading generation",
        "fetches a model; moves a batch to the model's device"),
    Use(Group.INFERENCE, "swift.utils.hub_utils", "safe_snapshot_download", Kind.PARAMETER,
        "use_hf download_model", "model_loading",
        "where a model is looked up"),
    Use(Group.INFERENCE, "swift.model", "", Kind.DEFINED,
        "MODEL_MAPPING get_model_processor get_processor", "model_loading",
        "loads a model or its processor"),
    Use(Group.INFERENCE, "swift.model.register", "get_model_processor", Kind.PARAMETER,
        "torch_dtype model_type use_hf", "model_loading",
        "how a model is loaded"),
    Use(Group.INFERENCE, "swift.model.register", "get_processor", Kind.PARAMETER,
        "model_type use_hf download_model", "model_loading",
        "how a processor is loaded"),
    Use(Group.INFERENCE, "swift.model.register", "get_processor", Kind.MENTIONED,
        "get_model_processor kwargs", "model_loading",
        "hands on what it does not take itself: torch_dtype"),
    Use(Group.INFERENCE, "swift.template", "", Kind.DEFINED,
        "get_template", "model_loading",
        "makes the template of a model"),
    Use(Group.INFERENCE, "swift.template.register", "get_template", Kind.PARAMETER,
        "template_type max_pixels", "model_loading",
        "what a checkpoint says about its template"),
    Use(Group.INFERENCE, _TEMPLATE, "Template", Kind.DEFINED,
        "use_model data_collator pre_forward_hook generate", "generation",
        "a batch on its way through a template"),
    Use(Group.INFERENCE, _TEMPLATE, "Template", Kind.MENTIONED,
        "model", "generation",
        "the model that a template encodes with; written"),
    Use(Group.INFERENCE, "swift.infer_engine", "", Kind.DEFINED,
        "VllmEngine", "model_loading",
        "starts vLLM"),
    Use(Group.INFERENCE, "swift.infer_engine.vllm_engine", "VllmEngine.__init__", Kind.PARAMETER,
        "template torch_dtype use_async_engine gpu_memory_utilization tensor_parallel_size "
        "max_model_len max_num_seqs enforce_eager limit_mm_per_prompt enable_prefix_caching "
        "engine_kwargs",
        "model_loading",
        "how vLLM is started"),
    Use(Group.INFERENCE, "swift.infer_engine.vllm_engine", "VllmEngine", Kind.MENTIONED,
        "engine", "model_loading",
        "vLLM's own engine"),
    Use(Group.INFERENCE, "swift.infer_engine.infer_engine",
        "InferEngine._get_stop_token_ids", Kind.PARAMETER,
        "stop_words", "model_loading",
        "the ids that end a text"),

    # the testbed
    Use(Group.TESTBED, _QWEN, "", Kind.DEFINED,
        "Qwen2_5VLTemplate QwenTemplateMeta", "tiny_template",
        "the tiny model's template is made from them"),
    Use(Group.TESTBED, "swift.template.template_meta", "TemplateMeta", Kind.DEFINED,
        "template_cls default_system", "tiny_template",
        "how that template is described"),
    Use(Group.TESTBED, "swift.template.register", "register_template", Kind.PARAMETER,
        "exist_ok", "tiny_template",
        "registering it again is harmless"),
    Use(Group.TESTBED, _QWEN, "Qwen2VLTemplate", Kind.DEFINED,
        "image_token_id video_token_id", "tiny_template",
        "the placeholders of the tiny tokenizer"),
    Use(Group.TESTBED, _TEMPLATE, "Template.init_processor", Kind.PARAMETER,
        "processor", "tiny_template",
        "overridden: reads the placeholders"),
    Use(Group.TESTBED, _TEMPLATE, "Template.__init__", Kind.MENTIONED,
        "init_processor max_pixels", "tiny_template",
        "calls the method that is overridden; the limit that the user set"),
    Use(Group.TESTBED, _TEMPLATE, "Template._preprocess_inputs", Kind.PARAMETER,
        "inputs", "tiny_template",
        "overridden: shrinks images to the tiny model's size"),
    Use(Group.TESTBED, _TEMPLATE, "Template._encode_truncated", Kind.MENTIONED,
        "_preprocess_inputs", "tiny_template",
        "calls the method that is overridden"),
    Use(Group.TESTBED, "swift.template.template_inputs", "StdTemplateInputs", Kind.DEFINED,
        "chat_template_kwargs", "tiny_template",
        "carries the size of images"),
    Use(Group.TESTBED, "swift.arguments.deploy_args", "", Kind.DEFINED,
        "get_device_count", "cpu_vllm",
        "replaced: a server without GPUs counts one device"),
    Use(Group.TESTBED, "swift.arguments.deploy_args", "RolloutArguments", Kind.MENTIONED,
        "get_device_count", "cpu_vllm",
        "counts the devices of a server"),
    Use(Group.TESTBED, _SERVER, "", Kind.DEFINED,
        "WeightSyncWorkerExtension PyNcclCommunicator synchronize", "cpu_worker",
        "the last two are replaced: weights travel without GPUs"),
    Use(Group.TESTBED, _SERVER, "", Kind.MENTIONED,
        "swift.pipelines.infer.rollout.WeightSyncWorkerExtension worker_extension_cls", "cpu_vllm",
        "the worker's extension is named to vLLM, and ours takes its place"),
    Use(Group.TESTBED, "swift.rlhf_trainers.vllm_client", "", Kind.DEFINED,
        "PyNcclCommunicator _broadcast_tensors_for_vllm_weight_sync", "cpu_vllm",
        "replaced: weights travel without GPUs"),
)
# fmt: on
