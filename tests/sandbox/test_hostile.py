"""Programs that try to get out, to stay, to lie or to use up the machine: all are contained.

Each row names what has to be seen: `refused` is an error with one of the names behind it,
`hidden` means the program ends well and printed exactly that, other words are statuses. The table
runs with every layer that this host has, without namespaces, and without accelerations.
"""
# ruff: noqa: E501 - one program a line

import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from swift_thyme.sandbox import SandboxPool, SandboxSession

DENIED = "PermissionError|OSError|FileNotFoundError|BlockingIOError"
SYSCALL = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\ndef sc(*a):\n    r = libc.syscall(*a)\n    if r < 0: raise OSError(ctypes.get_errno(), 'refused')\n    print('ESCAPED', r)\n"
FORGE = "import json\ndef send(kind, **fields):\n    for f in range(3, 100):\n        try: os.write(f, json.dumps({'kind': kind, 'fields': fields}).encode())\n        except OSError: pass\n"

# fmt: off
# name: (program, outcome, what is in the error or, for `hidden`, the output)
PROGRAMS: dict[str, tuple[str, str, str]] = {
    # files of the host
    "read_shadow": ("print('ESCAPED', open('/etc/shadow').read())", "refused", DENIED),
    "read_host_name": ("print('ESCAPED', open('/etc/hostname').read())", "refused", DENIED),
    "read_home_key": ("print('ESCAPED', open(os.path.expanduser('~root/.ssh/id_rsa')).read())", "refused", DENIED),
    "read_host_file": ("print('ESCAPED', open('{host}/secret.txt').read())", "refused", DENIED),
    "list_host_folder": ("print('ESCAPED', os.listdir('{host}'))", "refused", DENIED),
    "write_host_file": ("open('{host}/secret.txt', 'w').write('x')\nprint('ESCAPED')", "refused", DENIED),
    "delete_host_file": ("os.remove('{host}/secret.txt')\nprint('ESCAPED')", "refused", DENIED),
    "rmtree_host": ("import shutil\nshutil.rmtree('{host}')\nprint('ESCAPED')", "refused", DENIED),
    "write_root": ("open('/x', 'w')\nprint('ESCAPED')", "refused", DENIED),
    "write_etc": ("open('/etc/passwd', 'a').write('x')\nprint('ESCAPED')", "refused", DENIED),
    "write_usr": ("open('/usr/bin/x', 'w')\nprint('ESCAPED')", "refused", DENIED),
    "make_folder_usr": ("os.makedirs('/usr/x/y')\nprint('ESCAPED' * ('x' in os.listdir('/usr')))", "hidden", ""),
    "write_library": ("open(np.__file__, 'a').write('#')\nprint('ESCAPED')", "refused", DENIED),
    "delete_library": ("os.remove(np.__file__)\nprint('ESCAPED')", "refused", DENIED),
    "touch_library": ("before = os.stat(np.__file__).st_mtime_ns\ntry: os.utime(np.__file__, (1, 1))\nfinally: print('ESCAPED' * (os.stat(np.__file__).st_mtime_ns != before))", "refused|hidden", ""),
    "rename_library": ("os.rename(np.__file__, '/tmp/n.py')\nprint('ESCAPED')", "refused", DENIED),
    "chmod_library": ("before = os.stat(np.__file__).st_mode\ntry: os.chmod(np.__file__, 0o777)\nfinally: print('ESCAPED' * (os.stat(np.__file__).st_mode != before))", "refused|hidden", ""),
    "plant_library": ("open(os.path.dirname(os.path.dirname(np.__file__)) + '/evil.py', 'w')\nprint('ESCAPED')", "refused", DENIED),
    "plant_pth": ("import sysconfig\nopen(sysconfig.get_paths()['purelib'] + '/e.pth', 'w')\nprint('ESCAPED')", "refused", DENIED),
    "dot_dot_path": ("print('ESCAPED', open('/tmp/../../..{host}/secret.txt').read())", "refused", DENIED),
    "proc_root_path": ("print('ESCAPED', open('/proc/1/root{host}/secret.txt').read())", "refused", DENIED),
    "cwd_of_parent": ("print('ESCAPED', os.listdir('/proc/1/cwd'))", "refused", DENIED),
    "docker_socket": ("print('ESCAPED', os.stat('/var/run/docker.sock'))", "refused", DENIED),
    "kernel_settings": ("open('/proc/sys/kernel/core_pattern', 'w').write('x')\nprint('ESCAPED')", "refused", DENIED),
    "sysfs": ("print('ESCAPED', os.listdir('/sys/class'))", "refused", DENIED),
    "block_device": ("os.mknod('/tmp/d', 0o60600, os.makedev(8, 0))\nprint('ESCAPED')", "refused", DENIED),
    "kernel_memory": ("print('ESCAPED', open('/dev/mem', 'rb'))", "refused", DENIED),
    "gpu_device": ("print('ESCAPED', open('/dev/nvidiactl', 'rb'))", "refused", DENIED),
    "chroot": ("os.chroot('/tmp')\nprint('ESCAPED')", "refused", DENIED),
    # secrets
    "secret_in_environment": ("print([v for v in os.environ.values() if 'hunter2' in v])", "hidden", "[]"),
    "secret_in_own_proc_environ": ("print('ESCAPED' * (b'hunter2' in open('/proc/self/environ', 'rb').read()))", "refused|hidden", ""),
    "secret_in_init_environ": ("print('ESCAPED' * (b'hunter2' in open('/proc/1/environ', 'rb').read()))", "refused", DENIED),
    "secret_in_parent_memory": ("print('ESCAPED', open('/proc/1/mem', 'rb').read(1))", "refused", DENIED),
    "command_lines_of_others": ("print([p for p in os.listdir('/proc') if p.isdigit() and int(p) > 500])", "refused", DENIED),
    "inherited_descriptors": ("import stat\nprint([f for f in range(3, 200) if os.path.exists(f'/proc/self/fd/{f}') and stat.S_ISREG(os.fstat(f).st_mode)])", "hidden", "[]"),
    # network
    "tcp": ("import socket\nsocket.create_connection(('127.0.0.1', 80), 1)\nprint('ESCAPED')", "refused", DENIED),
    "udp": ("import socket\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nprint('ESCAPED')", "refused", DENIED),
    "ipv6": ("import socket\nsocket.socket(socket.AF_INET6)\nprint('ESCAPED')", "refused", DENIED),
    "raw_socket": ("import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nprint('ESCAPED')", "refused", DENIED),
    "netlink": ("import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\nprint('ESCAPED')", "refused", DENIED),
    "name_lookup": ("import socket\nprint('ESCAPED', socket.gethostbyname('example.com'))", "refused", "gaierror|herror|OSError"),
    "http": ("import urllib.request\nurllib.request.urlopen('http://169.254.169.254/', timeout=1)\nprint('ESCAPED')", "refused", "URLError"),
    "unix_socket": ("import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('{host}/listener')\nprint('ESCAPED')", "refused", DENIED),
    "abstract_unix_socket": ("import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('\\0{pid}{host}')\nprint('ESCAPED')", "refused", DENIED),
    "listen": ("import socket\ns = socket.socket()\ns.bind(('', 0))\nprint('ESCAPED')", "refused", DENIED),
    # other processes and programs
    "kill_test_process": ("os.kill({pid}, 9)\nprint('ESCAPED')", "refused", "ProcessLookupError|PermissionError"),
    "kill_init": ("os.kill(1, 9)\nos.kill(1, 19)\nprint('sent')\n", "refused|hidden", ""),
    "kill_own_group": ("os.killpg(0, 9)\nprint('ESCAPED')", "killed", ""),
    "kill_all": ("import signal\nfor p in range(2, 40):\n    if p != os.getpid():\n        try: os.kill(p, signal.SIGKILL)\n        except OSError: pass\nprint('done')", "any", ""),
    "ptrace": (SYSCALL + "sc(101, 16, 1, 0, 0)", "refused", DENIED),
    "read_other_memory": (SYSCALL + "sc(310, 1, 0, 0, 0, 0, 0)", "refused", DENIED),
    "open_pidfd": ("print('ESCAPED', os.pidfd_open(1))", "refused", DENIED),
    "os_system": ("print('ESCAPED' * (os.system('true') == 0))", "hidden", ""),
    "subprocess": ("import subprocess\nsubprocess.run(['/bin/true'])\nprint('ESCAPED')", "refused", DENIED),
    "exec_program": ("os.execv('/bin/sh', ['sh', '-c', 'echo ESCAPED'])", "refused", DENIED),
    "popen": ("print(os.popen('echo ESCAPED').read())", "refused|hidden", ""),
    "spawn_posix": ("os.posix_spawn('/bin/true', ['true'], {})\nprint('ESCAPED')", "refused", DENIED),
    "exec_memory_file": ("f = os.memfd_create('x')\nprint('ESCAPED')", "refused", DENIED),
    # privileges
    "become_root": ("os.setuid(0)\nprint('ESCAPED')", "refused", DENIED),
    "new_user_namespace": (SYSCALL + "sc(272, 0x10000000)", "refused", DENIED),
    "mount": (SYSCALL + "sc(165, b'none', b'/tmp', b'tmpfs', 0, 0)", "refused", DENIED),
    "unmount": (SYSCALL + "sc(166, b'/proc', 2)", "refused", DENIED),
    "reboot": (SYSCALL + "sc(169, 0xfee1dead, 672274793, 0, 0)", "refused", DENIED),
    "load_module": (SYSCALL + "sc(313, 0, b'', 0)", "refused", DENIED),
    "bpf": (SYSCALL + "sc(321, 0, 0, 0)", "refused", DENIED),
    "io_uring": (SYSCALL + "sc(425, 1, 0)", "refused", DENIED),
    "user_fault": (SYSCALL + "sc(323, 0)", "refused", DENIED),
    "keyring": (SYSCALL + "sc(250, 0, -3, 1)", "refused", DENIED),
    "perf_events": (SYSCALL + "sc(298, 0, 0, -1, -1, 0)", "refused", DENIED),
    "raise_memory_limit": ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nprint('ESCAPED')", "refused", "ValueError|PermissionError"),
    "raise_process_limit": ("import resource\nresource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999))\nprint('ESCAPED')", "refused", "ValueError|PermissionError"),
    "system_v_memory": (SYSCALL + "sc(29, 0, 4096, 0o1600)", "refused", DENIED),
    # floods
    "fork_bomb": ("while True:\n    try: os.fork()\n    except OSError: pass", "stopped", ""),
    "fork_chain": ("while True:\n    try:\n        if os.fork(): os._exit(0)\n    except OSError: pass", "stopped", ""),
    "thread_bomb": ("import threading, time\nwhile True:\n    try: threading.Thread(target=time.sleep, args=(60,)).start()\n    except RuntimeError: pass", "stopped", ""),
    "memory_bytes": ("x = bytearray(4 << 30)\nprint('ESCAPED')", "memory", ""),
    "memory_list": ("x = []\nwhile True: x.append(bytearray(1 << 20))", "stopped", ""),
    "memory_numpy": ("x = np.ones((40000, 40000))\nprint('ESCAPED')", "memory", ""),
    "memory_string": ("x = 'a' * (1 << 40)\nprint('ESCAPED')", "memory", ""),
    "disk_one_file": ("f = open('/tmp/f', 'wb')\nfor _ in range(100): f.write(b'x' * (1 << 20))\nprint('ESCAPED')", "refused", DENIED),
    "disk_many_files": ("for i in range(100): open(f'/tmp/{i}', 'wb').write(b'x' * (1 << 20))\nprint('ESCAPED')", "refused", DENIED),
    "disk_shared_memory": ("for i in range(100): open(f'/dev/shm/{i}', 'wb').write(b'x' * (1 << 20))\nprint('ESCAPED')", "refused", DENIED),
    "inodes": ("for i in range(5000): open(f'/tmp/{i}', 'w').close()\nprint('ESCAPED')", "refused", DENIED),
    "descriptors": ("f = [open('/dev/null') for _ in range(5000)]\nprint('ESCAPED')", "refused", DENIED),
    "stdout": ("while True: print('x' * 100000)", "output_limit", ""),
    "stdout_descriptor": ("while True: os.write(1, b'x' * 100000)", "output_limit", ""),
    "huge_integer": ("print(len(str(10 ** 10 ** 9)))", "stopped", ""),
    "deep_recursion": ("def f(): return f()\nf()", "refused", "RecursionError"),
    # images made to hurt
    "pixel_bomb": ("import zlib, struct\ndef c(t, d): return struct.pack('>I', len(d)) + t + d + struct.pack('>I', zlib.crc32(t + d))\nopen('b.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + c(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 0, 0, 0, 0)) + c(b'IDAT', zlib.compress(bytes(1 << 20))) + c(b'IEND', b''))\nprint('b.png')", "refused", "pixels"),
    "broken_png": ("open('b.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + b'junk' * 99)\nprint('b.png')", "any", ""),
    "large_image_file": ("open('b.png', 'wb').write(b'\\x89PNG' + bytes(9 << 20))\nprint('b.png')", "refused", "MiB"),
    "aspect_ratio": ("Image.new('RGB', (3000, 2)).save('a.png')\nprint('a.png')", "refused", "aspect ratio"),
    # links
    "symlink_to_host": ("os.symlink('{host}/secret.txt', 'l.png')\nprint('l.png')", "hidden", "l.png"),
    "read_through_symlink": ("os.symlink('{host}', '/tmp/h')\nprint('ESCAPED', os.listdir('/tmp/h'))", "refused", DENIED),
    "hard_link_to_system": ("os.link('/usr/bin/env', '/tmp/e')\nprint('ESCAPED')", "refused", DENIED),
    "fifo_as_image": ("os.mkfifo('f.png')\nprint('f.png')", "any", ""),
    "symlink_loop": ("os.symlink('a', 'a')\nprint('a.png')", "hidden", "a.png"),
    # the input image
    "overwrite_input": ("open(image_path, 'wb').write(b'x')\nprint('ESCAPED')", "refused", DENIED),
    "delete_input": ("os.remove(image_path)\nprint('ESCAPED')", "refused", DENIED),
    "chmod_input": ("before = os.stat(image_path).st_mode\ntry: os.chmod(image_path, 0o777)\nfinally: print('ESCAPED' * (os.stat(image_path).st_mode != before))", "refused|hidden", ""),
    "replace_input": ("open('/tmp/n', 'w').close()\nos.replace('/tmp/n', image_path)\nprint('ESCAPED')", "refused", DENIED),
    # getting round the time limit
    "c_loop": ("sum(range(10 ** 14))", "timeout", ""),
    "catching_loop": ("while True:\n    try:\n        while True: pass\n    except BaseException: pass", "timeout", ""),
    "signals_ignored": ("import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except (OSError, ValueError): pass\nwhile True: pass", "timeout", ""),
    "sleep": ("import time\ntime.sleep(3600)", "timeout", ""),
    "destructor_loop": ("class A:\n    def __del__(self):\n        while True: pass\na = A()\ndel a", "timeout", ""),
    "regular_expression": ("re.match('(a+)+$', 'a' * 60 + 'b')", "timeout", ""),
    "atexit_loop": ("import atexit\natexit.register(lambda: exec('while True: pass'))\nprint('ok')", "hidden", "ok"),
    "child_outlives": ("import time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(3600)\nprint('parent')", "hidden", "parent"),
    "thread_outlives": ("import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()\nprint('main')", "hidden", "main"),
    # ending and lying
    "os_exit": ("os._exit(0)", "killed", ""),
    "sys_exit_code": ("import sys\nsys.exit(3)", "refused", "SystemExit"),
    "builtins_exit": ("import builtins\nexit = getattr(builtins, 'exit', None) or builtins.__import__('sys').exit\nexit(1)", "refused", "SystemExit"),
    "abort": ("os.abort()", "killed", ""),
    "segmentation_fault": ("import ctypes\nctypes.string_at(1)", "killed", ""),
    "close_descriptors": ("os.closerange(0, 200)", "killed", ""),
    "close_stdout": ("os.close(1)\nprint('done')", "any", ""),
    "forge_reply": (FORGE + "send('BlockReport', error=None, repairs=['ESCAPED'], saved=[], aliases={})\nraise KeyError('mine')", "any", ""),
    "forge_reply_of_another_form": ("import json\nfor f in range(3, 100):\n    try: os.write(f, json.dumps({'done': 1, 'error': None, 'repairs': ['ESCAPED']}).encode())\n    except OSError: pass", "killed", ""),
    "forge_failure": (FORGE + "send('Broken', reason='ESCAPED')", "killed", ""),
    "forge_new_runner": (FORGE + "send('RunnerReady')", "killed", ""),
    "forge_success_and_failure_of_the_commit": (FORGE + "import time\nkept = 0\nsend('BlockReport', error=None, repairs=[], saved=[], aliases={})\nfor _ in range(99):\n    send('Broken', reason='ESCAPED')\n    time.sleep(0.001)", "any", ""),
    "forge_reply_garbage": ("for f in range(3, 100):\n    try: os.write(f, b'\\xff{]' * 9)\n    except OSError: pass", "any", ""),
    "forge_reply_from_child": (FORGE + "if os.fork() == 0:\n    send('BlockReport', error=None, repairs=[], saved=[], aliases={})\n    os._exit(0)\nos.wait()", "killed", ""),
    "drain_requests": ("import socket\nfor f in range(3, 100):\n    try: socket.socket(fileno=os.dup(f)).setblocking(False)\n    except OSError: pass", "any", ""),
    "forge_alias": ("import sys\nr = sys.modules['swift_thyme.sandbox.shims'].RECORDER\nr.aliases['x.png'] = '{host}/secret.png'\nr.events.append((0, '{host}/secret.png'))\nprint('x.png')", "hidden", "x.png"),
    "walk_frames_to_runner": ("import sys\nf = sys._getframe()\nwhile f.f_back: f = f.f_back\nf.f_locals.clear()\nprint('ok')", "any", ""),
    "break_builtins": ("import builtins\nfor n in ('print', 'open', 'len', 'dict', 'list'):\n    delattr(builtins, n)", "any", ""),
    "break_json": ("json.dumps = json.loads = None", "any", ""),
    "exception_that_fights_printing": ("class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E", "refused", "E"),
}
# fmt: on

