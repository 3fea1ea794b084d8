"""The story on the embedded dataset: distil, resume, refuse, and never lose anything."""

import dataclasses
import gc
import json
import math
import signal
import subprocess
import sys
import time
import weakref

import minari
import numpy as np
import pytest
import torch

import minari_distill as md
from minari_distill.errors import ConfigError, DatasetError, Diverged, TeacherError
from minari_distill.how_long import how_long, seconds_of_a_step
from minari_distill.networks import Architecture, initialize
from minari_distill.outer import OuterLoop
from minari_distill.pose import pose
from minari_distill.progress import silent
from minari_distill.runs import began
from minari_distill.teachers import NetworkTeacher
from minari_distill.transitions import EMBEDDED_ID
from minari_distill.units import Units

TINY = {
    "n_syn": 16,
    "hidden_width": 32,
    "hidden_layers": 2,
    "inner_steps": 20,
    "window": 5,
    "outer_batch": 64,
    "outer_steps": 12,
    "clone_steps": 20,
    "validate_every": 4,
    "checkpoint_every": 4,
    "precision": "float32",
    "inner_lr": 1e-2,
    "student_pool": 2,
}


@pytest.fixture(scope="module")
def teacher():
    actor = Architecture(11, 3, (16,), "tanh")
    critic = Architecture(14, 1, (16,), "linear")
    g = torch.Generator().manual_seed(0)
    return NetworkTeacher(
        actor=initialize(actor, 1, generator=g),
        actor_arch=actor,
        critic=initialize(critic, 2, generator=g),
        critic_arch=critic,
        reduction="min",
        units=Units(torch.zeros(11), torch.ones(11), -torch.ones(3), torch.ones(3)),
        metadata={"method": "random, for tests"},
    )


def run(teacher, **changes):
    """A tiny distillation of the embedded dataset."""
    return md.distill(EMBEDDED_ID, **{"teacher": teacher, "report": silent} | TINY | changes)


def test_a_synset_is_distilled_saved_and_read_by_minari_alone(teacher):
    """Story: the held-out loss falls, actions are legal, Minari reads n_syn one-step episodes."""
    synset = run(teacher, outer_steps=60)
    history = [r["held_out_loss"] for r in synset.metadata["history"]]
    assert min(history) == synset.metadata["held_out_loss"] < 0.95 * history[0]
    assert len(synset) == 16 and np.abs(synset.actions).max() <= 1
    assert synset.config.n_syn == 16 and synset.recipe == synset.config.recipe
    synset.save("me/hopper-v0")
    dataset = minari.load_dataset("me/hopper-v0")
    assert dataset.total_episodes == 16
    assert dataset.recover_environment().spec.id == "Hopper-v5"
    policy = md.behavior_clone(md.load_synset("me/hopper-v0"), n_policies=2)
    score = md.evaluate(policy.members(), synset, n_episodes=2)
    assert score.returns.shape == (2, 2) and score.normalized.shape == (2, 2)


def test_same_seed_same_synset(teacher):
    """Two runs agree in every bit; another seed does not."""
    a, b, c = run(teacher), run(teacher), run(teacher, seed=1)
    assert np.array_equal(a.observations, b.observations) and np.array_equal(a.actions, b.actions)
    assert not np.array_equal(a.observations, c.observations)


@pytest.mark.parametrize("stop_after", [1, 6, 11])
def test_resume_equals_unbroken(teacher, tmp_path, stop_after):
    """A run stopped after any step and resumed gives the bits, the history and the best step of an unbroken one."""
    unbroken = run(teacher)
    asked = iter(range(100))
    stopped = run(teacher, run_dir=tmp_path / "run", should_stop=lambda: next(asked) >= stop_after)
    assert stopped.metadata["outer_steps_done"] == stop_after
    resumed = run(teacher, run_dir=tmp_path / "run", resume=True)
    assert np.array_equal(resumed.observations, unbroken.observations)
    assert np.array_equal(resumed.actions, unbroken.actions)
    assert resumed.metadata["history"] == unbroken.metadata["history"]
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"run.json", "checkpoint.safetensors", "lock"}


def test_a_run_that_gave_infinite_width_up_goes_on_by_the_same_command(teacher, tmp_path, minari_store):
    """Without a metric there is none, and `began` knows the synset by the settings that were asked for."""
    asked = {"preset": "infinite", "objective": "dbc", "metric_lr": 0.0, "n_syn": 16, "outer_steps": 2}
    folder = tmp_path / "run"
    synset = md.distill(EMBEDDED_ID, report=silent, run_dir=folder, **asked)
    assert not synset.recipe.infinite and began(folder, synset.config, synset.source)
    again = md.distill(EMBEDDED_ID, report=silent, run_dir=folder, resume=True, **asked)
    assert np.array_equal(again.observations, synset.observations)


