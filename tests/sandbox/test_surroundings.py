"""The sandbox in other surroundings: an ordinary user, and a Python installation below /tmp."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.conftest import ROOT, python_program
from tests.sandbox.surroundings import UnavailableError, run

AS_NOBODY = """
set -e
python=$1 root=$2; shift 2
mkdir -p "$HOLD" && mount --bind "$python" "$HOLD"
mount -t tmpfs -o mode=755 tmpfs /root
case $python in /root/*) mkdir -p "$python"; mount --move "$HOLD" "$python";; esac
cd "$root"
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""
"""Runs a program as nobody; a Python below /root, which only root can enter, is made reachable."""

PROGRAMS = (
    "read_host_file delete_library chmod_library kill_test_process fork_bomb disk_many_files tcp "
    "secret_in_environment memory_numpy c_loop"
).split()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_an_ordinary_user_gets_every_layer_but_the_user_id(tmp_path: Path) -> None:
    readable = subprocess.run(
        ["setpriv", "--reuid", "65534", "--clear-groups", "test", "-r", str(ROOT / "README.md")],
        check=False,
    )
    if readable.returncode != 0 and not str(ROOT).startswith("/root/"):
        pytest.skip("the checkout lies in a folder that other users cannot enter")
    tests = "tests/sandbox/test_hostile.py"
    selected = " or ".join(f"{name}]" for name in PROGRAMS)
    as_nobody = ["unshare", "--mount", "bash", "-c", AS_NOBODY, "bash", sys.base_prefix, str(ROOT)]
    clean = ["env", "-i", f"PATH={os.environ['PATH']}", "HOME=/tmp", "PYTHONDONTWRITEBYTECODE=1"]
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests]
    done = subprocess.run(
        [*as_nobody, *clean, *pytest_, "-k", selected],
        env={**os.environ, "HOLD": str(tmp_path / "python")},
        capture_output=True,
        text=True,
        check=False,
    )
    if "mount" in done.stderr and "permission denied" in done.stderr:
        pytest.skip("this host lets not even root mount anything")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert f"{3 * len(PROGRAMS)} passed" in done.stdout


@pytest.mark.ci
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="surroundings are built by call number")
@pytest.mark.parametrize(
    "surrounding", [pytest.param("docker-root", marks=pytest.mark.whole), "docker-user"]
)
def test_hostile_programs_are_contained_in_a_container_without_namespaces(surrounding: str) -> None:
    pytest_ = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/sandbox/test_hostile.py")
    try:
        done = run(surrounding, python_program(*pytest_, "-k", "no and namespaces"))
    except UnavailableError as error:
        pytest.skip(str(error))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert int(done.stdout.rpartition(" passed")[0].split()[-1]) > 126


def test_a_python_below_tmp_is_seen_in_the_private_tmp(tmp_path: Path) -> None:
    environment = Path("/tmp") / f"thyme-python-{os.getpid()}"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    try:
        (packages,) = environment.glob("lib/python3.*/site-packages")
        (packages / "late_module.py").write_text("VALUE = 42")
        paths = [path for path in sys.path if path.endswith("site-packages")]
        (packages / "outer.pth").write_text("\n".join(paths))
        image = Path("/tmp") / f"thyme-image-{os.getpid()}" / "a.png"
        program = f"""
        import os
        from swift_thyme.sandbox import InputImage, SandboxPool
        from tests.sandbox.conftest import jpeg, small_settings
        with SandboxPool(small_settings()) as pool:
            with pool.open_sync([InputImage({str(image)!r}, jpeg())]) as session:
                print(session.run_sync("open('/tmp/x', 'w')\\n1 / 0").status)
                for code in ("import late_module\\nprint(late_module.VALUE)",
                             "print(os.path.exists('/tmp/x'), Image.open(image_path).size)"):
                    result = session.run_sync(code)
                    print(result.stdout.strip(), len(result.images), result.error or "")
        """
        done = subprocess.run(
            [environment / "bin" / "python", "-c", textwrap.dedent(program)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        shutil.rmtree(environment)
    assert done.stdout.splitlines() == ["error", "42 0 ", "False (200, 100) 0 "]
