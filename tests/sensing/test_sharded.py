"""One problem over eight devices and over two processes, each in processes of their own (`sharded_worker`)."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pruneft import Problem
from pruneft.sensing import draw_instance, sharded
from pruneft.sensing.result import Recovery
from pruneft.status import Status

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).with_name("sharded_worker.py")
LIMIT = 400  # seconds; some thirty on a quiet machine
D, N, DIVIDED = 6, 45, 48


def _run_together(commands, folder, flags=""):
    """The JSON of every command; all run at once, and what hangs takes its peers with it."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_X64": "1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # they compile much and compute little
        "XLA_FLAGS": flags,
        # Threads of XLA's pools. Devices that wait for one another in a collective hold a thread each, and on a machine with
        # few cores the pools are too small for eight of them: now and then all wait for ever.
        "NPROC": "32",
    }
    outs = [folder / f"{i}.json" for i in range(len(commands))]
    logs = [folder / f"{i}.log" for i in range(len(commands))]
    running = []
    try:
        for command, out, log in zip(commands, outs, logs, strict=True):
            with log.open("w") as file:
                line = [sys.executable, str(WORKER), *command, str(out)]
                running.append(subprocess.Popen(line, env=environment, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT))
        codes = [process.wait(LIMIT) for process in running]
    except subprocess.TimeoutExpired:
        codes = ["out of time"]
    finally:
        for process in running:
            process.kill()
            process.wait()
    said = "\n".join(f"--- {log.name}\n{log.read_text()[-4000:]}" for log in logs)
    assert codes == [0] * len(commands), f"{codes}\n{said}"
    return [json.loads(out.read_text()) for out in outs]


# Eight devices in a process of their own, and two processes with four each: minutes of compilation.
pytestmark = pytest.mark.claims


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """What was found on eight devices, and the folder with the compiled programs."""
    folder = tmp_path_factory.mktemp("eight")
    programs = folder / "programs"
    flags = f"--xla_force_host_platform_device_count=8 --xla_dump_to={programs} --xla_dump_hlo_as_text"
    return _run_together([["eight"]], folder, flags)[0] | {"programs": programs}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of two processes found."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    commands = [["process", str(index), str(port)] for index in range(2)]
    return _run_together(commands, tmp_path_factory.mktemp("processes"))


def _assert_same_recovery(split, plain, devices, atol=1e-6):
    assert (split["rank"], split["status"]) == (plain["rank"], plain["status"]) == (2, "CONVERGED")
    assert (split["devices"], plain["devices"]) == (devices, 1)
    assert split["steps"] == plain["steps"]
    np.testing.assert_allclose(split["matrix"], plain["matrix"], atol=atol)
    for name in ("residual", "sigma_estimate"):
        np.testing.assert_allclose(split[name], plain[name], rtol=1e-6)
    # Training is in float32, and Adam divides by the size of the gradient: rounding grows, but not out of proportion.
    np.testing.assert_allclose(split["history"]["residual"], plain["history"]["residual"], rtol=0.02)


@pytest.mark.parametrize(
    ("split", "plain"),
    [
        ("split", "plain"),
        ("given", "plain"),
        ("split weighted", "plain weighted"),
        ("split init", "plain init"),
    ],
)
def test_eight_devices_recover_what_one_recovers(eight, split, plain):
    _assert_same_recovery(eight[split], eight[plain], 8)


def test_eight_devices_fine_tune_by_an_optax_optimiser_as_one_does(eight):
    # Its gradients are those of training, in float32.
    _assert_same_recovery(eight["split first order"], eight["plain first order"], 8, atol=2e-5)


def test_the_unit_of_the_data_is_taken_over_the_measurements_that_count(eight):
    split, plain = eight["unit"]
    np.testing.assert_allclose(split, plain, rtol=1e-12)


@pytest.mark.skipif(not hasattr(jax, "set_mesh"), reason="JAX before 0.7 has no jax.set_mesh")
def test_a_mesh_that_the_caller_has_set_is_no_hindrance(eight):
    _assert_same_recovery(eight["under a mesh"], eight["plain"], 8)


