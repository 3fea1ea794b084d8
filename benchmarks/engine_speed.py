"""How fast an outer step is, beside the same machine's limit and the straightforward implementation.

    python -m benchmarks.engine_speed [--threads 2] [--rounds 5] [--device cpu]
    python -m benchmarks.engine_speed --ratio      # one student only: engine and reference in turn, best and median
    python -m benchmarks.engine_speed --scaling

The limit is the time of the outer step's matrix products alone, each shape timed in the same run; operands
stream from a tape as in the engine, so that neither side finds them in the caches. Every figure is the
median of several rounds in which the sides take turns.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import autograd_reference
from minari_distill.config import DistillConfig, make_config
from minari_distill.inner.loop import NARROW
from minari_distill.networks import Architecture
from minari_distill.outer import OuterLoop, Problem

OBS_DIM, ACT_DIM = 11, 3  # Hopper


def make_loop(config: DistillConfig, device: torch.device) -> OuterLoop:
    """An outer loop of Hopper's sizes on random numbers."""
    g = torch.Generator().manual_seed(0)
    obs = torch.randn(20_000, OBS_DIM, generator=g)
    act = torch.tanh(torch.randn(20_000, ACT_DIM, generator=g))
    one, unbounded = torch.ones(20_000, 1), torch.full((OBS_DIM,), float("inf"))
    problem = Problem(obs, act, one, obs[:100], act[:100], one[:100], -unbounded, unbounded)
    n = config.n_syn
    return OuterLoop(problem, obs[:n].clone(), act[:n].clone(), config, device)


def products(config: DistillConfig) -> list[tuple[int, tuple[int, int, int]]]:
    """(how often, (rows, inner, columns)) of every matrix product in one outer step, K at once.

    The first layer's backward product is not needed for the gradient, and its tangent input is zero.
    """
    arch = Architecture.of(config.inner_recipe, OBS_DIM, ACT_DIM)
    n, T, W = config.n_syn, config.inner_steps, config.window_steps
    counts = []
    for l, (i, o) in enumerate(arch.shapes):
        first = l == 0
        # The window ends anywhere in [W, T]; students of a pool take up where they were.
        untaped = (T - W) / 2 if config.window and not config.student_pool else 0
        steps = untaped + W
        forward = (n, i, o)
        weights = (i, n, o)
        back = (n, o, i)
        counts += [
            (round(steps + W * (1 if first else 2)), forward),
            (round(steps + W * (1 if first else 2)), weights),
            (round((0 if first else steps) + W * 2), back),
        ]
        B = config.outer_batch
        counts += [(1, (B, i, o)), (1, (i, B, o)), *([] if first else [(1, (B, o, i))])]
    return counts


def limit_seconds(config: DistillConfig, device: torch.device) -> tuple[float, float]:
    """(seconds, operations) of the matrix products of one outer step."""
    seconds = operations = 0.0
    K = config.n_students
    where: dict = {"device": device, "dtype": NARROW[config.precision]}
    for count, (m, k, n) in products(config):
        copies = max(2, min(50, int(2e8 / (4 * K * (m * k + k * n + m * n)))))  # about 200 MB: no cache
        a, b = torch.zeros(copies, K, m, k, **where), torch.zeros(copies, K, k, n, **where)
        a.normal_()
        b.normal_()
        out = torch.empty(copies, K, m, n, **where)

        def one_round(a=a, b=b, out=out, copies=copies) -> None:
            for c in range(copies):
                torch.bmm(a[c], b[c], out=out[c])

        seconds += timed(captured(one_round, device), device) / copies * count
        operations += 2.0 * m * k * n * K * count
    return seconds, operations


def captured(function: Callable[[], None], device: torch.device) -> Callable[[], None]:
    """On a GPU, the function as a CUDA graph, as the engine's steps are: without the host's time for each launch."""
    if device.type != "cuda":
        return function
    function()
    _wait(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(device)):
        function()
    return graph.replay


def timed(
    function: Callable[[], None], device: torch.device, rounds: int = 3, *, warm_up: bool = True
) -> float:
    """Median seconds of one call."""
    if warm_up:
        function()
    values = []
    for _ in range(rounds):
        _wait(device)
        started = time.perf_counter()
        function()
        _wait(device)
        values.append(time.perf_counter() - started)
    return statistics.median(values)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def reference_step(config: DistillConfig, device: torch.device) -> Callable[[], None]:
    """One outer step of the straightforward implementation: fresh student, meta-gradient, clip, SGD."""
    g = torch.Generator().manual_seed(0)
    obs = torch.randn(20_000, OBS_DIM, generator=g).to(device)
    act = torch.tanh(torch.randn(20_000, ACT_DIM, generator=g)).to(device)
    S = torch.nn.Parameter(obs[: config.n_syn].clone())
    A = torch.nn.Parameter(act[: config.n_syn].clone())
    optimizer = torch.optim.SGD([S, A], 0.1, momentum=0.9)
    weight = torch.ones(config.outer_batch, 1, device=device)

    def step() -> None:
        S.grad, A.grad = torch.zeros_like(S), torch.zeros_like(A)
        for _ in range(config.n_students):
            student = autograd_reference.make_student(OBS_DIM, ACT_DIM, width=config.hidden_width).to(device)
            indices = torch.randint(len(obs), (config.outer_batch,), device=device)
            _, dS, dA = autograd_reference.meta_gradient(
                student,
                S,
                A,
                obs[indices],
                act[indices],
                weight,
                lr=config.inner_lr,
                steps=config.inner_steps,
            )
            S.grad += dS / config.n_students
            A.grad += dA / config.n_students
        torch.nn.utils.clip_grad_norm_([S, A], 2.0)
        optimizer.step()

    return step