def test_a_loop_that_nobody_uses_takes_no_memory(teacher):
    """At once, without the collector: its records may be gigabytes, and the next loop is made beside them."""
    data = md.load_transitions(EMBEDDED_ID)
    config = md.make_config(**TINY)
    posed = pose(data, teacher, config)
    gc.disable()
    try:
        loop = OuterLoop(posed.problem, posed.S, posed.A, posed.config, torch.device("cpu"))
        loop.step()
        gone = weakref.ref(loop)
        del loop
        assert gone() is None
    finally:
        gc.enable()


def test_the_estimate_counts_validations(monkeypatch):
    """N steps and 1 + ⌈N / validate_every⌉ validations, each as long as it was measured."""
    monkeypatch.setattr(sys.modules[how_long.__module__], "seconds_of_a_step", lambda *_: (0.1, 5.0))
    config = md.make_config(**TINY | {"outer_steps": 101, "validate_every": 10})
    text = how_long(md.load_transitions(EMBEDDED_ID), config, learning=False)
    assert "distillation about 70 s" in text  # 10.1 + 12 · 5


def test_the_time_that_a_run_took_is_kept_with_it(teacher, tmp_path):
    """Also that of the last stretch, by the checkpoint alone."""
    done = run(
        teacher, run_dir=tmp_path / "run", outer_steps=5, should_stop=lambda: bool(time.sleep(0.06))
    ).metadata["seconds"]["distillation"]
    again = run(teacher, run_dir=tmp_path / "run", outer_steps=5, resume=True)
    assert again.metadata["seconds"]["distillation"] == done >= 0.2


@pytest.mark.parametrize(
    ("initializer", "objective"), [("random", "dbc"), ("relabelled", "pbc"), ("kmeans", "pbc")]
)
def test_zero_outer_steps_give_the_initial_pairs(teacher, initializer, objective):
    """Baselines: real states, with their own actions ("random") or the teacher's."""
    synset = run(teacher, outer_steps=0, initializer=initializer, objective=objective)
    data = md.load_transitions(EMBEDDED_ID)
    rows = [
        int(np.argmin(np.abs(data.observations - s).max(1))) for s in synset.observations
    ]  # back from normalised numbers: equal up to rounding
    np.testing.assert_allclose(synset.observations, data.observations[rows], rtol=1e-4, atol=1e-4)
    expected = (
        data.actions[rows]
        if initializer == "random"
        else teacher.policy(torch.as_tensor(data.observations[rows])).numpy()
    )
    np.testing.assert_allclose(synset.actions, expected, atol=1e-5)


def test_dbc_needs_no_teacher():
    """Data-based BC runs without one, and says so in its metadata."""
    synset = md.distill(EMBEDDED_ID, objective="dbc", initializer="random", report=silent, **TINY)
    assert synset.metadata["teacher"] is None


@pytest.mark.parametrize(
    "changes", [{"holdout_fraction": 0.6}, {"q_power": 0.0}, {"preset": "quick", "q_scale": 0.02}]
)
def test_settings_of_older_synsets_are_read(changes):
    """What is refused of a run today is no damage of a synset that was made with it."""
    synset = md.load_synset("gallery/hopper-medium-replay-v0")
    dataclasses.replace(synset, config=md.make_config(**changes)).save("me/old-v0")
    assert md.load_synset("me/old-v0").config == md.make_config(**changes)


def test_a_teacher_that_nobody_asks_is_no_provenance(teacher):
    """The run says that it changes nothing, and the synset does not name it."""
    records = []
    synset = run(teacher, objective="dbc", outer_steps=1, report=records.append)
    assert "objective=dbc asks no teacher" in records[0].text
    assert synset.metadata["teacher"] is None


def test_actions_beyond_their_bounds_are_clipped_and_told_of():
    """The pairs' own actions are legal, so that what lies beyond cannot be matched."""
    data, told = md.load_transitions(EMBEDDED_ID), []
    data = dataclasses.replace(data, actions=3 * data.actions)
    config = md.make_config(**TINY, objective="dbc")
    assert pose(data, None, config, told.append).problem.target.abs().max() == 1
    assert "of the dataset's actions lie outside of the bounds" in told[0]


