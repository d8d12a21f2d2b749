"""Every environment variable that this project reads: one declared table.

``docs/environment.md`` is made from it (``scripts/environment_page.py``), and
:mod:`swift_thyme.core.environment` reads by it. Nothing is read here.
"""

from __future__ import annotations

from swift_thyme.core.reward_variables import JUDGE, REWARDS
from swift_thyme.core.rollout_variables import ROLLOUT
from swift_thyme.core.variables import (
    Kind,
    Variable,
    count,
    group,
    number,
    seconds,
    secret,
    switch,
    text,
)

__all__ = ["VARIABLES"]


_SANDBOX = group(
    "Sandbox",
    "sandbox/sandbox_settings.py",
    Variable(
        "THYME_SANDBOX",
        Kind.CHOICE,
        "auto",
        "strict refuses to start when an isolation layer is missing; auto goes on with the others, "
        "and refuses where none is left that guards the files of the host; unguarded goes on even "
        "then",
        choices=("strict", "auto", "unguarded"),
    ),
    count(
        "THYME_SANDBOX_WORKERS",
        None,
        "worker processes, and blocks that run at the same time",
        "processes",
        high=256,
        computed="the cores, shared by the ranks of the host; at most 16",
    ),
    number("THYME_SANDBOX_TIMEOUT_S", 10.0, "longest run of one block", "seconds", 0.05, 3600),
    count(
        "THYME_SANDBOX_MEMORY_MB",
        2048,
        "memory of one session, without the memory of the libraries",
        "MiB",
        64,
        1 << 20,
    ),
    count("THYME_SANDBOX_DISK_MB", 256, "private folders of one session", "MiB", 1, 1 << 16),
    count("THYME_SANDBOX_INODES", 4096, "files and folders of one session", "files", 64, 1 << 20),
    count(
        "THYME_SANDBOX_PROCESSES", 48, "processes and threads of one session", "processes", 4, 4096
    ),
    count("THYME_SANDBOX_OPEN_FILES", 256, "open descriptors of one process", "files", 32, 4096),
    count(
        "THYME_SANDBOX_STDOUT_KB",
        64,
        "printed text that is kept, half from its beginning and half from its end",
        "KiB",
        high=4096,
    ),
    count(
        "THYME_SANDBOX_OUTPUT_MB",
        64,
        "printed text after which the block is ended",
        "MiB",
        high=4096,
    ),
    count("THYME_SANDBOX_IMAGES", 16, "images that one block can return", "images", 0, 256),
    count("THYME_SANDBOX_IMAGE_MB", 64, "largest image file that is read", "MiB", 1, 1024),
    number(
        "THYME_SANDBOX_IMAGE_MEGAPIXELS",
        120.0,
        "largest image that is decoded",
        "millions of pixels",
        0.01,
        1000,
    ),
    number(
        "THYME_SANDBOX_RETURNED_MEGAPIXELS",
        12.8,
        "larger images are reduced to this size before they are returned",
        "millions of pixels",
        0.01,
        1000,
    ),
    count(
        "THYME_SANDBOX_RETURNED_MB",
        48,
        "encoded images that one block can return, together",
        "MiB",
        1,
        1024,
    ),
    count(
        "THYME_SANDBOX_SESSIONS", 512, "sessions that one worker holds open", "sessions", high=4096
    ),
    count("THYME_SANDBOX_SPARES", 1, "empty sessions that a worker keeps ready", "sessions", 0, 64),
    count(
        "THYME_SANDBOX_MAX_FAILED_STEPS",
        3,
        "training stops after so many steps in a row in which the sandbox failed and ran no block",
        "steps",
        reader="host/code_sessions.py",
    ),
    Variable(
        "THYME_SANDBOX_PRELOAD",
        Kind.NAMES,
        tuple(
            "numpy cv2 PIL.Image matplotlib.pyplot scipy.ndimage scipy.optimize scipy.signal "
            "scipy.stats sympy".split()
        ),
        "modules that a worker loads once; of the default ones, missing ones are left out",
    ),
    Variable(
        "THYME_SANDBOX_DISABLE",
        Kind.NAMES,
        (),
        "isolation layers to leave out, for tests and for finding a cause",
        choices=("namespaces", "uid", "seccomp", "landlock", "cgroup"),
    ),
    Variable(
        "THYME_SANDBOX_FAST",
        Kind.NAMES,
        ("on",),
        "accelerations: all, none, or those to leave out; results are the same",
        choices=tuple(
            "on off -memory_image -affinity -direct -held_blocks -late_commit -rehearsal -hurry "
            "-encoder_rehearsal -early_faults -large_first -huge_pages -imread -spares".split()
        ),
    ),
    Variable(
        "THYME_SANDBOX_TOOLS",
        Kind.NAMES,
        (),
        "your own Python files and folders, which generated code can import and not change; at a "
        "sandbox server, those of its host",
        form="paths of Python files and folders, separated by commas",
    ),
)