def compare(config: DistillConfig, device: torch.device, *, reference: bool, rounds: int) -> str:
    """One row of the table."""
    loop = make_loop(config, device)
    other = reference_step(config, device) if reference else None
    loop.step()
    if device.type == "cuda":  # warm-up calls, then the capture
        loop.step()
        loop.step()
    if other:
        other()
    mine, theirs, limits = [], [], []
    operations = 0.0
    for _ in range(rounds):
        mine.append(timed(loop.step, device, 1))
        if other:
            theirs.append(timed(other, device, 1))
        seconds, operations = limit_seconds(config, device)
        limits.append(seconds)
    t, limit = statistics.median(mine), statistics.median(limits)
    ratio = statistics.median(b / a for a, b in zip(mine, theirs, strict=True)) if other else float("nan")
    share = statistics.median(l / a for a, l in zip(mine, limits, strict=True))
    return (
        f"| {config.precision} | {config.n_students} | {config.n_syn} | {config.inner_steps} | "
        f"{config.window_steps} | {config.hidden_width} | {1000 * t:.0f} | "
        f"{operations / t / 1e9:.0f} | {operations / limit / 1e9:.0f} | {share:.2f} | "
        f"{f'{1000 * statistics.median(theirs):.0f} | {ratio:.1f}' if other else '– | –'} |"
    )


def ratio(name: str, config: DistillConfig, device: torch.device, *, reference: bool, rounds: int) -> str:
    """One row: engine and reference take turns; the best and the median of their times."""
    sides = {"engine": make_loop(config, device).step}
    if reference:
        sides["reference"] = reference_step(config, device)
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for step in sides.values():
        for _ in range(1 if device.type == "cpu" else 3):  # the third is where a GPU's graph is captured
            step()
    for _ in range(rounds):
        for side, step in sides.items():
            seconds[side].append(timed(step, device, 1, warm_up=False))
    summaries = {side: (min(t), statistics.median(t)) for side, t in seconds.items()}

    def cells(pair: tuple[float, float], scale: float, digits: int) -> str:
        return " | ".join(f"{scale * x:.{digits}f}" for x in pair)

    engine = summaries["engine"]
    products, _ = limit_seconds(config, device)
    against = "– | – | – | –"
    if reference:
        other = summaries["reference"]
        faster = (other[0] / engine[0], other[1] / engine[1])
        against = f"{cells(other, 1000, 0)} | {cells(faster, 1, 2)}"
    return (
        f"| {name} | {config.precision} | {cells(engine, 1000, 0)} | {against} | "
        f"{1000 * products:.0f} | {products / engine[1]:.2f} |"
    )


RATIO_HEADER = (
    "| work | precision | ms a step, best | median | reference, best | median | times faster, best | median | "
    "products alone, ms | share of limit |\n|" + "---|" * 10
)

HEADER = (
    "| products | K | n_syn | T | W | width | ms a step | GFLOP/s | products alone, GFLOP/s | share of limit | "
    "reference, ms | times faster |\n|" + "---|" * 12
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ratio", action="store_true", help="one student: engine and reference in turn")
    parser.add_argument("--scaling", action="store_true", help="n_syn, T, K and width, each alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"{args.threads} CPU threads"
    paper = make_config("paper")
    header = RATIO_HEADER if args.ratio else HEADER
    print(f"{where}, torch {torch.__version__}\n\n{header}", flush=True)
    if args.ratio:
        pool = make_config(
            inner_optimizer="adam", inner_eps=1e-6, window=30, student_pool=16, meta_gradient="unroll"
        )
        for name, config in (("paper: SGD, T = W = 100", paper), ("pool of Adam students, W = 30", pool)):
            for precision in ("float32", "bfloat16"):
                config = config.replace(precision=precision)
                print(ratio(name, config, device, reference=config.preset == "paper", rounds=args.rounds))
        return
    if not args.scaling:
        students = (1, 16) if device.type == "cuda" else (1, 4)
        for precision, K in itertools.product(("float32", "bfloat16"), students):
            config = paper.replace(precision=precision, n_students=K)
            print(compare(config, device, reference=K == 1, rounds=args.rounds), flush=True)
        return
    base = {"window": 30, "precision": "float32"}
    grid = [
        *({"n_syn": n} for n in (16, 64, 256, 1024, 4096)),
        *({"inner_steps": T, "window": T} for T in (10, 30, 100, 300, 1000)),
        *({"n_students": K} for K in (1, 2, 4, 8, 16)),
        *({"hidden_width": w} for w in (64, 128, 256, 512)),
    ]
    for changes in grid:
        config = paper.replace(**base | changes)
        print(compare(config, device, reference=False, rounds=max(1, args.rounds // 2)), flush=True)


if __name__ == "__main__":
    main()