def test_a_run_dir_in_the_home_folder(teacher, tmp_path, monkeypatch):
    """~ is the home folder, as everywhere else."""
    monkeypatch.setenv("HOME", str(tmp_path))
    run(teacher, outer_steps=1, run_dir="~/run")
    assert (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("record", ["[]", "{}", "7"])
def test_a_record_that_is_none(teacher, tmp_path, record):
    """Valid JSON of another shape is refused as a damaged file is."""
    (tmp_path / "run.json").write_text(record)
    with pytest.raises(ConfigError, match=r"run.json' cannot be read \(it is no record of a run\)"):
        run(teacher, run_dir=tmp_path, resume=True)


@pytest.mark.parametrize("at", ["file", "file/below"])
def test_a_run_dir_that_can_be_none(teacher, tmp_path, at):
    """A file, or what would lie below one."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept in .* Give a run_dir that is a folder"):
        run(teacher, run_dir=tmp_path / at)


def test_datasets_are_joined(teacher):
    """A list of datasets is one dataset, and both ids are recorded."""
    synset = md.distill(
        [EMBEDDED_ID, EMBEDDED_ID], teacher=teacher, report=silent, **TINY | {"outer_steps": 1}
    )
    assert synset.source.dataset_ids == (EMBEDDED_ID, EMBEDDED_ID)


def test_the_run_says_first_how_long_it_will_take(teacher):
    """A message with an estimate comes before any progress, and names a way out when it is long."""
    records = []
    run(teacher, report=records.append, outer_steps=2)
    assert records[0].stage == "message" and "distillation about" in records[0].text
    data = md.load_transitions(EMBEDDED_ID)
    assert min(seconds_of_a_step(md.make_config(**TINY), 11, 3)) > 0
    text = how_long(data, md.make_config(**TINY | {"outer_steps": 10**8}), learning=False)
    assert "choose outer_steps=" in text
    long = TINY | {"teacher_steps": 10**9}
    text = how_long(data, md.make_config(**long | {"teacher_method": "cal_ql"}), learning=True)
    assert "teacher (cal_ql)" in text and "--set teacher_method=filtered_bc" in text
    text = how_long(data, md.make_config(**long | {"teacher_method": "filtered_bc"}), learning=True)
    assert "teacher (filtered_bc)" in text and "--set teacher_steps=5000" in text


BAD = [
    ({"n_syn": 0}, ConfigError, "n_syn=0 must be at least 1"),
    ({"n_syn": 10**6}, DatasetError, r"n_syn=1000000, but .* has 45813 transitions.*Give n_syn of at most"),
    ({"n_sin": 3}, ConfigError, "Unknown setting 'n_sin'. Did you mean 'n_syn'?"),
    ({"objective": "pbbc"}, ConfigError, "Did you mean 'pbc'?"),
    ({"preset": "fast"}, ConfigError, "preset='fast' is unknown.*default, quick, infinite, paper"),
    ({"window": 1000}, ConfigError, "window=1000 must lie between 0 .* and inner_steps=20"),
    ({"holdout_fraction": 0.6}, ConfigError, "must be at most 0.5"),
    ({"top_fraction": 1.5}, ConfigError, "top_fraction=1.5 are shares"),
    ({"q_power": math.nan}, ConfigError, "q_power=nan must be at least 0"),
    ({"q_scale": -1.0}, ConfigError, "q_scale=-1.0 must be at least 0"),
    ({"outer_momentum": 3.0}, ConfigError, "outer_momentum=3.0 must be at least 0 and below 1"),
    ({"cql_alpha": math.inf}, ConfigError, "cql_alpha=inf must be at least 0 and finite"),
    ({"config": {"n_syn": 4}}, ConfigError, "config is a dict; expected a DistillConfig"),
    ({"config": {}}, ConfigError, "config is a dict"),
    ({"config": md.make_config("quick"), "preset": "paper"}, ConfigError, "leave one of them out"),
    ({"inner_betas": [0.9]}, ConfigError, "inner_betas=.* must be two numbers"),
    ({"outer_betas": (0.9, 1.0)}, ConfigError, "outer_betas=.* from 0 to below 1"),
    ({"student_length": math.inf}, ConfigError, "student_length=inf must be positive and finite"),
    ({"target_rate": math.nan}, ConfigError, "target_rate=nan is τ"),
    ({"device": "meta"}, ConfigError, "device that this package does not run on"),
    ({"inner_lr": -1.0}, ConfigError, "lr=-1.0 must be positive"),
    ({"device": "tpu9"}, ConfigError, "Give 'auto', 'cpu' or 'cuda'"),
    ({"teacher": "nowhere.safetensors"}, TeacherError, "does not exist"),
    ({"resume": True}, ConfigError, "needs the run_dir"),
]


@pytest.mark.parametrize(("changes", "kind", "message"), BAD, ids=[str(next(iter(b[0]))) for b in BAD])
def test_bad_settings_are_one_sentence(teacher, changes, kind, message):
    """Each names what was given and what to do."""
    with pytest.raises(kind, match=message) as error:
        run(**{"teacher": teacher} | changes)
    assert "\n" not in str(error.value)


def test_a_teacher_of_another_environment_is_refused():
    """Both dimensions are named."""
    other = md.Teacher.from_callable(lambda obs: obs, obs_dim=4, act_dim=4)
    with pytest.raises(TeacherError, match="maps 4 observation numbers to 4 action numbers.*has 11 and 3"):
        run(other, objective="pbc")


def test_numbers_of_numpy_are_numbers(teacher, tmp_path):
    """Settings and seeds that NumPy made give the synset of Python's own, and are kept in run.json."""
    theirs = run(
        teacher, n_syn=np.int64(8), inner_lr=np.float64(0.1), seed=np.int64(3), run_dir=tmp_path / "run"
    )
    ours = run(teacher, n_syn=8, inner_lr=0.1, seed=3)
    assert np.array_equal(theirs.observations, ours.observations) and theirs.config == ours.config
    (policy,) = (md.behavior_clone(theirs, seed=np.int64(1), steps=2),)
    md.evaluate(policy, theirs, n_episodes=1, seed=np.int64(1))


def test_a_run_goes_on_with_its_own_teacher_and_data_alone(teacher, tmp_path):
    """Another teacher, none, or other episodes under the same id are refused; the same teacher made anew is not."""

    def other(sign):
        return md.Teacher.from_callable(lambda obs: sign * 0.1 * obs[:, :3], obs_dim=11, act_dim=3)

    settings = {"objective": "pbc", "run_dir": tmp_path / "run"}
    run(other(-1), **settings, should_stop=lambda: True)
    with pytest.raises(ConfigError, match="that was given a teacher, and now another one is given"):
        run(other(1), **settings, resume=True)
    with pytest.raises(ConfigError, match="that was given a teacher, and now none is given"):
        run(None, **settings, resume=True)
    some = md.load_transitions(EMBEDDED_ID).select(range(9))
    with pytest.raises(ConfigError, match="45813 transitions in .* episodes.* not on .* in 9"):
        md.distill(some, teacher=other(-1), report=silent, **TINY | settings, resume=True)
    assert run(other(-1), **settings, resume=True).metadata["outer_steps_done"] == TINY["outer_steps"]


def test_few_unequal_episodes_leave_as_many_states_as_pairs_are_asked():
    """Two episodes of 50: one of them is held out, and 80 pairs are refused before anything is computed."""
    from tests.small_transitions import point_mass

    with pytest.raises(
        DatasetError, match="n_syn=80, .* 100 transitions, 50 of them held out. Give n_syn of at most 50"
    ):
        md.distill(point_mass(n_episodes=2, length=50), **TINY | {"n_syn": 80, "objective": "dbc"})


def test_a_run_without_finite_students_ends_in_one_sentence(teacher):
    """Not in a synset: its recipe's students are NaN."""
    with pytest.raises(Diverged, match="No pairs have a finite held-out loss.*lower inner_lr"):
        run(teacher, head="linear", inner_optimizer="sgd", inner_lr=1e20, student_pool=0, outer_steps=2)


def test_a_stopped_run_gives_the_best_of_all_its_steps(teacher, tmp_path):
    """Stopped between two validations, its last pairs are judged as well; the run itself goes on as if they were not."""
    asked = iter(range(100))
    settings = {"objective": "pbc", "initializer": "random", "outer_steps": 40, "validate_every": 40}
    folder = tmp_path / "run"
    stopped = run(teacher, **settings, run_dir=folder, should_stop=lambda: next(asked) >= 30)
    history = stopped.metadata["history"]
    assert (
        stopped.metadata["best_step"] == 30
        and stopped.metadata["held_out_loss"] < history[0]["held_out_loss"]
    )
    resumed, unbroken = run(teacher, **settings, run_dir=folder, resume=True), run(teacher, **settings)
    assert np.array_equal(resumed.observations, unbroken.observations)
    assert resumed.metadata["history"] == unbroken.metadata["history"]


def test_run_folders_are_never_mixed(teacher, tmp_path):
    """A folder in use, one that holds a run, and one that holds another run are refused, each with the repair."""
    folder = tmp_path / "run"
    run(teacher, run_dir=folder)
    with pytest.raises(ConfigError, match="already holds a run. Go on with it by resume=True"):
        run(teacher, run_dir=folder)
    with pytest.raises(ConfigError, match=r"holds a run with n_syn=16, not 8"):
        run(teacher, run_dir=folder, resume=True, n_syn=8)
    with pytest.raises(ConfigError, match="no run to resume"):
        run(teacher, run_dir=tmp_path / "none", resume=True)
    inside = []

    def second(progress):
        if progress.stage == "distil" and not inside:
            with pytest.raises(ConfigError, match="Another run is writing"):
                run(teacher, run_dir=tmp_path / "busy")
            inside.append(True)

    run(teacher, run_dir=tmp_path / "busy", report=second)
    assert inside
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({k: record[k] for k in ("config", "dataset_ids")}))
    with pytest.raises(ConfigError, match="holds a run of another release: .*total_steps"):
        run(teacher, run_dir=folder, resume=True)
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "checkpoint.safetensors").write_bytes(b"cut off")
    with pytest.raises(ConfigError, match="cannot be read.*Delete it"):
        run(teacher, run_dir=folder, resume=True)