_SANDBOX_SERVERS = group(
    "Sandbox elsewhere",
    "sandbox/remote_settings.py",
    text(
        "THYME_SANDBOX_URL",
        "servers that run the code (thyme sandbox-server); not set: this host runs it",
        "http(s) URLs, separated by commas, such as http://10.0.0.7:8100",
    ),
    secret(
        "THYME_SANDBOX_TOKEN",
        "bearer token that the servers ask for and that their clients send",
        reader="sandbox/remote_settings.py, commands/sandbox_server.py",
    ),
    seconds("THYME_SANDBOX_OPEN_S", 60.0, "longest wait for a session, all attempts together"),
    seconds("THYME_SANDBOX_GRACE_S", 120.0, "longest wait for a result after its block's limit"),
)

_COMMANDS = group(
    "Commands",
    "commands/model_options.py",
    secret(
        "THYME_API_KEY",
        "bearer token that thyme serve asks for and that the VLMEvalKit class sends",
        option="--api-key",
        reader="commands/serve.py, evaluation/vlmeval.py",
    ),
    secret(
        "OPENAI_API_KEY", "bearer token for --endpoint", owner="OpenAI", option="--endpoint-key"
    ),
    count(
        "MAX_PIXELS",
        None,
        "larger images are shrunk to this before the model sees them",
        "pixels",
        owner="ms-swift",
        option="--max-pixels",
        reader="commands/model_options.py, host/preflight.py, doctor/job.py, scripts/*.sh",
    ),
    switch("THYME_DEBUG", False, "errors come with a traceback", reader="commands/main.py"),
)

_HUBS = group(
    "Commands",
    "inference/hub.py",
    switch("USE_HF", False, "names of models are of Hugging Face", owner="ms-swift"),
    switch("MODELSCOPE_OFFLINE", False, "ModelScope is not asked", owner="ModelScope"),
    text("MODELSCOPE_DOMAIN", "host of ModelScope", owner="ModelScope"),
)

_PROCESS = (
    *group(
        "Process and machine",
        "sandbox/sandbox_settings.py",
        count("LOCAL_RANK", 0, "number of this process on its host", low=-1, owner="torchrun"),
        count(
            "LOCAL_WORLD_SIZE",
            1,
            "processes of the job on this host, which share its cores",
            "processes",
            low=0,
            owner="torchrun",
        ),
    ),
    *group(
        "Process and machine",
        "rewards/reward_settings.py",
        count(
            "RANK",
            0,
            "number of this process; chooses the judge's server that is asked first",
            low=-1,
            owner="torchrun",
            reader="rewards/reward_settings.py, core/environment.py, commands/torchrun.py",
        ),
    ),
    *group(
        "Process and machine",
        "host/flag.py",
        count(
            "WORLD_SIZE",
            1,
            "processes of the job on all hosts, for its preflight",
            owner="torchrun",
            reader="host/preflight.py, doctor/job.py, commands/torchrun.py",
        ),
        Variable(
            "VLLM_USE_V2_MODEL_RUNNER",
            Kind.SWITCH,
            None,
            "must be false where vLLM would use its second model runner: no sampling hook there",
            computed="as vLLM decides",
            owner="vLLM",
        ),
    ),
    *group(
        "Process and machine",
        "host/threads.py",
        text(
            "OMP_NUM_THREADS",
            "threads of torch in a process",
            "a whole number",
            computed="beside a GPU the cores, shared by the ranks of the host, at most 8; else all",
            owner="OpenMP",
            reader="host/threads.py, doctor/threads.py",
        ),
    ),
    *group(
        "Process and machine",
        "doctor/checks.py",
        text(
            "CUDA_VISIBLE_DEVICES",
            "GPUs that the process sees; thyme doctor looks whether it hides them (empty or -1)",
            owner="CUDA",
        ),
        Variable(
            "TMPDIR",
            Kind.TEXT,
            "/tmp",
            "folder of temporary files; thyme doctor looks at its room",
            owner="POSIX",
        ),
    ),
)

