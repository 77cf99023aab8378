"""Claims about adversarial training: its optimum in every norm, its certificate against every attack, and what it is good for."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pruneft.relu import Network
from pruneft.relu.adversarial import corners, fgsm, pgd, solve, train_pgd, train_plain
from pruneft.relu.neurons import neurons
from pruneft.status import Status
from tests.claims.trials import refuted
from tests.relu.adversarial.instances import conic_optimum, instance

pytestmark = pytest.mark.claims

_EPS, _SEEDS = 0.1, 8


def _network(program, U):
    u, alpha = neurons(program.plain, U)
    return Network(u=u, alpha=alpha, linear=jnp.zeros(u.shape[0]))


def _loss_at(program, network, X):
    return program.plain.losses.value(network(X), program.plain.y, program.plain.weights)


@pytest.fixture(scope="module", params=[("bce", "inf"), ("hinge", "2"), ("squared", "1")], ids="-".join)
def solved(request):
    program = instance(request.param[0], eps=_EPS, norm=request.param[1])
    return program, solve(program, tol=1e-6)


def test_bounds_enclose_the_conic_optimum_in_every_norm(solved):
    program, solution = solved
    optimum = conic_optimum(program)
    slack = 1e-7 * abs(optimum)  # of the conic solver
    assert int(solution.status) == Status.CONVERGED
    assert float(solution.dual) <= optimum + slack
    assert float(solution.objective) >= optimum - slack
    np.testing.assert_allclose(float(solution.objective), optimum, rtol=1e-5)


def test_the_worst_attack_reaches_the_certified_loss_and_none_exceeds_it(solved):
    """Near a sample the network is linear, so that one step along the gradient is the worst attack in its norm."""
    program, solution = solved
    plain, network, certified = program.plain, _network(program, solution.U), float(program.loss(solution.U))
    labels = plain.losses.labels
    one = fgsm(network, plain.X, plain.y, eps=_EPS, norm=program.norm, labels=labels)
    np.testing.assert_allclose(float(_loss_at(program, network, one)), certified, rtol=1e-6)
    many = pgd(network, plain.X, plain.y, jax.random.key(0), eps=_EPS, norm=program.norm, labels=labels)
    assert float(_loss_at(program, network, many)) <= certified * (1 + 1e-9)


@functools.cache
def _hinge(norm):
    """Status, certified loss and loss at the worst corner, of instances of different data and teachers solved in one batch.

    A function of the share of the radius: 0 is the plain program over the same patterns.
    """
    drawn = [instance("hinge", eps=_EPS, norm=norm, seed=seed) for seed in range(_SEEDS)]
    leaves, structure = zip(*(jax.tree.flatten(program) for program in drawn), strict=True)
    stacked = [jnp.stack(parts) for parts in zip(*leaves, strict=True)]

    def one(leaves, share):
        program = jax.tree.unflatten(structure[0], leaves)
        program = dataclasses.replace(program, radius=share * program.radius)
        solution = solve(program, tol=1e-4)
        network = _network(program, solution.U)
        at_corner = _loss_at(program, network, corners(network, program.plain.X, program.plain.y, eps=_EPS))
        return solution.status, program.loss(solution.U), at_corner

    evaluated = jax.jit(jax.vmap(one, in_axes=(0, None)))
    return functools.cache(lambda share: [np.asarray(part) for part in evaluated(stacked, share)])


def test_certificates_hold_at_every_corner_of_the_box():
    status, certified, at_corner = _hinge("inf")(1.0)
    held = int(np.sum((status == Status.CONVERGED) & (at_corner <= certified * (1 + 1e-9))))
    assert held == _SEEDS


def test_certificates_of_another_dual_norm_do_not():
    """The broken twin: the largest entry where the sum of all belongs, as if the box were an l_1 ball."""
    _, certified, at_corner = _hinge("1")(1.0)
    held = int(np.sum(at_corner <= certified * (1 + 1e-9)))
    assert refuted(held, _SEEDS, 0.99)


def test_robust_programs_lose_less_at_the_corners_than_plain_ones_over_the_same_patterns():
    (_, _, robust), (_, _, plain) = (_hinge("inf")(share) for share in (1.0, 0.0))
    lower = int(np.sum(robust < plain))
    assert not refuted(lower, _SEEDS, 0.8), f"{lower} of {_SEEDS}"
    # The broken twin: a program without radius does not lose less than itself.
    assert refuted(int(np.sum(plain < plain)), _SEEDS, 0.8)


def test_training_against_pgd_lowers_the_loss_under_pgd():
    program = instance("hinge", n=30)
    X, y = program.plain.X, program.plain.y
    settings = {"loss": "hinge", "lam": 0.005, "neurons": 16, "seeds": tuple(range(8)), "steps": 200, "bias": True}

    @jax.jit
    def attacked(networks):
        def one(network):
            moved = pgd(network, X, y, jax.random.key(1), eps=0.3, steps=20)
            return jnp.mean(jax.nn.relu(1 - y * network(moved)))

        return jax.vmap(one)(networks)

    plain, against = train_plain(X, y, **settings), train_pgd(X, y, eps=0.3, **settings)
    lower = int(np.sum(attacked(against) < attacked(plain)))
    assert not refuted(lower, 8, 0.8), f"{lower} of 8"
    again = train_pgd(X, y, eps=0.0, **settings)  # the broken twin: attacks of no size
    assert refuted(int(np.sum(attacked(again) < 0.99 * attacked(plain))), 8, 0.8)