def command(*arguments, **kwargs):
    return subprocess.Popen(
        [sys.executable, "-m", "minari_distill", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_command_loses_nothing(teacher, tmp_path, sign):
    """Ctrl-C and SIGTERM end cleanly with the best synset so far; after any of them --resume gives the unbroken bits."""
    md.save_teacher(teacher, tmp_path / "teacher.safetensors")
    settings = TINY | {"outer_steps": 400, "checkpoint_every": 10}
    flags = [x for k, v in settings.items() for x in ("--set", f"{k}={v}")]
    arguments = [
        "distill",
        EMBEDDED_ID,
        "--teacher",
        tmp_path / "teacher.safetensors",
        "-o",
        "me/x-v0",
        *flags,
    ]
    process = command(*arguments, "--run-dir", tmp_path / "run", cwd=tmp_path)
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(sign)
    _, errors = process.communicate(timeout=60)
    if sign == signal.SIGKILL:
        assert not (tmp_path / "datasets").exists()
        assert "me/x-v0" not in minari.list_local_datasets()
    else:
        assert process.returncode == 0, errors
        assert "Stopped after" in errors
        assert minari.load_dataset("me/x-v0").total_episodes == 16
    resumed = command(*arguments, "--run-dir", tmp_path / "run", "--resume", "--json", cwd=tmp_path)
    output, errors = resumed.communicate(timeout=120)
    assert resumed.returncode == 0, errors
    assert json.loads(output)["stopped"] is False
    unbroken = run(teacher, **settings)
    again = md.load_synset("me/x-v0")
    assert np.array_equal(again.observations, unbroken.observations)
    assert np.array_equal(again.actions, unbroken.actions)


def test_the_teachers_time_survives_an_interruption(tmp_path):
    """It is kept beside the teacher: what is resumed neither forgets nor counts it twice."""
    given = TINY | {"teacher": None, "teacher_steps": 200, "run_dir": tmp_path / "run"}
    told = tmp_path / "run" / "teacher-seconds.json"
    with pytest.raises(TeacherError, match="Stopped at step"):
        run(**given, should_stop=lambda: True)
    first = json.loads(told.read_text())
    synset = run(**given, resume=True)
    took = json.loads(told.read_text())
    assert took > first > 0 and synset.metadata["seconds"]["teacher"] == round(took, 1)
    assert run(**given, resume=True).metadata["seconds"]["teacher"] == round(took, 1)
    told.write_text("{")
    with pytest.raises(ConfigError, match="Delete it: it only tells"):
        run(**given, resume=True)


def test_one_pair(teacher):
    """A single pair from any start, its action the dataset's own or the teacher's."""
    for initializer in ("random", "relabelled"):
        assert len(run(teacher, n_syn=1, initializer=initializer, outer_steps=1)) == 1


def test_what_is_held_out_is_a_tenth():
    """Episodes of 1, 1, 1, 2 and 100 steps: whole small ones do not make a tenth, the end of the longest does."""
    from minari_distill.pose import _held_out
    from tests.small_transitions import point_mass

    t = point_mass(n_episodes=5, length=21)
    lengths = np.array([1, 1, 1, 2, 100])
    t = dataclasses.replace(t, episode_starts=np.cumsum(lengths) - lengths)
    for seed in range(12):
        held = _held_out(t, md.make_config(seed=seed), torch.Generator().manual_seed(seed))
        assert 5 <= held.sum() <= 10