def test_every_device_holds_an_eighth_of_the_rows(eight):
    assert eight["shapes"] == [[DIVIDED // 8, 21]] * 8
    assert eight["devices"] == list(range(8))
    assert eight["sizes"] == [N, DIVIDED, D]
    assert eight["moved is split"]


def _partitioned(programs):
    """Compiled programs that run on all eight devices: (name, text); their shapes are those of one device's part."""
    texts = ((path.name, path.read_text()) for path in programs.glob("*after_optimizations.txt"))
    return {name: text for name, text in texts if "num_partitions=8" in text}


def _collectives(text):
    names = r"all-[a-z]+|collective-[a-z]+|reduce-scatter|ragged-[a-z-]+?"
    return set(re.findall(rf"\b({names})(?:-start)?\(", text))


def _has_length(text, length):
    return re.search(rf"\b[fsup]\w*\[(?:\d+,)*{length}(?:,\d+)*\]", text) is not None


def test_no_compiled_program_gathers_the_rows_or_anything_as_long(eight):
    programs = {name: text for name, text in _partitioned(eight["programs"]).items() if "gathers" not in name}
    # Training, refinement, history and normalisation are among them, or nothing was looked at.
    names = "".join(programs)
    assert all(part in names for part in ("segment", "run", "look", "make", "survey")), sorted(programs)
    assert set.union(*map(_collectives, programs.values())) == {"all-reduce"}
    long = sorted(name for name, text in programs.items() if _has_length(text, DIVIDED))
    assert not long, f"arrays over all measurements in {long}"


def test_a_program_that_gathers_the_rows_is_noticed(eight):
    [text] = [text for name, text in _partitioned(eight["programs"]).items() if "gathers" in name]
    assert "all-gather" in _collectives(text)
    assert _has_length(text, DIVIDED)


def test_measurements_of_weight_zero_become_padding(eight):
    assert eight["left"] == [N - 4, [3, 17, 18, 40, 45, 46, 47]]


def test_the_gram_form_is_taken_where_a_devices_share_is_longer_than_it(eight):
    short, long = eight["gram 160"], eight["gram 168"]
    assert (short["is"], long["is"], long["everywhere"]) == (False, True, True)
    assert max(short["difference"], long["difference"]) < 1e-4


def test_draws_are_the_same_on_eight_devices_and_stay_there(eight):
    assert eight["drawn shapes"] == [[DIVIDED // 8, 21]] * 8
    assert eight["drawn same"]
    assert eight["drawn padding"] == 0
    assert eight["drawn y"] < 1e-5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("several axes", r"ValueError: the mesh has 2 axes, \('a', 'b'\): say over which"),
        ("unknown axis", r"ValueError: axis must name axes of the mesh, which are \('n',\), each once: got 'rows'"),
        ("an axis twice", r"ValueError: axis must name axes .* got \('a', 'a'\)"),
        ("no mesh", "ValueError: mesh must be a jax.sharding.Mesh, .* got int"),
        ("too few rows", "ValueError: a device needs at least one measurement: got 8 devices for n=7"),
        ("too few rows to draw", "ValueError: a device needs at least one measurement: got 8 devices for n=7"),
        ("y elsewhere", "ValueError: A and y must be split over the same devices in the same way"),
        ("y too short", "ValueError: A and y must have the same number of measurements: got 48 in A"),
        ("y beside rows too short", "ValueError: A and y must have the same number .* got 48 in A and 45 in y"),
        ("only y split", "ValueError: y is split over devices, but A is not"),
        ("split across matrices", "ValueError: A must be split over devices along its first axis only"),
        ("split twice", "ValueError: the problem is split over 8 devices already"),
        ("mesh and split", "ValueError: A is split over devices already: leave out mesh"),
        ("nan", "ValueError: A must be finite: 1 of its 1728 entries"),
        ("nan in y", "ValueError: y must be finite: 1 of its 48 entries"),
        ("zero A", "ValueError: A is all zero"),
        ("zero y", "ValueError: y is all zero"),
        ("asymmetric", "AsymmetricMeasurements: A is not symmetric"),
        ("live_n too small", r"ValueError: live_n .* at least the rows of A that are not zero, 45, .* got 44"),
        ("live_n too large", r"ValueError: live_n .* at most all of them, 48: got 49"),
        ("weights too short", r"ValueError: weights must have one entry per row of A, 48 .* got shape \(44,\)"),
        ("negative weights", "ValueError: weights must be finite and not negative"),
        ("weights, padding between", "ValueError: the zero rows that pad A are not all at its end"),
    ],
)
def test_what_cannot_be_split_is_refused_with_a_reason(eight, name, words):
    assert re.match(words, eight["errors"][name]), eight["errors"][name]


def test_every_wrong_call_was_looked_at(eight):
    assert "nothing" not in eight["errors"].values()


def test_two_processes_with_half_of_the_rows_each_recover_what_one_recovers(eight, processes):
    for found in processes:
        assert (found["shape"], found["own"]) == ([DIVIDED, D, D], [[DIVIDED // 2, 21]])
        assert "non-addressable" in found["whole"]  # nobody could have pulled A to the host
        _assert_same_recovery(found["answer"], eight["plain"], 2)
        _assert_same_recovery(found["weighted"], eight["plain init"], 2)
    assert processes[0]["answer"] == processes[1]["answer"]
    assert processes[0]["weighted"] == processes[1]["weighted"]


def test_two_processes_draw_rows_of_their_own(processes):
    whole = draw_instance(jax.random.key(7), n=N, d=D, r=2).operator.rows
    for found in processes:
        assert (found["drawn"], found["problem"]) == ([N, 23, 21], N)
    rows = np.concatenate([found["drawn rows"] for found in processes])
    # The same bits make them, but how the inverse error function is rounded depends on what it is compiled together with.
    np.testing.assert_allclose(rows[:N], whole, rtol=1e-6)
    assert not rows[N:].any()


def test_what_is_wrong_with_one_process_rows_is_said_by_both(processes):
    for found in processes:
        assert found["asymmetric"].startswith("AsymmetricMeasurements: A is not symmetric")


def test_one_device_is_a_mesh_too():
    mesh = Mesh(np.array(jax.devices()[:1]), ("n",))
    rows, y = np.eye(5, 6), np.arange(1.0, 6)
    problem = Problem.from_arrays(rows, y, mesh=mesh)
    assert (problem.n, problem.operator.n, sharded.devices(problem.sharding)) == (5, 5, 1)
    np.testing.assert_array_equal(problem.operator.rows, rows)
    assert Problem.from_arrays(rows, y).sharding is None


def test_zero_rows_of_a_problem_on_one_device_do_not_count_if_told():
    rows, y = np.concatenate([np.eye(5, 6), np.zeros((2, 6))]), np.array([1.0, 2, 3, 4, 5, 0, 0])
    assert (Problem.from_arrays(rows, y).n, Problem.from_arrays(rows, y, live_n=5).n) == (7, 5)
    with pytest.raises(ValueError, match=r"at least the rows of A that are not zero, 5, .* got 4"):
        Problem.from_arrays(rows, y, live_n=4)


def test_a_split_along_two_axes_of_a_mesh_is_one_split():
    mesh = Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("a", "b"))
    both = sharded.row_sharding(mesh, ("a", "b"))
    assert both.spec == PartitionSpec(("a", "b"))
    array = jax.device_put(jnp.ones((2, 3)), NamedSharding(mesh, PartitionSpec(("a", "b"))))
    found = sharded.spread("A", array)
    assert found is not None
    assert found.is_equivalent_to(both, 2)


def test_a_saved_recovery_keeps_the_number_of_devices(tmp_path):
    arguments = {
        "status": Status.CONVERGED,
        "residual": 0.0,
        "sigma_estimate": 0.0,
        "predicted_error": 0.0,
        "columns": 0,
        "steps": 1,
    }
    split = Recovery(U=np.ones((3, 1)), method="path", dtype="float64", devices=8, **arguments)
    assert Recovery.load(split.save(tmp_path / "split")).devices == 8