_SCRIPTS = group(
    "Scripts",
    "scripts/common.sh",
    text("MODEL", "model or checkpoint to start from", reader="scripts/*.sh"),
    text(
        "DATASET",
        "rows to train on",
        "one or more files, separated by blanks",
        reader="scripts/*.sh",
    ),
    text("SAVE_PATH", "folder for checkpoints", reader="scripts/*.sh"),
    text("HOSTFILE", "hosts of a job on several nodes (scripts/hostfile.example)", "a file"),
    count("MASTER_PORT", None, "port of the first host", high=65535, owner="torchrun"),
    Variable(
        "DS_ENV_FILE",
        Kind.TEXT,
        ".deepspeed_env",
        "file of variables for all nodes; what is set already wins",
        owner="DeepSpeed",
    ),
    count(
        "NPROC_PER_NODE",
        None,
        "processes per host",
        "processes",
        computed="one for each GPU",
        owner="ms-swift",
        reader="doctor/job.py, scripts/common.sh",
    ),
    switch(
        "USE_VLLM", True, "false: transformers generates instead of vLLM", reader="scripts/rl.sh"
    ),
    text(
        "VLLM_SERVER_HOST",
        "host of a running swift rollout; then no server is started",
        reader="scripts/rl_server.sh",
    ),
    count(
        "VLLM_SERVER_PORT", 8000, "port of the server", high=65535, reader="scripts/rl_server.sh"
    ),
    text(
        "ROLLOUT_DEVICES",
        "GPUs of the server",
        computed="the last one",
        reader="scripts/rl_server.sh",
    ),
    text(
        "TRAIN_DEVICES",
        "GPUs of the trainer",
        computed="the others",
        reader="scripts/rl_server.sh",
    ),
    text("ROLLOUT_FLAGS", "further flags of swift rollout", reader="scripts/rl_server.sh"),
    Variable(
        "QUICKSTART_DIR",
        Kind.TEXT,
        "output/quickstart",
        "folder of the quickstart's data and results",
        reader="scripts/quickstart.sh",
    ),
    text(
        "PYTHON",
        "interpreter for the environment",
        computed="the first of python3, python3.12, python3.11, python3.10 that fits",
        reader="scripts/setup.sh",
    ),
    text(
        "VLMEVAL_ENV",
        "environment of VLMEvalKit that is kept",
        computed="a new one each time",
        reader="scripts/check_vlmeval.sh",
    ),
    count(
        "VLLM_CPU_KVCACHE_SPACE",
        1,
        "memory of vLLM's cache on a CPU",
        "GiB",
        owner="vLLM",
        reader="scripts/cpu_env.sh",
    ),
    Variable(
        "VLLM_LOGGING_LEVEL",
        Kind.TEXT,
        "WARNING",
        "what vLLM logs on a CPU",
        owner="vLLM",
        reader="scripts/cpu_env.sh",
    ),
)

_ALL = (ROLLOUT, REWARDS, JUDGE, _SANDBOX, _SANDBOX_SERVERS, _COMMANDS, _PROCESS, _SCRIPTS)

VARIABLES: dict[str, Variable] = {
    variable.name: variable for part in (*_ALL, _HUBS) for variable in part
}
"""All variables by name, in the order of the documentation."""