# What is seen instead where there are no namespaces: still contained, by another layer.
WITHOUT_NAMESPACES = {
    "kill_own_group": ("refused", DENIED),
    "disk_many_files": ("killed", ""),
    "disk_shared_memory": ("killed", ""),
    "inodes": ("killed", ""),
}
# docs/sandbox.md names these: nothing but a namespace, or a user id of its own, stops them.
NEEDS_NAMESPACES = {"raise_process_limit"}

STATUSES = {
    "refused": {"error"},
    "hidden": {"ok"},
    "refused|hidden": {"ok", "error"},
    "stopped": {"timeout", "killed", "memory", "error"},
}
EVERY = {"ok", "error", "timeout", "memory", "output_limit", "killed"}


@pytest.fixture(scope="module", params=["all layers", "no namespaces", "no accelerations"])
def changes(request: pytest.FixtureRequest) -> dict[str, object]:
    """Every layer of this host, sessions that share its namespaces, and no accelerations."""
    kinds: dict[str, dict[str, object]] = {
        "all layers": {},
        "no namespaces": {"disable": ("namespaces",)},
        "no accelerations": {"fast": ("off",)},
    }
    return kinds[request.param]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of the host with a secret, a picture and a listening socket."""
    folder = tmp_path_factory.mktemp("host")
    (folder / "secret.txt").write_text("host secret")
    with socket.socket(socket.AF_UNIX) as named, socket.socket(socket.AF_UNIX) as abstract:
        named.bind(str(folder / "listener"))
        # Of this run alone: abstract names are shared by all processes of the machine.
        abstract.bind(f"\0{os.getpid()}{folder}")
        named.listen()
        abstract.listen()
        yield folder


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_program_is_contained_and_the_session_goes_on(
    pool: SandboxPool, session: SandboxSession, host: Path, name: str
) -> None:
    program, outcome, seen = PROGRAMS[name]
    if "namespaces" in pool.settings.disable:
        outcome, seen = WITHOUT_NAMESPACES.get(name, (outcome, seen))
        if name in NEEDS_NAMESPACES:
            outcome, program = "any", program.replace("ESCAPED", "done")
    code = program.replace("{host}", str(host)).replace("{pid}", str(os.getpid()))
    assert session.run_sync("kept = 41").ok

    result = session.run_sync(code, timeout_s=1.0)

    allowed = EVERY if outcome == "any" else STATUSES.get(outcome, {outcome})
    assert result.status.value in allowed, result
    assert "ESCAPED" not in result.stdout
    assert "ESCAPED" not in result.repairs
    assert "host secret" not in result.stdout
    if outcome == "refused":
        assert any(word in (result.error or "") for word in seen.split("|")), result.error
    if outcome == "hidden":
        assert result.stdout.strip() == seen
        assert result.images == ()
    assert result.duration_s < 5.0
    assert (host / "secret.txt").read_text() == "host secret"
    after = session.run_sync("import builtins\nprint(kept + 1)") if outcome != "any" else None
    assert after is None or after.stdout == "42\n", after


def test_the_pool_serves_after_all_of_them(open_session: Callable[[], SandboxSession]) -> None:
    with open_session() as session:
        assert session.run_sync("print(Image.open(image_path).size)").stdout == "(200, 100)\n"


def test_another_session_sees_neither_names_nor_files(
    open_session: Callable[[], SandboxSession],
) -> None:
    with open_session() as first, open_session() as second:
        first.run_sync("token = 'abc'\nopen('/tmp/mine', 'w').write('abc')\nopen('o.txt', 'w')")
        result = second.run_sync("print(os.listdir('/tmp'), os.listdir('.'), 'token' in globals())")
    assert result.stdout == "[] [] False\n"


def test_a_hostile_session_does_not_slow_down_its_neighbour(
    open_session: Callable[[], SandboxSession],
) -> None:
    with open_session() as hostile, open_session() as other:
        thread = threading.Thread(
            target=lambda: hostile.run_sync("while True: pass", timeout_s=0.5), daemon=True
        )
        thread.start()
        assert other.run_sync("print(1)").stdout == "1\n"
        thread.join(10)
        assert not thread.is_alive()


def test_the_table_is_long_enough() -> None:
    assert len(PROGRAMS) >= 80
