# Sourced by the training scripts, which say in `here` where they lie: what they need from the
# environment, and how they are launched.

# need NAME "what it is": stops with one line where the variable is empty.
need() {
  if [ -z "${!1:-}" ]; then
    echo "error: $1 is not set: $2" >&2
    exit 2
  fi
}

# find_plugin: puts the file for --external_plugins into `plugin`. In a checkout that is its own one,
# which works where nothing is installed; elsewhere that of the installed package.
find_plugin() {
  local checkout
  checkout=$(dirname "$here")
  plugin=$checkout/plugin/agent_rm.py
  if [ -f "$plugin" ]; then return; fi
  if ! plugin=$(thyme plugin); then
    echo "error: the command thyme does not run: activate the environment of swift_thyme" >&2
    exit 2
  fi
}

# switch NAME DEFAULT: whether a switch is on; the words are those of docs/environment.md.
switch() {
  local value=${!1:-}
  value=${value//[[:space:]]/}
  value=${value:-$2}
  case "${value,,}" in
    true | 1 | yes | on | y | t) return 0 ;;
    false | 0 | no | off | n | f) return 1 ;;
  esac
  echo "error: $1='${!1:-}': expected true or false" >&2
  exit 2
}

# DeepSpeed's launcher exports the variables of this file to every node (it takes each line for
# NAME=VALUE, so it holds no comments); on a single node this does the same. What the environment
# has already wins.
env_file=${DS_ENV_FILE:-.deepspeed_env}
if [ -f "$env_file" ]; then
  while IFS='=' read -r name value || [ -n "$name" ]; do
    if [ -n "$name" ] && [ -z "${!name+set}" ]; then export "$name=$value"; fi
  done <"$env_file"
fi

# One process per GPU, unless the user says how many.
if [ -z "${NPROC_PER_NODE:-}" ] && [ -z "${HOSTFILE:-}" ]; then
  gpus=$(nvidia-smi -L 2>/dev/null | wc -l || true)
  if [ "$gpus" -gt 1 ]; then export NPROC_PER_NODE=$gpus; fi
fi

# launch COMMAND FLAGS...: `swift COMMAND`; with HOSTFILE on all its hosts.
launch() {
  local command=$1
  shift
  if [ -n "${HOSTFILE:-}" ]; then
    if [ ! -f "$HOSTFILE" ]; then
      echo "error: HOSTFILE=$HOSTFILE: no such file; see hostfile.example beside the scripts" >&2
      exit 2
    fi
    # The launcher hands on few variables by itself; the size of the images must be the same
    # everywhere.
    local everywhere
    everywhere=$(mktemp)
    if [ -f "$env_file" ]; then grep -v '^MAX_PIXELS=' "$env_file" >"$everywhere" || true; fi
    echo "MAX_PIXELS=$MAX_PIXELS" >>"$everywhere"
    export DS_ENV_FILE=$everywhere
    deepspeed --hostfile "$HOSTFILE" ${MASTER_PORT:+--master_port "$MASTER_PORT"} \
      --no_local_rank --module "swift.cli.$command" "$@"
  else
    swift "$command" "$@"
  fi
}
